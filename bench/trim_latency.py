"""What a trim costs the guest's other work: fstrim, guest-fstrim, our trim and `--gentle`, one after the other in one boot.

bench/guest_load.cc is the work: reads of 4 KiB at random and writes of 4 KiB with fdatasync, on the filesystem that is trimmed.
Before each trim the same space is filled and given back, in pieces of 1 MiB all over the filesystem. How long requests take
when nothing is trimmed is measured before each trim and after the last.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchlib import GIB, MIB, Row, built, emulated, median, mib, require_bed, require_space
from vrtest import Disk, EmbedHost, Guest, VirtReclaim, Workspace
from vrtest.guest import AGENT_PORT, NEW_MACHINE

# libvirt would keep the socket of org.qemu.guest_agent.0 to itself, and virsh costs the time of a program.
QEMU_GA_PORT = "org.virt_reclaim.bench.qemu_ga"
SLOW = 3600.0
IDLE_SECONDS, SMOKE_SECONDS = 10.0, 1.5
# guest_load.cc: of the histogram.
BUCKETS_PER_DOUBLING = 50

# What issue 5 asks for: of the 99th percentile beside the idle one, reads and writes, and of the time beside fstrim's.
TARGETS = {"adaptive": (1.5, 2.5, 4.5), "gentle": (1.2, 1.2, None)}

PREPARE = """
set -e
vr-ports
qemu-ga -m virtio-serial -p /dev/virtio-ports/{port} -t /run -f /run/qemu-ga.pid -d
guest_load make {dir} {files} {mib}
"""
START_LOAD = """
set -e
sync
guest_load run {dir} {disk} >/run/load.out 2>/run/load.err &
echo $! >/run/load.pid
"""
# A line for the time since the last one.
MARK = """
before=$(wc -l </run/load.out)
kill -USR1 $(cat /run/load.pid) || { cat /run/load.err; exit 1; }
while [ "$(wc -l </run/load.out)" = "$before" ]; do usleep 50000; done
tail -n 1 /run/load.out
"""
FSTRIM = """
now() {{ cut -d' ' -f1 /proc/uptime; }}
begin=$(now); /usr/sbin/fstrim {mount}; status=$?; end=$(now)
echo "took $begin $end"
exit $status
"""


@dataclass
class Latency:
    """Of many requests of one kind."""

    buckets: Counter[int] = field(default_factory=Counter)
    most: float = 0  # ms

    def add(self, shown: dict[str, Any]) -> None:
        self.buckets.update({bucket: count for bucket, count in shown["buckets"]})
        self.most = max(self.most, shown["max_us"] / 1000)

    def quantile(self, share: float) -> float:
        """In ms."""
        wanted = share * self.buckets.total()
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 0:
                return 2 ** ((bucket + 0.5) / BUCKETS_PER_DOUBLING) / 1000
        raise RuntimeError("the load made no request in that time")

    @property
    def p99(self) -> float:
        return self.quantile(0.99)

    def __str__(self) -> str:
        return f"p50 {self.quantile(0.5):.2f}, p99 {self.p99:.1f}, longest {self.most:.0f} ms"


@dataclass
class Window:
    """A stretch of time with the load running."""

    reads: Latency = field(default_factory=Latency)
    writes: Latency = field(default_factory=Latency)
    seconds: float = 0  # idle: its length; else what the trim took in the guest
    wall: float = 0  # with the program around it
    discards: int = 0
    freed: int = 0

    def add(self, shown: dict[str, Any]) -> None:
        self.reads.add(shown["reads"])
        self.writes.add(shown["writes"])
        self.discards += shown["discards"]


@dataclass
class Round:
    idle: list[Window] = field(default_factory=list)
    trims: dict[str, Window] = field(default_factory=dict)

    def idle_p99(self, kind: str) -> float:
        """Of all idle times of the round together."""
        together = Latency()
        for window in self.idle:
            together.buckets.update(getattr(window, kind).buckets)
        return together.p99


def run(*, smoke: bool, rounds: int) -> list[Row]:
    require_bed("mkfs.xfs", "fstrim", "qemu-ga")
    kinds = os.environ.get("BENCH_TRIM_LATENCY", "ext4").split()
    size, files, each = (GIB, 4, 32) if smoke else (20 * GIB, 16, 256)
    rows: list[Row] = []
    with Workspace(os.environ.get("BENCH_TRIM_LATENCY_DIR")) as space:
        require_space(space.path, files * each * MIB + GIB)
        host = EmbedHost(space.path)
        for kind in kinds:
            bench = Bench(host, Disk(kind, fs=kind, discard="unmap", size=size, cache="none"), files, each, smoke=smoke)
            rows += bench.rows([bench.round(number) for number in range(rounds)])
            bench.guest.destroy()
            bench.disk.path.unlink()
    return rows


class Bench:
    def __init__(self, host: EmbedHost, disk: Disk, files: int, each: int, *, smoke: bool) -> None:
        # Past the host's page cache, as people run disks that matter: reads out of it would never wait for a punch.
        assert disk.cache == "none"
        self.disk = disk
        self.idle_seconds = SMOKE_SECONDS if smoke else IDLE_SECONDS
        self.freed = files * each // 2 * MIB
        self.reclaim = VirtReclaim(built("virt-reclaim"), host)
        self.guest = Guest(
            host, disk.fs, machine=NEW_MACHINE, agent=built("virt-reclaim-agent"), disks=[self.disk],
            ports=(AGENT_PORT, QEMU_GA_PORT),
            guest_options=("--qemu-ga", "--add", f"usr/bin/guest_load={built('bench_guest_load')}"),
            domain_type=emulated().domain_type,
        )
        self.guest.start()
        self.space = f"{self.disk.mount_point} {files} {each}"
        self.guest.run(
            PREPARE.format(port=QEMU_GA_PORT, dir=self.disk.mount_point, files=files, mib=each), seconds=SLOW
        )
        self.agent = self.raw_agent()
        self.contestants: dict[str, Callable[[], tuple[float, float]]] = {
            "fstrim": self.with_fstrim,
            "guest-fstrim": self.with_guest_fstrim,
            "adaptive": self.with_virt_reclaim,
            "gentle": lambda: self.with_virt_reclaim("--gentle"),
        }
        # Blocks never used count as free, and ext4 remembers what it has trimmed: everybody finds that done.
        self.with_fstrim()
        self.guest.run(START_LOAD.format(dir=self.disk.mount_point, disk=self.disk.target), seconds=SLOW)

    def raw_agent(self) -> socket.socket:
        path = re.search(r"path='([^']*/" + re.escape(QEMU_GA_PORT) + ")'", self.guest.live_xml())
        assert path, "libvirt made no socket for the port"
        agent = socket.socket(socket.AF_UNIX)
        agent.settimeout(SLOW)
        agent.connect(path[1])
        return agent

    def round(self, number: int) -> Round:
        done = Round()
        # Who comes first changes from round to round.
        names = list(self.contestants)
        names = names[number % len(names):] + names[: number % len(names)]
        for name in names:
            self.fill_and_free()
            done.idle.append(self.idle())
            done.trims[name] = self.trim(name)
            # A round takes minutes.
            print(f"   round {number + 1}: {name} took {done.trims[name].wall:.1f} s", file=sys.stderr, flush=True)
        done.idle.append(self.idle())
        return done

    def fill_and_free(self) -> None:
        self.guest.run(f"guest_load fill {self.space} && guest_load free {self.space}", seconds=SLOW)
        with open(self.disk.path, "rb") as image:
            os.fsync(image.fileno())

    def idle(self) -> Window:
        # What was just written is written back for a while.
        time.sleep(self.idle_seconds / 5)
        self.mark()
        time.sleep(self.idle_seconds)
        shown = self.mark()
        if shown["discards"]:
            raise RuntimeError(f"there were {shown['discards']} discards while nobody trimmed")
        window = Window(seconds=shown["seconds"])
        window.add(shown)
        return window

    def trim(self, name: str) -> Window:
        before = self.disk.allocation()
        seconds, wall = self.contestants[name]()
        shown = self.mark()
        window = Window(seconds=seconds, wall=wall, freed=before - self.disk.allocation())
        window.add(shown)
        if window.freed < 0.9 * self.freed:
            raise RuntimeError(f"{name} brought {mib(window.freed)} back, not {mib(self.freed)}")
        return window

    def mark(self) -> dict[str, Any]:
        return json.loads(self.guest.run(MARK, seconds=SLOW).output)

    # Each: what the trim took, and all of it with what surrounds it.

    def with_fstrim(self) -> tuple[float, float]:
        output = self.guest.run(FSTRIM.format(mount=self.disk.mount_point), seconds=SLOW).output
        begin, end = next(line.split()[1:] for line in output.splitlines() if line.startswith("took "))
        return float(end) - float(begin), float(end) - float(begin)

    def with_guest_fstrim(self) -> tuple[float, float]:
        begin = time.monotonic()
        self.agent.sendall(b'{"execute": "guest-fstrim"}\n')
        answer = b""
        while not answer.endswith(b"\n"):
            answer += self.agent.recv(65536)
        took = time.monotonic() - begin
        for path in json.loads(answer)["return"]["paths"]:
            if path["path"] == self.disk.mount_point and "error" in path:
                raise RuntimeError(f"guest-fstrim: {path}")
        return took, took

    def with_virt_reclaim(self, *words: str) -> tuple[float, float]:
        begin = time.monotonic()
        reply = self.reclaim.run("trim", self.guest.name, *words, seconds=SLOW)
        wall = time.monotonic() - begin
        if reply.status != 0:
            raise RuntimeError(f"virt-reclaim trim: {reply}")
        (domain,) = reply.json["domains"]
        (filesystem,) = [one for one in domain["filesystems"] if one["status"] == "done"]
        return filesystem["seconds"], wall

    def rows(self, rounds: list[Round]) -> list[Row]:
        kind = f"{self.disk.fs}, {mib(self.freed)} in pieces"
        idle = [window for done in rounds for window in done.idle]
        rows = [
            Row(f"{kind}: idle, {what}", str(pooled(idle, what)), f"p99 {spread([getattr(w, what).p99 for w in idle])} ms", [],
                len(idle))
            for what in ("reads", "writes")
        ]
        for name in self.contestants:
            trims = [done.trims[name] for done in rounds]
            reads, writes, times = TARGETS.get(name, (None, None, None))
            for what, target in (("reads", reads), ("writes", writes)):
                ratios = [getattr(done.trims[name], what).p99 / done.idle_p99(what) for done in rounds]
                rows.append(Row(f"{kind}: {name}, p99 of {what} / idle{wanted(target)}", str(pooled(trims, what)), "-", ratios,
                                len(rounds), limit=target))
            ratios = [] if name == "fstrim" else [
                done.trims[name].wall / max(done.trims["fstrim"].wall, 0.01) for done in rounds
            ]
            took = f"{median([w.wall for w in trims]):.2f} s"
            if name in TARGETS:
                took += f" (in the guest {median([w.seconds for w in trims]):.2f} s)"
            rows.append(Row(f"{kind}: {name}, wall / fstrim{wanted(times)}", took,
                            f"{median([done.trims['fstrim'].seconds for done in rounds]):.2f} s", ratios, len(rounds), limit=times))
        return rows


def pooled(windows: list[Window], what: str) -> Latency:
    together = Latency()
    for window in windows:
        one: Latency = getattr(window, what)
        together.buckets.update(one.buckets)
        together.most = max(together.most, one.most)
    return together


def spread(values: list[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


def wanted(target: float | None) -> str:
    return f" (target {target:g})" if target else ""
