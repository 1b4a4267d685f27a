"""Trims of guests that have only qemu-guest-agent, and of a host that dies in the middle of one.

What holds throughout: a call ends within its deadline and says why, and the guest goes on.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import bedpath

from vrtest import Disk, Guest, HostTestCase, built, main, wait_for
from vrtest.guest import AGENT_PORT, NEW_MACHINE, QEMU_GA_PORT

MIB = 1 << 20
JUNK = 96 * MIB
DONE, DONE_FOR_NOTHING = 0, 4
SMALL_STORAGE = 128 * MIB
DOMAIN = "plain"
# libvirt gives a silent agent 5 s to synchronize, and the freeze question asks it, too.
SILENCE_SECONDS = 45.0
# The link notices a host that has gone after 2 s of silence; then the piece under way has 0.4 s.
LEASE_SECONDS = 4.0

START_QEMU_GA = f"""
set -e
vr-ports
mkdir -p /run/qemu-ga
qemu-ga -m virtio-serial -p /dev/virtio-ports/{QEMU_GA_PORT} -t /run/qemu-ga -f /run/qemu-ga/pid -d
"""
FILL = f"""
for dir in /mnt/*; do dd if=/dev/zero of=$dir/junk bs=1M count={JUNK // MIB}; done
sync
rm /mnt/*/junk
sync
"""
# Free space in many pieces, so that it takes its time. XFS does not remember what was trimmed: each trim has all of it to do.
FREE_PIECES = """
set -e
mkdir /mnt/xfs/pieces && cd /mnt/xfs/pieces
for i in $(seq 200); do dd if=/dev/zero of=$i bs=64k count=1 2>/dev/null; done
sync
rm *[02468]
sync
"""
# From the disk itself each time.
WAIT_FOR_DISK = """
grep -q '^some' /proc/pressure/io || exit 1
(while [ ! -e /run/enough ]; do dd if=/dev/{disk} of=/dev/null bs=4k count=10 iflag=direct; done) >/dev/null 2>&1 &
"""
# After a range that took its time others are waited for, for 1 s at least.
LEAST_REST = 0.9


class QemuGuestAgent(HostTestCase):
    """The methods are one story and run in the order of their names."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(
            cls.host, DOMAIN, machine=NEW_MACHINE, agent=AGENT, ports=(AGENT_PORT, QEMU_GA_PORT), guest_options=("--qemu-ga",),
            cmdline="psi=1",  # Debian's kernels have it and leave it off
            disks=[
                Disk("ext4", bus="virtio", discard="unmap"),
                Disk("xfs", fs="xfs", bus="scsi", discard="unmap"),
                Disk("small", bus="virtio", discard="unmap"),
            ],
        )
        cls.small_storage = cls.space.path / "small-storage"
        cls.move_to_small_storage(cls.guest.disks[2].path)
        cls.guest.start()
        cls.guest.run("vr-agent kill")
        cls.guest.run(START_QEMU_GA)

    def trim(self, *words: str, seconds: float = 180) -> tuple[int, dict[str, Any]]:
        reply = self.reclaim.run("trim", DOMAIN, *words, seconds=seconds)
        try:
            (domain,) = reply.json["domains"]
        except (KeyError, ValueError):
            self.fail(f"no answer: {reply}")
        return reply.status, domain

    def test_1_it_trims_where_ours_is_not(self) -> None:
        self.guest.run(FILL, seconds=300)
        before = {disk.target: disk.allocation() for disk in self.guest.disks}
        status, domain = self.trim()
        self.assertEqual((status, domain["way"]), (DONE, "qemu-agent"), domain)
        for disk in self.guest.disks:
            with self.subTest(disk=disk.name):
                (shown,) = (shown for shown in domain["disks"] if shown["target"] == disk.target)
                self.assertGreater(before[disk.target] - disk.allocation(), 0.8 * JUNK)
                self.assertGreater(shown["freed_bytes"], 0.8 * JUNK)
                self.assertIsNotNone(shown["trimmed_bytes"], f"its disk was not found: {domain}")

    def test_2_a_second_trim_has_nothing_to_do(self) -> None:
        status, domain = self.trim()
        self.assertEqual(status, DONE, domain)
        for shown in domain["disks"]:
            self.assertEqual(shown["reasons"], ["nothing-reclaimable"] if shown["freed_bytes"] <= 0 else [], domain)

    def test_3_a_mount_point_is_refused(self) -> None:
        status, domain = self.trim("--mount-point", "/mnt/ext4")
        self.assertNotEqual(status, DONE)
        self.assertEqual(domain["reasons"], ["qemu-agent-trims-all"])

    def test_4_a_frozen_guest_is_left_alone(self) -> None:
        self.ask("guest-fsfreeze-freeze")
        try:
            _, domain = self.trim()
        finally:
            self.ask("guest-fsfreeze-thaw")
        self.assertIn("frozen", domain["reasons"])

    def test_5_a_hung_one_does_not_hang_us(self) -> None:
        self.guest.run("kill -STOP $(cat /run/qemu-ga/pid)")
        try:
            begin = time.monotonic()
            status, domain = self.trim(seconds=2 * SILENCE_SECONDS)
            seconds = time.monotonic() - begin
        finally:
            self.guest.run("kill -CONT $(cat /run/qemu-ga/pid)")
        print(f"a hung qemu-guest-agent took {seconds:.1f} s")
        self.assertEqual((status, domain["reasons"]), (1, ["agent-silent"]), domain)
        self.assertLess(seconds, SILENCE_SECONDS)
        wait_for("an agent that answers again", lambda: self.trim()[0] == DONE, seconds=120)

    def test_6_ours_comes_first_where_it_is(self) -> None:
        self.guest.run("vr-agent start")
        status, domain = self.trim()
        self.assertEqual((status, domain["way"]), (DONE, "agent"), domain)
        self.assertIsNotNone(domain["pace"]["punch_seconds_per_mib"])
        status, domain = self.trim("--way=qemu-agent")
        self.assertEqual((status, domain["way"]), (DONE, "qemu-agent"), domain)
        # While the other one does not say whether it froze the guest, ours is not asked to trim either.
        self.guest.run("kill -STOP $(cat /run/qemu-ga/pid)")
        try:
            status, domain = self.trim(seconds=2 * SILENCE_SECONDS)
        finally:
            self.guest.run("kill -CONT $(cat /run/qemu-ga/pid)")
        self.assertEqual((status, domain["reasons"]), (1, ["agent-silent"]), domain)
        wait_for("an agent that answers again", lambda: self.trim()[0] == DONE, seconds=120)

    def test_7_the_guest_of_a_host_that_died_stops_within_its_lease(self) -> None:
        self.guest.run(FILL, seconds=300)
        # Pieces of 128 MiB with 2 s between them: 16 s and more for what is left to do.
        program = self.reclaim.start("trim", DOMAIN, "--chunk", "128MiB", "--pause", "2s")
        try:
            wait_for("a trim that runs", self.trims_in_the_guest, seconds=30)
        finally:
            program.kill()
            program.communicate()
        begin = time.monotonic()
        wait_for("its end", lambda: not self.trims_in_the_guest(), seconds=30)
        seconds = time.monotonic() - begin
        print(f"the guest of a killed host stopped after {seconds:.1f} s")
        self.assertLess(seconds, LEASE_SECONDS)
        status, domain = self.trim("--way=agent")
        self.assertEqual(status, DONE, f"the next run is to go on: {domain}")

    def test_8_time_over_stops_after_the_piece(self) -> None:
        self.guest.run(FILL, seconds=300)
        status, domain = self.trim("--chunk", "128MiB", "--pause", "2s", "--max-duration", "3s")
        self.assertEqual((status, domain["status"], domain["reasons"]), (DONE, "done", ["time-over"]), domain)

    def test_8_while_programs_of_the_guest_wait_for_a_disk_it_rests(self) -> None:
        self.guest.run(FREE_PIECES)
        quiet = self.seconds_of_trim()
        # Ten reads a second are all that this disk has.
        small = self.guest.disk("small")
        self.host.virsh("blkdeviotune", DOMAIN, small.target, "--read-iops-sec", "10", "--live")
        self.guest.run(WAIT_FOR_DISK.format(disk=small.target))
        try:
            beside = self.seconds_of_trim()
        finally:
            self.guest.run("touch /run/enough")
            self.host.virsh("blkdeviotune", DOMAIN, small.target, "--read-iops-sec", "0", "--live")
        again = self.seconds_of_trim()
        print(f"{quiet:.1f} s; beside a program that waits {beside:.1f} s; after it {again:.1f} s")
        self.assertGreater(beside, max(quiet, again) + LEAST_REST)

    def seconds_of_trim(self) -> float:
        status, domain = self.trim("--mount-point=/mnt/xfs")
        self.assertEqual((status, domain["way"]), (DONE, "agent"), domain)
        (filesystem,) = domain["filesystems"]
        return float(filesystem["seconds"])

    def test_9_a_full_storage_ends_it(self) -> None:
        program = self.reclaim.start("trim", DOMAIN, "--mount-point=/mnt/ext4", "--chunk=128MiB", "--pause=15s")
        wait_for("a trim that runs", self.trims_in_the_guest, seconds=30)
        begin = time.monotonic()
        self.guest.run(f"(dd if=/dev/zero of=/mnt/small/much bs=1M count={2 * SMALL_STORAGE // MIB}; sync) >/dev/null 2>&1 &")
        output, _ = program.communicate(timeout=180)
        seconds = time.monotonic() - begin
        subprocess.run(["mount", "-o", "remount,size=1G", str(self.small_storage)], check=True)
        (domain,) = json.loads(output)["domains"]
        self.assertEqual((program.returncode, domain["status"], domain["reasons"]), (3, "failed", ["io-error"]), domain)
        print(f"ended {seconds:.1f} s after the guest began to write: {domain['error']}")
        self.assertIn("enospc", domain["error"])
        self.host.virsh("resume", DOMAIN)
        self.guest.run("wait; sync; ls /mnt/small/much", seconds=120)
        status, domain = self.trim("--way=agent")
        self.assertEqual(status, DONE, f"the next one goes on: {domain}")

    @classmethod
    def move_to_small_storage(cls, image: Path) -> None:
        cls.small_storage.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_STORAGE}", "small", str(cls.small_storage)], check=True)
        moved = cls.small_storage / image.name
        subprocess.run(["cp", "--sparse=always", str(image), str(moved)], check=True)
        image.unlink()
        image.symlink_to(moved)

    def ask(self, command: str) -> None:
        """Of qemu-guest-agent. An embedded driver that has just been opened does not know the agent yet."""
        with subprocess.Popen(
            ["virsh", "-q", "-c", self.host.uri], env=self.host.environment(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as virsh:
            assert virsh.stdin
            virsh.stdin.write("uri\n")
            virsh.stdin.flush()
            time.sleep(1)
            output, _ = virsh.communicate(f"qemu-agent-command {DOMAIN} '{{\"execute\":\"{command}\"}}'\n", timeout=60)
        self.assertIn('"return"', output)

    def trims_in_the_guest(self) -> bool:
        # A trim is a child of one of the agent's threads.
        return int(self.guest.run("cat /proc/$(vr-agent pid)/task/*/children 2>/dev/null | wc -w").output) > 0


if __name__ == "__main__":
    bedpath.require_bed("mkfs.xfs", "qemu-ga")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    main(one_story=True)
