"""`sync --domain --freeze` with a real qemu-guest-agent, killed while the guest is frozen; and a libvirtd that is killed in the middle of a
copy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import bedpath

from vrtest import DaemonHost, Disk, Guest, Host, HostTestCase, VirtReclaim, built, main, wait_for
from vrtest.guest import QEMU_GA_PORT

MIB = 1 << 20
DOMAIN = "web"
DONE, SOME_FAILED, REFUSED = 0, 3, 5
START_QEMU_GA = f"""
set -e
vr-ports
mkdir -p /run/qemu-ga
qemu-ga -m virtio-serial -p /dev/virtio-ports/{QEMU_GA_PORT} -t /run/qemu-ga -f /run/qemu-ga/pid -d
dd if=/dev/urandom of=/mnt/one/data bs=1000000 count=40
sync
"""
FROZEN = "test -e /run/qemu-ga/qga.state.isfrozen"


class SyncFreeze(HostTestCase):
    """The methods are one story and run in the order of their names."""

    host: DaemonHost

    @classmethod
    def make_host(cls) -> Host:
        return DaemonHost(cls.space, lasting=True)

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(
            cls.host, DOMAIN, ports=(QEMU_GA_PORT,), guest_options=("--qemu-ga",), disks=[Disk("one", format="qcow2", size=128 * MIB)]
        )
        cls.guest.start()
        cls.guest.run(START_QEMU_GA)
        cls.copies = cls.space.path / "copies"
        cls.copies.mkdir()
        wait_for("libvirt to know the agent", lambda: cls.ask_agent("guest-ping").returncode == 0, seconds=60)

    def test_1_frozen_for_a_moment(self) -> None:
        reply = self.reclaim.run("sync", "--freeze", "--domain", DOMAIN, str(self.copies), seconds=300)
        self.assertEqual(reply.status, DONE, str(reply))
        self.assertFalse(self.is_frozen())
        # A frozen filesystem has nothing in its journal: this copy needs no replay.
        found = subprocess.run(["e2fsck", "-fn", self.copies / f"{DOMAIN}.vda.raw"], capture_output=True, text=True, check=False)
        self.assertEqual(found.returncode, 0, found.stdout)
        self.assertNotIn("recover", found.stdout + found.stderr)

    def test_2_a_guest_that_somebody_else_froze_is_left_alone(self) -> None:
        self.assertEqual(self.ask_agent("guest-fsfreeze-freeze").returncode, 0)
        try:
            reply = self.reclaim.run("sync", "--freeze", "--domain", DOMAIN, str(self.copies), seconds=300)
            self.assertEqual(reply.status, REFUSED, str(reply))
            self.assertTrue(self.is_frozen())
        finally:
            self.ask_agent("guest-fsfreeze-thaw")

    def test_3_killed_while_it_is_frozen(self) -> None:
        reclaim = VirtReclaim(PROGRAM, self.host, LD_PRELOAD=str(STOPPER))
        with reclaim.start("sync", "--freeze", "--domain", DOMAIN, str(self.copies)) as process:
            stat = Path(f"/proc/{process.pid}/stat")
            wait_for("it to stop", lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T", seconds=60)
            self.assertTrue(self.is_frozen())
            process.kill()
        wait_for("its watcher to thaw the guest", lambda: not self.is_frozen(), seconds=60)
        self.guest.run("echo 1 >/mnt/one/written && sync")

    def test_4_libvirtd_is_killed_in_the_middle(self) -> None:
        fresh = self.space.path / "fresh"
        fresh.mkdir()
        with self.reclaim.start("sync", "--max-rate", "2M", "--domain", DOMAIN, str(fresh)) as process:
            wait_for("the job", self.has_job, seconds=60)
            wait_for("the copy", lambda: list(fresh.iterdir()), seconds=60)
            self.host.kill()
            self.host.start()
            self.assertTrue(self.has_job(), "QEMU has it still")
            out, err = process.communicate(timeout=120)
        print(f"status {process.returncode}: {err.strip()}")
        self.assertEqual(process.returncode, SOME_FAILED, out + err)
        self.assertIn("may still have our backup job", err)
        # As after a kill: what this run could not do, its watcher does.
        wait_for("its watcher to end the job", lambda: not self.has_job(), seconds=90)
        reply = self.reclaim.run("sync", "--domain", DOMAIN, str(fresh), seconds=300)
        self.assertEqual(reply.status, DONE, str(reply))

    # What the acts are made of.

    def is_frozen(self) -> bool:
        """As the guest knows it: its shell lies in memory."""
        return self.guest.run(FROZEN, check=False).status == 0

    @classmethod
    def ask_agent(cls, command: str) -> subprocess.CompletedProcess[str]:
        return cls.host.virsh("qemu-agent-command", DOMAIN, f'{{"execute":"{command}"}}', check=False)

    def has_job(self) -> bool:
        return self.host.virsh("backup-dumpxml", DOMAIN, check=False).returncode == 0


if __name__ == "__main__":
    bedpath.require_bed("libvirtd", "qemu-ga", "e2fsck")
    PROGRAM, STOPPER = built("virt-reclaim", "libstop_at_backup.so")
    main(one_story=True)
