"""What the benches share: where things are, the rows of the table, and the line about the machine."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "lib"))

from vrtest import agent_path, host_program_path  # noqa: E402
from vrtest.accelerator import Accelerator, choose_accelerator  # noqa: E402
from vrtest.guest import boot_files  # noqa: E402
from vrtest.programs import find_program  # noqa: E402

MIB = 1 << 20
GIB = 1 << 30


class Skip(Exception):
    """This machine cannot run the bench; the text says why."""


@dataclass
class Row:
    """One line of the table. A ratio is ours over the peer's within one round; below 1 we are the better one.

    What `scripts/bench --judge` looks at: `value`, or the median of the ratios where it is not given, may be `limit` at most."""

    what: str
    ours: str
    peer: str = "-"
    ratios: list[float] = field(default_factory=list)
    rounds: int = 1
    limit: float | None = None
    value: float | None = None

    def verdict(self) -> str | None:
        """What is wrong with the row; None: nothing, or nobody said what would be."""
        if self.limit is None or (self.value is None and not self.ratios):
            return None
        value = statistics.median(self.ratios) if self.value is None else self.value
        return f"{self.what}: {value:.2f}, and not at most {self.limit:.2f}" if value > self.limit else None

    def cells(self) -> list[str]:
        ratio = "-"
        if self.ratios:
            ratio = f"{statistics.median(self.ratios):.2f}"
            if len(self.ratios) > 1:
                ratio += f" ({min(self.ratios):.2f} to {max(self.ratios):.2f})"
        return [self.what, self.ours, self.peer, ratio, str(self.rounds)]


def print_table(rows: list[Row]) -> None:
    """In Markdown, so that docs/benchmarks.md can take it as it is."""
    head = ["what", "ours", "peer", "ratio", "rounds"]
    lines = [head, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |")


def mib(count: float) -> str:
    return f"{count / MIB:.0f} MiB"


def median(values: list[float]) -> float:
    return statistics.median(values)


def require_programs(*names: str) -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for name in names:
        if not shutil.which(name, path=path):
            raise Skip(f"'{name}' is not installed: scripts/install-packages run test")


def require_bed(*programs: str) -> None:
    """What a real guest needs."""
    if os.geteuid() != 0:
        raise Skip("needs root: QEMU and the images belong to it")
    require_programs("virsh", "qemu-system-x86_64", "qemu-img", "busybox", *programs)
    if not list(Path("/boot").glob("vmlinuz-*-cloud-*")):
        raise Skip("no cloud kernel in /boot: scripts/install-packages run")


def require_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise Skip(f"needs {mib(needed)} free in '{directory}', there are {mib(free)}: set TMPDIR to a larger place")


def built(name: str) -> Path:
    found = {"virt-reclaim": host_program_path, "virt-reclaim-agent": agent_path}.get(name, lambda: find_program(name))()
    if not found:
        # Not a skip: whoever runs the benches has built before.
        raise RuntimeError(f"'{name}' is not built, or VIRT_RECLAIM_BUILD_DIR does not name the build")
    return found


_accelerator: Accelerator | None = None
_kinds: set[str] = set()  # of the guests that ran


def accelerator() -> Accelerator:
    """Asked once: a /dev/kvm that lies takes its seconds each time."""
    global _accelerator
    if _accelerator is None:
        _accelerator = choose_accelerator(boot_files().kernel)
    _kinds.add("guests under KVM" if _accelerator.domain_type == "kvm" else "guests emulated (TCG)")
    return _accelerator


def emulated() -> Accelerator:
    """For figures that are compared with those of an emulated guest."""
    _kinds.add("guests emulated (TCG)")
    return Accelerator("qemu", "the guest is emulated")


def machine_line() -> str:
    kind = ", ".join(sorted(_kinds)) or "no guest was run"
    load = os.getloadavg()
    return f"machine: Linux {platform.release()}, {os.cpu_count()} CPUs, {kind}; load {load[0]:.1f} at the end"
