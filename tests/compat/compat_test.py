"""Host and guest are not upgraded on the same day: today's host program and agent, and those of an older commit, in all four pairs, on a
real guest. Its agent is upgraded and downgraded where it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

import bedpath  # noqa: E402
from oldprograms import NotHere, OldPrograms, old_programs  # noqa: E402

from vrtest import Disk, Guest, HostTestCase, VirtReclaim, built, main, skip_all  # noqa: E402
from vrtest.guest import MIB, NEW_MACHINE  # noqa: E402

DONE = 0
DOMAIN = "compat"
JUNK = 64 * MIB
# What else the guest writes between two looks at a disk.
DRIFT = 4 * MIB
FILL = f"dd if=/dev/zero of=/mnt/data/junk bs=1M count={JUNK // MIB} 2>&1; sync; rm /mnt/data/junk; sync"
# From the disk beside, over the one that the guest has booted with.
CHANGE_AGENT = "set -e; vr-agent {how}; cp /mnt/tools/{which} /usr/sbin/virt-reclaim-agent; chmod 755 /usr/sbin/virt-reclaim-agent; vr-agent start"


class Compatibility(HostTestCase):
    """The methods are one story and run in the order of their names."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # The same state directory: what today's program remembers of a trim is read by the older one.
        cls.old = VirtReclaim(OLD.host, cls.host)
        cls.guest = Guest(
            cls.host, DOMAIN, machine=NEW_MACHINE, agent=OLD.agent,
            disks=[Disk("data", discard="unmap"), Disk("tools", discard="unmap", size=256 * MIB)],
        )
        cls.put_into_guest("old", OLD.agent)
        cls.put_into_guest("new", AGENT)
        cls.guest.start()

    @classmethod
    def put_into_guest(cls, name: str, program: Path) -> None:
        stripped = cls.space.path / f"agent-{name}"
        subprocess.run(["strip", "--strip-debug", "-o", str(stripped), str(program)], check=True)
        tools = cls.guest.disk("tools").path
        done = subprocess.run(["debugfs", "-w", "-R", f"write {stripped} {name}", str(tools)], capture_output=True, text=True, check=True)
        if "Allocated inode" not in done.stdout + done.stderr:
            raise AssertionError(done.stdout + done.stderr)

    def answer(self, reclaim: VirtReclaim, *words: str) -> dict[str, Any]:
        reply = reclaim.run(*words, DOMAIN)
        self.assertEqual(reply.status, DONE, f"{words}: {reply}")
        (domain,) = reply.json["domains"]
        return domain

    def data(self, domain: dict[str, Any]) -> dict[str, Any]:
        (disk,) = (disk for disk in domain["disks"] if disk["target"] == self.guest.disk("data").target)
        return disk

    def require_works(self, reclaim: VirtReclaim) -> None:
        """Each thing that a host asks a guest for but the fix, which needs more than this guest has."""
        status = self.answer(reclaim, "agent", "status")
        self.assertEqual(status["status"], "done", status)
        self.assertTrue(status["agent"]["version"], status)
        shown = self.data(self.answer(reclaim, "report"))
        self.assertGreater(shown["guest_used_bytes"], 0, shown)
        self.assertGreaterEqual(shown["reclaimable_bytes"], 0, shown)

        self.guest.run(FILL)
        before = self.guest.disk("data").allocation()
        trimmed = self.answer(reclaim, "trim")
        self.assertEqual((trimmed["status"], trimmed["way"]), ("done", "agent"), trimmed)
        freed = before - self.guest.disk("data").allocation()
        self.assertGreater(freed, 0.8 * JUNK)
        self.assertAlmostEqual(self.data(trimmed)["freed_bytes"], freed, delta=DRIFT)

        # The marker, by two calls.
        probed = self.data(self.answer(reclaim, "explain", "--probe"))
        self.assertEqual(probed["probe"] and probed["probe"]["discards_reach_host"], True, probed)
        # Preflight, if only to say that there is nothing to change.
        self.answer(reclaim, "migrate", "plan")

    def change_agent(self, which: str, how: str = "stop") -> None:
        self.guest.run(CHANGE_AGENT.format(which=which, how=how))

    def exactness(self) -> tuple[str, str]:
        shown = self.data(self.answer(self.reclaim, "report", "--exact"))
        return shown["reclaimable_is"], shown["reclaimable_from"]

    def test_1_older_agent_older_host(self) -> None:
        self.require_works(self.old)

    def test_2_older_agent_newer_host(self) -> None:
        self.require_works(self.reclaim)

    def test_3_a_call_that_the_agent_does_not_know_is_done_without(self) -> None:
        # UNIMPLEMENTED: no error, and no worse than without --exact.
        self.assertEqual(self.exactness(), ("estimate", "statfs"))
        # A field that it does not know, as well.
        self.assertIsNone(self.answer(self.reclaim, "agent", "status")["agent"]["age_seconds"])

    def test_4_the_agent_is_upgraded(self) -> None:
        self.change_agent("new")
        # It is another one: it knows the call.
        self.assertEqual(self.exactness(), ("exact", "free-map"))
        self.assertGreaterEqual(self.answer(self.reclaim, "agent", "status")["agent"]["age_seconds"], 0)
        self.require_works(self.reclaim)

    def test_5_newer_agent_older_host(self) -> None:
        self.require_works(self.old)

    def test_6_the_agent_is_downgraded(self) -> None:
        # By a kill: the link hears nothing of it.
        self.change_agent("old", how="kill")
        self.assertEqual(self.exactness(), ("estimate", "statfs"))
        self.require_works(self.reclaim)
        self.require_works(self.old)

    def test_7_nothing_is_lost(self) -> None:
        self.guest.shutdown()
        for disk in self.guest.disks:
            disk.check()


if __name__ == "__main__":
    bedpath.require_bed("debugfs", "strip", "cmake", "ninja")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    try:
        OLD: OldPrograms = old_programs()
    except NotHere as reason:
        skip_all(str(reason))
    main(one_story=True)
