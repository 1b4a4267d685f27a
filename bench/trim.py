"""Trimming freed space: virt-reclaim beside util-linux fstrim, on one guest, each time with newly filled and freed blocks.

Under a libvirtd, as hosts have one: the embedded driver would start, and find its guests again, in each program.

The guest itself writes the files, past its page cache (dd, direct I/O, 4 MiB at a time): what a filesystem does with
the blocks of deleted files is what is measured, so no shortcut from the host will do.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchlib import GIB, MIB, Row, accelerator, built, median, mib, require_bed, require_space
from vrtest import DaemonHost, Disk, Guest, VirtReclaim, Workspace
from vrtest.guest import NEW_MACHINE

FILESYSTEMS = ("ext4", "xfs", "btrfs")
FILE_MIB = 256
# An emulated guest on a busy machine, and a host that has to write it all back.
SLOW = 3600.0
INTERRUPTED = 130
# What is promised (docs/testing.md): wall over fstrim's; what fstrim freed over what we did; from SIGINT to the end, in seconds.
MOST_WALL, MOST_FREED_BY_FSTRIM, MOST_CANCEL_SECONDS = 1.1, 1.02, 1.0

# Time by the guest's own clock: the way into the guest is no part of fstrim.
FSTRIM = """
now() {{ cut -d' ' -f1 /proc/uptime; }}
begin=$(now); /usr/sbin/fstrim -v {mount} >&2; status=$?; end=$(now)
echo "took $begin $end"
exit $status
"""


@dataclass
class Trimmed:
    seconds: float
    freed: int
    inside: float = 0.0  # ours: the part spent in the guest on the filesystem


def run(*, smoke: bool, rounds: int) -> list[Row]:
    require_bed("mkfs.xfs", "mkfs.btrfs", "fstrim", "libvirtd", "unshare")
    kinds = os.environ.get("BENCH_TRIM", " ".join(FILESYSTEMS)).split()
    size, junk = (1 * GIB, 300 * MIB) if smoke else (20 * GIB, 10 * GIB)
    rows: list[Row] = []
    with Workspace() as space:
        # One disk at a time is full.
        require_space(space.path, junk + junk // 4 + GIB)
        bench = Bench(space, kinds, size, junk)
        for disk in bench.guest.disks:
            rows += bench.compare(disk, rounds)
        bench.guest.destroy()
    return rows


class Bench:
    def __init__(self, space: Workspace, kinds: list[str], size: int, junk: int) -> None:
        self.junk = junk
        self.host = DaemonHost(space)
        self.reclaim = VirtReclaim(built("virt-reclaim"), self.host)
        self.guest = Guest(
            self.host, "bench", machine=NEW_MACHINE, agent=built("virt-reclaim-agent"),
            disks=[Disk(fs, fs=fs, bus="virtio", discard="unmap", size=size) for fs in kinds],
            # busybox has no direct I/O in its dd.
            guest_options=("--add", "usr/bin/dd=/usr/bin/dd"), domain_type=accelerator().domain_type,
        )
        self.guest.start()

    def compare(self, disk: Disk, rounds: int) -> list[Row]:
        # Blocks never used count as free, and ext4 remembers what it has trimmed: both contestants find that done.
        self.with_fstrim(disk)
        ours: list[Trimmed] = []
        peer: list[Trimmed] = []
        for number in range(rounds):
            turns = [(peer, self.with_fstrim), (ours, self.with_virt_reclaim)]
            # What the first one leaves behind on the host is not always to be the second one's.
            for results, contestant in turns if number % 2 == 0 else reversed(turns):
                self.fill_and_free(disk)
                results.append(contestant(disk))
                print(f"{disk.fs}: {contestant.__name__}: {results[-1]}", file=sys.stderr)
        what = f"trim of {mib(self.junk)} freed, {disk.fs}"
        return [
            Row(f"{what}: wall", seconds(ours), seconds(peer), ratios(ours, peer, "seconds"), rounds, MOST_WALL),
            Row(f"{what}: in the guest", f"{median([one.inside for one in ours]):.2f} s", seconds(peer),
                [one.inside / max(other.seconds, 0.01) for one, other in zip(ours, peer)], rounds),
            Row(f"{what}: freed on the host", freed(ours), freed(peer), ratios(ours, peer, "freed"), rounds, MOST_FREED_BY_FSTRIM,
                median([other.freed / max(one.freed, 1) for one, other in zip(ours, peer)])),
            self.cancel(disk, after=median([one.seconds for one in ours]) / 2),
        ]

    def fill_and_free(self, disk: Disk) -> None:
        files = max(1, self.junk // (FILE_MIB * MIB))
        blocks = self.junk // files // (4 * MIB)
        self.guest.run(
            f"set -e; i=0; while [ $i -lt {files} ]; do"
            f" /usr/bin/dd if=/dev/zero of={disk.mount_point}/junk-$i bs=4M count={blocks} oflag=direct 2>/dev/null;"
            f" i=$((i + 1)); done; sync; rm {disk.mount_point}/junk-*; sync",
            seconds=SLOW,
        )
        # What the host has still to write back would be written while the trim is timed, and is no part of it.
        with open(disk.path, "rb") as image:
            os.fsync(image.fileno())
        if disk.allocation() < self.junk:
            raise RuntimeError(f"{disk.fs}: the guest wrote {mib(self.junk)}, the host has {mib(disk.allocation())}")

    def with_fstrim(self, disk: Disk) -> Trimmed:
        before = disk.allocation()
        output = self.guest.run(FSTRIM.format(mount=disk.mount_point), seconds=SLOW).output
        begin, end = next(line.split()[1:] for line in output.splitlines() if line.startswith("took "))
        return Trimmed(float(end) - float(begin), before - disk.allocation())

    def with_virt_reclaim(self, disk: Disk) -> Trimmed:
        before = disk.allocation()
        begin = time.monotonic()
        reply = self.reclaim.run("trim", self.guest.name, "--pause", "0", "--mount-point", disk.mount_point, seconds=SLOW)
        took = time.monotonic() - begin
        if reply.status != 0:
            raise RuntimeError(f"virt-reclaim trim: {reply}")
        (filesystem,) = filesystems(reply.json)
        return Trimmed(took, before - disk.allocation(), filesystem["seconds"])

    def cancel(self, disk: Disk, *, after: float) -> Row:
        """From SIGINT to the end of the program. `after` should lie in the middle of the trim."""
        what = f"trim of {mib(self.junk)} freed, {disk.fs}: cancel to exit"
        self.fill_and_free(disk)
        before = disk.allocation()
        with self.reclaim.start("trim", self.guest.name, "--pause", "0", "--mount-point", disk.mount_point) as program:
            time.sleep(after)
            program.send_signal(signal.SIGINT)
            begin = time.monotonic()
            program.communicate(timeout=SLOW)
            took = time.monotonic() - begin
        left = self.with_fstrim(disk).freed
        done = before - disk.allocation() - left
        if program.returncode != INTERRUPTED:
            # Nothing was shown.
            return Row(what, f"done before the signal (exit status {program.returncode})", limit=MOST_CANCEL_SECONDS, value=math.inf)
        return Row(what, f"{took:.2f} s (after {after:.2f} s, {mib(done)} freed)", limit=MOST_CANCEL_SECONDS, value=took)


def filesystems(document: dict[str, Any]) -> list[dict[str, Any]]:
    (domain,) = document["domains"]
    return [one for one in domain["filesystems"] if one["status"] == "done"]


def seconds(results: list[Trimmed]) -> str:
    return f"{median([one.seconds for one in results]):.2f} s"


def freed(results: list[Trimmed]) -> str:
    return mib(median([one.freed for one in results]))


def ratios(ours: list[Trimmed], peer: list[Trimmed], name: str) -> list[float]:
    # The guest's clock has steps of 0.01 s.
    return [getattr(one, name) / max(getattr(other, name), 0.01) for one, other in zip(ours, peer)]
