"""migrate on real guests: the power cycle, what it proves, the way back, and SIGKILL at every step."""

from __future__ import annotations

import itertools
import os
import re
import signal
from pathlib import Path

import bedpath

from vrtest import DaemonTestCase, Disk, Guest, HostTestCase, Reply, VirtReclaim, built, main, wait_for
from vrtest.guest import MIB, OLD_MACHINE
from vrtest.workspace import qemu_processes

DONE, FAILED = 0, 1
APPLY = ("migrate", "apply", "--power-cycle=shutdown", "--shutdown-timeout", "60s", "--verify-timeout", "90s")
JUNK = 32 * MIB
# Those of a migration that goes well, up to the last.
STEPS = {"begun", "defining", "defined", "stopping", "starting", "verifying"}
# Of a journal, when it is rolled back by itself: those, done's place taken by rolling-back, and restored.
LINES_UNTIL_RESTORED = len(STEPS) + 2
# Killed there, it has not touched the guest.
BEFORE_THE_GUEST = {"none", "begun", "defining"}


class OnHost:
    """The same on the embedded driver and on a libvirtd."""

    # Not btrfs: its module measures what this CPU is best at, which takes seconds at each start of an emulated one, and there are
    # thirty. The same with btrfs: story_test.
    filesystems = ("ext4", "xfs")

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(
            cls.host, "web", machine=OLD_MACHINE, agent=AGENT, disks=[Disk(fs, fs=fs) for fs in cls.filesystems]
        )
        cls.guest.start()
        cls.guest.run("for dir in /mnt/*; do dd if=/dev/urandom of=$dir/precious bs=1000000 count=1; done; sync")
        cls.sums = cls.checksums()
        cls.old_xml = cls.guest.saved_xml()

    @classmethod
    def checksums(cls) -> str:
        return cls.guest.run("sha256sum /mnt/*/precious").output

    def journals(self) -> set[Path]:
        return set((self.space.path / "state" / "migrate").rglob("journal.jsonl"))

    def step(self) -> str:
        (domain,) = self.reclaim.run("migrate", "status", "web").json["domains"]
        return domain["migration"]["step"] if domain["migration"] else "none"

    def require_new(self, xml: str) -> None:
        self.assertEqual(len(re.findall("discard='unmap'", xml)), len(self.filesystems))
        self.assertIn("pc-i440fx-4.0", xml)

    def put_back(self) -> None:
        """The definition of the beginning; the running guest does not matter, the next apply stops it."""
        path = self.space.path / "old.xml"
        path.write_text(self.old_xml)
        self.host.virsh("define", path)

    def test_1_apply_power_cycles_and_proves(self) -> None:
        reply = self.reclaim.run(*APPLY, "web")
        self.assertEqual(reply.status, DONE, str(reply))
        self.assertEqual(self.step(), "done")
        self.require_new(self.guest.saved_xml())
        self.require_new(self.guest.live_xml())
        self.guest.was_power_cycled()
        self.assertEqual(self.checksums(), self.sums)
        again = self.reclaim.run(*APPLY, "web")
        self.assertEqual(again.status, DONE, str(again))
        self.assertEqual(again.json["domains"][0]["changes"], [])
        self.assertEqual(self.reclaim.run("migrate", "verify", "web").status, DONE)
        write = f"dd if=/dev/zero of=$dir/junk bs=1M count={JUNK // MIB}"
        self.guest.run(f"for dir in /mnt/*; do {write}; done; sync; rm /mnt/*/junk; sync")
        trim = self.reclaim.run("trim", "web")
        self.assertEqual(trim.status, DONE, str(trim))
        for disk in trim.json["domains"][0]["disks"]:
            self.assertGreaterEqual(disk["freed_bytes"], JUNK // 2, str(disk))

    def require_rolled_back(self) -> None:
        """By its journal, its definition, what it runs under, and its files."""
        self.assertEqual(self.step(), "rolled-back")
        self.assertEqual(self.guest.saved_xml(), self.old_xml)
        self.assertNotIn("unmap", self.guest.live_xml())
        self.guest.was_power_cycled()
        self.assertEqual(self.checksums(), self.sums)

    def test_2_rollback_by_hand(self) -> None:
        reply = self.reclaim.run("migrate", "rollback", "--power-cycle=shutdown", "web")
        self.assertEqual(reply.status, DONE, str(reply))
        self.require_rolled_back()

    def test_3_a_filesystem_that_does_not_come_back_is_noticed_and_rolled_back(self) -> None:
        # Mounted by hand somewhere else than where the guest mounts it at its next start.
        self.guest.run("mkdir -p /srv; umount /mnt/xfs && mount -t xfs LABEL=xfs /srv || mount -t xfs /dev/vdb /srv")
        # Killed on its way back: stopped, the old definition put back, and not started yet.
        words = ("migrate", "apply", "--power-cycle=shutdown", "--verify-timeout", "15s", "web")
        killed = self.killed(LINES_UNTIL_RESTORED, *words, word="/journal.jsonl")
        self.assertEqual(killed.status, -signal.SIGKILL, str(killed))
        self.assertEqual(self.step(), "restored")
        self.assertEqual(self.guest.saved_xml(), self.old_xml)
        # Whatever can be known of a guest that is off: it is the way back that goes on.
        reply = self.reclaim.run("migrate", "apply", "--verify-timeout", "15s", "web")
        self.assertEqual(reply.status, FAILED, str(reply))
        self.assertIn("'/srv'", reply.json["domains"][0]["error"])
        self.assertEqual(self.reclaim.run("migrate", "status", "web").status, FAILED)
        self.require_rolled_back()

    # A later one leaves out what comes before the first step.
    first_point = 1

    def test_4_killed_at_every_step_the_next_call_converges(self) -> None:
        steps: set[str] = set()
        for point in itertools.count(self.first_point):
            self.put_back()
            before = self.journals()
            killed = self.killed(point, *APPLY, "web")
            self.assertEqual(killed.status, -signal.SIGKILL, f"{point}: {killed}")
            # Without a journal of its own it has not begun, and the step is that of the migration before.
            step = self.step() if self.journals() != before else "none"
            steps.add(step)
            saved = self.guest.saved_xml()
            self.assertTrue(saved == self.old_xml or saved.count("discard='unmap'") == len(self.filesystems), f"{point}: {saved}")
            # Until its power button is pressed the guest has no part in it, and each power cycle takes an emulated CPU
            # many seconds: one killed here goes on as far as a definition that waits for it, as the next one does from there.
            waits = step in BEFORE_THE_GUEST
            reply = self.reclaim.run(*(("migrate", "apply") if waits else APPLY), "web")
            self.assertEqual(reply.status, DONE, f"killed at {point}: {reply}")
            self.assertEqual(self.step(), "defined" if waits else "done", f"killed at {point}")
            self.require_new(self.guest.saved_xml())
            if not waits:
                self.require_new(self.guest.live_xml())
            old = sorted((self.space.path / "state" / "migrate").rglob("old.xml"))[-1].read_text()
            self.assertNotIn("unmap", old)
            # Its last line, after which nothing is synced any more.
            if step == "done":
                break
        self.assertGreaterEqual(point, 12)
        self.assertLessEqual(STEPS, steps)
        self.guest.was_power_cycled()
        self.assertEqual(self.checksums(), self.sums)
        print(f"killed at points {self.first_point} to {point}, in the steps {sorted(steps)}")

    def killed(self, point: int, *words: str, word: str = "/state/:/etc/qemu/", before_write: bool = False) -> Reply:
        """Before a sync of such a file; or before it is written to."""
        where = {"VR_KILL_AT_WRITE" if before_write else "VR_KILL_IN": word}
        return VirtReclaim(PROGRAM, self.host, LD_PRELOAD=str(KILLER), VR_KILL_AT_SYNC=str(point), **where).run(*words)

    def test_5_killed_in_a_rollback_the_next_one_converges(self) -> None:
        new_xml = self.guest.saved_xml()
        points = 0
        while True:
            points += 1
            killed = self.killed(points, "migrate", "rollback", "web")
            if killed.status != -signal.SIGKILL:
                break
            self.assertIn(self.guest.saved_xml(), (self.old_xml, new_xml), f"killed at {points}")
            reply = self.reclaim.run("migrate", "rollback", "web")
            self.assertEqual(reply.status, DONE, f"killed at {points}: {reply}")
            self.assertEqual(self.step(), "rolled-back", f"killed at {points}")
            self.assertEqual(self.guest.saved_xml(), self.old_xml, f"killed at {points}")
            # The guest has gone on under the new definition all the time, so that this is a change of words only.
            self.assertEqual(self.reclaim.run("migrate", "apply", "web").status, DONE)
            self.assertEqual(self.guest.saved_xml(), new_xml)
        self.assertEqual(killed.status, DONE, str(killed))
        self.assertGreater(points, 3)
        print(f"killed at every one of {points - 1} points of a rollback")

    def test_6_killed_in_a_verify_the_next_one_is_as_good(self) -> None:
        self.assertEqual(self.reclaim.run("migrate", "apply", "web").status, DONE)
        # It writes no file: before what it sends, to libvirt and the guest, each time three times as late.
        kills = 0
        while True:
            sends = 3**kills
            killer = VirtReclaim(
                PROGRAM, self.host, LD_PRELOAD=str(KILLER), VR_KILL_AT_SYNC=str(sends), VR_KILL_AT_SEND="1", VR_KILL_AT_WRITE="socket:"
            )
            killed = killer.run("migrate", "verify", "web")
            if killed.status != -signal.SIGKILL:
                break
            kills += 1
            self.require_proved(self.reclaim.run("migrate", "verify", "web"))
        self.require_proved(killed)
        self.assertGreaterEqual(kills, 3)
        self.assertEqual(self.checksums(), self.sums)
        print(f"a verify killed {kills} times, before what it sent first and up to {3 ** (kills - 1)} later")

    def require_proved(self, reply: Reply) -> None:
        self.assertEqual(reply.status, DONE, str(reply))
        probed = reply.json["domains"][0]["probed_disks"]
        self.assertEqual([disk["discards_reach_host"] for disk in probed], [True] * len(self.filesystems), str(reply))

    def test_7_killed_again_and_again_in_one_rollback_with_a_power_cycle(self) -> None:
        new_xml = self.guest.saved_xml()
        go_on = ("migrate", "rollback", "--verify-timeout", "90s", "web")
        for what, before_write, words, step, saved in (
            ("it has begun, and the guest was not asked to go yet", False, (*go_on, "--power-cycle=shutdown"), "rolling-back", new_xml),
            ("stopped, the old definition put back, and that is not written down", True, go_on, "rolling-back", self.old_xml),
            ("that is, and it is not started", False, go_on, "restored", self.old_xml),
            # Nobody has to say again that it is to run.
            ("it runs and was looked at, and that is not written down", True, go_on, "restored", self.old_xml),
        ):
            killed = self.killed(1, *words, word="/journal.jsonl", before_write=before_write)
            self.assertEqual(killed.status, -signal.SIGKILL, f"{what}: {killed}")
            self.assertEqual(self.step(), step, what)
            self.assertEqual(self.guest.saved_xml(), saved, what)
        reply = self.reclaim.run(*go_on)
        self.assertEqual(reply.status, DONE, str(reply))
        self.require_rolled_back()

    def test_8_everything_is_clean(self) -> None:
        self.guest.shutdown()
        for disk in self.guest.disks:
            disk.check()


class Embedded(OnHost, HostTestCase):
    def test_7_of_a_qemu_that_hangs_on_its_way_down(self) -> None:
        """libvirt itself waits for its answer without end."""
        program = self.reclaim.start("migrate", "apply", "--power-cycle=shutdown", "--shutdown-timeout", "25s", "web")
        wait_for("the shutdown", lambda: '"stopping"' in self.newest_journal(), seconds=60, pause=0.01)
        (pid,) = qemu_processes(self.space.path)
        os.kill(pid, signal.SIGSTOP)
        try:
            # It is asked again after 20 s.
            output, errors = program.communicate(timeout=90)
        finally:
            os.kill(pid, signal.SIGCONT)
        self.assertEqual(program.returncode, FAILED, output + errors)
        self.assertIn("did not shut down within 25 s", output)
        # What libvirt asked is lost if its end of the monitor closed before QEMU read it.
        wait_for("its end", self.ends_when_pressed, seconds=120, pause=5)
        self.host.virsh("start", "web")
        self.guest.was_power_cycled()
        reply = self.reclaim.run(*APPLY, "web")
        self.assertEqual((reply.status, self.step()), (DONE, "done"), str(reply))
        self.require_new(self.guest.live_xml())
        self.assertEqual(self.checksums(), self.sums)

    def ends_when_pressed(self) -> bool:
        self.host.virsh("shutdown", "web", "--mode", "acpi", check=False)
        return self.host.state("web") == "shut off"

    def newest_journal(self) -> str:
        return max(self.journals(), key=lambda path: path.stat().st_mtime_ns).read_text()


class Daemon(OnHost, DaemonTestCase):
    first_point = 5


if __name__ == "__main__":
    bedpath.require_bed("libvirtd", "unshare")
    PROGRAM, AGENT, KILLER = built("virt-reclaim", "virt-reclaim-agent", "libkill_at_sync.so")
    main(one_story=True)
