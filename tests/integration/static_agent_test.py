"""The portable agent in a guest that has nothing for it but a kernel: no C library, no libmount, no shell, no udev.

First in a directory of its own in the test guest, with what an idle agent costs, since this is the one that runs in every
guest. Then as all that the guest has: it is the only program in the initramfs, but for the first one (bare_init.c), which
mounts /proc, /sys, /dev and a disk, loads Debian's modules, and becomes the agent: that mounts nothing itself. There it has only the
system calls of Linux 3.2, since no kernel that old is to be had here.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
import unittest
from pathlib import Path

import bedpath

from vrtest import Disk, Guest, HostTestCase, TimedOut, built, main, skip_all, wait_for
from vrtest.guest import NEW_MACHINE

DOMAIN = "bare"
MIB = 1 << 20
STATIC_AGENT = Path(os.environ.get("VIRT_RECLAIM_STATIC_AGENT", ""))
MAX_BYTES = 8 * MIB
MAX_RESIDENT_KIB = 8 * 1024
OLDEST_KERNEL = (3, 2, 0)  # bare_init.c: hide_newer_calls
IDLE_SECONDS = 30
MAX_WAKEUPS = 3  # one in ten seconds
# The agent is the only file; the rest are the kernel's own filesystems.
BARE_ROOT = """
vr-agent stop
mkdir -p /run/bare/proc /run/bare/sys /run/bare/dev /run/bare/mnt
cp /usr/sbin/virt-reclaim-agent /run/bare/agent
mount -t proc proc /run/bare/proc; mount -t sysfs sys /run/bare/sys; mount -t devtmpfs dev /run/bare/dev
mount --bind /mnt/data /run/bare/mnt
rm -rf /dev/virtio-ports
start-stop-daemon -S -b -m -p /run/bare.pid -x /bin/busybox -- chroot /run/bare /agent daemon
"""


class ItsFile(unittest.TestCase):
    def readelf(self, option: str) -> str:
        return subprocess.run(["readelf", "-W", option, STATIC_AGENT], check=True, capture_output=True, text=True).stdout

    def test_it_is_small_and_stripped(self) -> None:
        self.assertLessEqual(STATIC_AGENT.stat().st_size, MAX_BYTES)
        self.assertIn(".text", self.readelf("--sections"))
        self.assertNotIn(".symtab", self.readelf("--sections"))

    def test_it_needs_no_loader_and_no_library(self) -> None:
        segments = self.readelf("--segments")
        self.assertIn("LOAD", segments)
        self.assertNotIn("INTERP", segments)
        self.assertNotIn("DYNAMIC", segments)

    def test_it_says_that_it_runs_on_old_kernels(self) -> None:
        # .note.ABI-tag, of the C library in it: with an older kernel it ends at once.
        (version,) = re.findall(r"OS: Linux, ABI: ([0-9.]+)", self.readelf("--notes"))
        self.assertLessEqual(tuple(map(int, version.split("."))), OLDEST_KERNEL)


class StaticAgent(HostTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(
            cls.host, DOMAIN, machine=NEW_MACHINE, agent=STATIC_AGENT,
            disks=[Disk("data", bus="virtio", discard="unmap")],
        )
        cls.guest.start()
        cls.guest.run(BARE_ROOT)

    def test_1_it_is_all_there_is(self) -> None:
        listing = self.guest.run("find /run/bare -xdev -type f").output.split()
        self.assertEqual(listing, ["/run/bare/agent"])

    def test_2_it_answers_and_trims(self) -> None:
        self.guest.run("dd if=/dev/zero of=/mnt/data/junk bs=1M count=64 2>/dev/null; sync; rm /mnt/data/junk; sync")
        wait_for("the agent", lambda: self.reclaim.run("agent", "status", DOMAIN).status == 0, seconds=20)
        reply = self.reclaim.run("trim", DOMAIN)
        self.assertEqual(reply.status, 0, str(reply))
        (disk,) = reply.json["domains"][0]["disks"]
        self.assertGreater(disk["freed_bytes"], 50 * MIB)

    def test_3_idle_it_costs_next_to_nothing(self) -> None:
        time.sleep(10)  # it keeps its gRPC server for a moment after a session
        before = self.wakeups()
        time.sleep(IDLE_SECONDS)
        self.assertLessEqual(self.wakeups() - before, MAX_WAKEUPS)
        status = self.guest.run("cat /proc/$(cat /run/bare.pid)/status").output
        resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
        print(f"resident {resident} KiB after sessions")
        self.assertLessEqual(resident, MAX_RESIDENT_KIB)
        descriptors = self.guest.run("ls -l /proc/$(cat /run/bare.pid)/fd").output
        self.assertEqual(descriptors.count("socket:"), 0, descriptors)
        self.assertEqual(descriptors.count("/vport"), 1, descriptors)

    def wakeups(self) -> int:
        text = self.guest.run("cat /proc/$(cat /run/bare.pid)/task/*/status").output
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("voluntary_ctxt_switches"))


class NothingElse(HostTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        init = cls.space.path / "init"
        source = Path(__file__).resolve().parents[1] / "lib" / "bare_init.c"
        subprocess.run(["cc", "-static", "-Os", "-Wall", "-Werror", "-o", init, source], check=True)
        cls.guest = Guest(
            cls.host, "nothing-else", machine=NEW_MACHINE, agent=STATIC_AGENT, guest_options=("--bare", str(init)), shell="",
            disks=[Disk("data", bus="virtio", discard="unmap", size=256 * MIB)],
        )
        # Nobody in there can write and delete a file, so all that is free has blocks from the beginning.
        disk = cls.guest.disk("data")
        with open(disk.path, "r+b") as image:
            os.posix_fallocate(image.fileno(), 0, disk.size)
        cls.guest.start(wait=False)

    def test_1_there_is_nothing_else(self) -> None:
        files = {name for name in files_of((self.guest.directory / "initramfs").read_bytes()) if not name.startswith("lib/modules/")}
        self.assertEqual(files, {"init", "virt-reclaim-agent"})

    def test_2_it_answers_and_trims(self) -> None:
        try:
            wait_for("the agent", lambda: self.reclaim.run("agent", "status", "nothing-else").status == 0, seconds=60)
        except TimedOut as problem:
            self.fail(f"{problem}\n{self.guest.console_text()}")
        self.assertIn("bare: no system calls after Linux 3.2", self.guest.console_text())
        disk = self.guest.disk("data")
        before = disk.allocation()
        reply = self.reclaim.run("trim", "nothing-else")
        self.assertEqual(reply.status, 0, f"{reply}\n{self.guest.console_text()}")
        (filesystem,) = reply.json["domains"][0]["filesystems"]
        self.assertEqual((filesystem["mount_point"], filesystem["status"]), ("/mnt", "done"))
        self.assertGreater(before - disk.allocation(), 150 * MIB)


def files_of(archive: bytes) -> list[str]:
    """The regular files of a cpio archive of the 'newc' kind."""
    found, at = [], 0
    while (name := archive[at + 110:at + 110 + int(archive[at + 94:at + 102], 16) - 1].decode()) != "TRAILER!!!":
        mode, size = int(archive[at + 14:at + 22], 16), int(archive[at + 54:at + 62], 16)
        if stat.S_ISREG(mode):
            found.append(name)
        data = -(-(at + 110 + len(name) + 1) // 4) * 4
        at = -(-(data + size) // 4) * 4
    return found


if __name__ == "__main__":
    bedpath.require_bed("cc", "readelf")
    (PROGRAM,) = built("virt-reclaim")
    if not STATIC_AGENT.is_file():
        skip_all("VIRT_RECLAIM_STATIC_AGENT names no static agent: scripts/build-static-agent")
    main()
