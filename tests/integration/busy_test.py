"""Domains that somebody works on, by real jobs of libvirt: a backup, a copy of a disk, a save. They are left alone, each with its
reason, and others are served meanwhile."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import bedpath

from vrtest import DaemonTestCase, Disk, Guest, built, main, wait_for
from vrtest.guest import MIB, NEW_MACHINE

DONE, SOME_FAILED, REFUSED = 0, 3, 5
JUNK = 48 * MIB
BACKED_UP, COPIED, FREE = "backed-up", "copied", "free"
REASONS = {BACKED_UP: ["job-active"], COPIED: ["block-job"], FREE: []}
FILL = f"dd if=/dev/zero of=/mnt/data/junk bs=1M count={JUNK // MIB}; sync; rm /mnt/data/junk; sync"

# For others to read, which nobody does: it lasts until it is aborted.
BACKUP = """
<domainbackup mode='pull'>
  <server transport='unix' socket='{directory}/nbd'/>
  <disks><disk name='{target}' backup='yes' type='file'><scratch file='{directory}/scratch'/></disk></disks>
</domainbackup>
"""


class Busy(DaemonTestCase):
    """The methods are one story and run in the order of their names."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guests = {
            name: Guest(
                cls.host, name, machine=NEW_MACHINE, agent=AGENT, memory_mib=256,
                disks=[Disk("data", format="qcow2", discard="unmap", size=256 * MIB)],
            )
            for name in REASONS
        }
        for guest in cls.guests.values():
            guest.start(wait=False)
        for guest in cls.guests.values():
            guest.wait_until_up()
            guest.run(FILL)
        backup = cls.space.path / "backup.xml"
        target = cls.guests[BACKED_UP].disk("data").target
        backup.write_text(BACKUP.format(directory=cls.space.path, target=target))
        cls.host.virsh("backup-begin", BACKED_UP, backup)
        # The mirror goes on after it is complete.
        cls.host.virsh("blockcopy", COPIED, target, "--dest", cls.space.path / "copy", "--transient-job")

    def trim(self, *names: str, status: int) -> dict[str, dict[str, Any]]:
        reply = self.reclaim.run("trim", *names)
        self.assertEqual(reply.status, status, str(reply))
        return {domain["name"]: domain for domain in reply.json["domains"]}

    def test_1_the_busy_are_left_alone_and_the_free_one_is_served(self) -> None:
        before = {name: guest.disk("data").allocation() for name, guest in self.guests.items()}
        domains = self.trim(*REASONS, status=SOME_FAILED)
        for name, reasons in REASONS.items():
            with self.subTest(name):
                # A backup may count as a block job, too.
                self.assertEqual(domains[name]["reasons"][:1], reasons, str(domains[name]))
                self.assertEqual(domains[name]["status"], "skipped" if reasons else "done")
                freed = before[name] - self.guests[name].disk("data").allocation()
                if reasons:
                    self.assertLessEqual(freed, 0)
                else:
                    self.assertGreater(freed, JUNK // 2)

    def test_2_by_itself_each_is_refused(self) -> None:
        for name in (BACKED_UP, COPIED):
            with self.subTest(name):
                self.assertEqual(self.trim(name, status=REFUSED)[name]["reasons"][:1], REASONS[name])

    def test_3_after_the_jobs_they_are_served(self) -> None:
        self.host.virsh("domjobabort", BACKED_UP)
        self.host.virsh("blockjob", COPIED, self.guests[COPIED].disk("data").target, "--abort")
        wait_for("the end of the jobs", self.nothing_is_in_the_way, seconds=60)
        domains = self.trim(BACKED_UP, COPIED, status=DONE)
        for name in (BACKED_UP, COPIED):
            self.assertGreater(domains[name]["freed_bytes"], JUNK // 2, name)

    def test_4_while_it_is_saved(self) -> None:
        """Into a pipe that nobody reads, so that the save lasts until it is aborted; the guest runs on then, as libvirt has it."""
        guest, pipe = self.guests[FREE], self.space.path / "pipe"
        guest.run(FILL)
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDWR)
        save = subprocess.Popen(
            ["virsh", "-q", "-c", self.host.uri, "save", FREE, str(pipe)], env=self.host.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        wait_for("the save to begin", lambda: "Unbounded" in self.host.virsh("domjobinfo", FREE, check=False).stdout, seconds=60)
        domain = self.trim(FREE, status=REFUSED)[FREE]
        self.assertEqual(domain["status"], "skipped", str(domain))
        self.assertTrue({"paused", "job-active"} & set(domain["reasons"]), str(domain))
        self.host.virsh("domjobabort", FREE)
        # Who writes into the pipe for libvirt would wait for ever.
        os.close(reader)
        self.assertNotEqual(save.wait(timeout=60), 0)
        wait_for("the guest to run on", lambda: self.host.state(FREE) == "running", seconds=60)
        self.assertGreater(self.trim(FREE, status=DONE)[FREE]["freed_bytes"], JUNK // 2)

    def test_5_saved_and_restored(self) -> None:
        guest = self.guests[FREE]
        guest.run(FILL)
        self.host.virsh("managedsave", FREE)
        before = guest.disk("data").allocation()
        self.assertEqual(self.trim(FREE, status=REFUSED)[FREE]["reasons"], ["not-running"])
        # Its memory goes by what is in the image now: nobody gives back what is free inside.
        reply = self.reclaim.run("sparsify", FREE)
        self.assertEqual((reply.status, guest.disk("data").allocation()), (REFUSED, before), str(reply))
        self.assertIn("managed-save", reply.stdout)
        self.host.virsh("start", FREE)
        wait_for("the agent of the restored guest", lambda: self.reclaim.run("agent", "status", FREE).status == DONE, seconds=60)
        self.assertGreater(self.trim(FREE, status=DONE)[FREE]["freed_bytes"], JUNK // 2)

    def nothing_is_in_the_way(self) -> bool:
        plan = self.reclaim.run("trim", "--dry-run").json["domains"]
        return all(domain["action"] == "trim" for domain in plan)


if __name__ == "__main__":
    bedpath.require_bed("libvirtd", "unshare")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    main(one_story=True)
