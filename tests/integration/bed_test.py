"""Is the test bed sound? Without this, a story that passes could have a guest to thank that never discards anything."""

from __future__ import annotations

import signal
import subprocess
import sys
import unittest
from pathlib import Path

import bedpath

from vrtest import Disk, Guest, HostTestCase, TimedOut, main, wait_for
from vrtest.console import CommandFailed
from vrtest.guest import NEW_MACHINE
from vrtest.workspace import qemu_processes

MIB = 1 << 20
JUNK = 64 * MIB

bedpath.require_bed("mkfs.xfs", "mkfs.btrfs")


class Bed(HostTestCase):
    """One guest whose disks differ only in what happens to a discard."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(
            cls.host, "bed", machine=NEW_MACHINE,
            disks=[
                Disk("ignored", fs="ext4", bus="scsi", discard="ignore"),
                Disk("absent", fs="ext4", bus="virtio"),
                Disk("ext4", fs="ext4", bus="virtio", discard="unmap"),
                Disk("xfs", fs="xfs", bus="scsi", format="qcow2", discard="unmap"),
                Disk("btrfs", fs="btrfs", bus="virtio", discard="unmap"),
            ],
        )
        cls.guest.start()

    def test_1_a_command_brings_back_its_output_and_status(self) -> None:
        self.assertEqual(self.guest.run("printf 'a\\000b\\n'; echo err >&2").output, "a\0b\nerr\n")
        self.assertEqual(self.guest.run("exit 3", check=False).status, 3)
        with self.assertRaises(CommandFailed):
            self.guest.run("false")
        self.assertEqual(len(self.guest.run("head -c 300000 /dev/zero | tr '\\0' x").output), 300000)

    def test_2_a_command_that_hangs_is_killed_and_the_next_one_works(self) -> None:
        self.assertEqual(self.guest.run("sleep 1000", seconds=1, check=False).status, 137)
        self.assertEqual(self.guest.run("echo fine").output, "fine\n")

    def test_3_only_discard_unmap_frees_anything(self) -> None:
        self.guest.run(
            f"for dir in /mnt/*; do dd if=/dev/zero of=$dir/junk bs=1M count={JUNK // MIB}; done; sync; rm /mnt/*/junk; sync", seconds=300
        )
        before = {disk.name: disk.allocation() for disk in self.guest.disks}
        for disk in self.guest.disks:
            with self.subTest(disk=disk.name):
                output = self.guest.run(f"/usr/sbin/fstrim -v {disk.mount_point}").output
                self.assertNotIn(" 0 B ", output)
                freed = before[disk.name] - disk.allocation()
                if disk.discard == "unmap":
                    self.assertGreater(freed, 0.8 * JUNK)
                else:
                    self.assertEqual(freed, 0)

    def test_4_pause_resume_reset(self) -> None:
        self.guest.pause()
        self.assertEqual(self.host.state("bed"), "paused")
        self.guest.resume()
        boot = self.guest.run("cat /proc/sys/kernel/random/boot_id").output
        self.guest.reset()
        self.guest.wait_until_up()
        self.assertNotEqual(self.guest.run("cat /proc/sys/kernel/random/boot_id").output, boot)

    def test_5_the_power_button_leaves_clean_filesystems(self) -> None:
        self.guest.run("for dir in /mnt/*; do echo kept >$dir/kept; done")
        self.guest.shutdown()
        for disk in self.guest.disks:
            disk.check()


KILLED_PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from vrtest import Disk, EmbedHost, Guest, Workspace
space = Workspace()
guest = Guest(EmbedHost(space.path), "doomed", disks=[Disk("disk")])
guest.start(wait=False)
print(space.path, flush=True)
time.sleep(600)
"""


class NothingStays(unittest.TestCase):
    def check_after(self, number: signal.Signals) -> None:
        library = Path(__file__).resolve().parents[1] / "lib"
        with subprocess.Popen([sys.executable, "-c", KILLED_PROGRAM, library], stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout
            directory = Path(program.stdout.readline().strip())
            self.assertTrue(qemu_processes(directory))
            program.send_signal(number)
        wait_for(f"'{directory}' to go", lambda: not directory.exists(), seconds=30)
        self.assertEqual(qemu_processes(directory), [])

    def test_after_interrupt(self) -> None:
        self.check_after(signal.SIGINT)

    def test_after_sigkill(self) -> None:
        self.check_after(signal.SIGKILL)


class Waiting(unittest.TestCase):
    def test_says_what_did_not_happen(self) -> None:
        with self.assertRaisesRegex(TimedOut, "the moon: not within 0 s"):
            wait_for("the moon", lambda: False, seconds=0, pause=0)


if __name__ == "__main__":
    main(one_story=True)
