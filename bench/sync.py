"""The engine of `sync` beside what people copy images with: `rsync --inplace -S --no-whole-file`, the one set of rsync's
options that keeps sharing, `--inplace -S` and `-S -W` without it, `cp --sparse=always`, `qemu-img convert` and `dd`.

The copies lie on ext4, XFS and btrfs of their own, on loop devices over sparse files with direct I/O, the sources on an
ext4 of their own. Each contestant begins with the same copy in each round, and its wall time includes that all is on the
disk (`sync --file-system`). Hot: both files are in the page cache; cold: not a page of them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchlib import GIB, MIB, Row, Skip, find_program, median, mib, require_programs, require_space
from punch import BLOCK, FILESYSTEMS, call, free_bytes, half, mounted, noise, private_mounts

SECTOR = 512
PARTS = {"hot", "cold", "unchanged", "first", "reflink"}


@dataclass
class Run:
    wall: float
    cpu: float
    written: int  # by the disk of the copy's filesystem
    space: int  # what df lost


def change(path: Path, size: int) -> int:
    """A hundredth of the blocks, in runs of 4 to 32 KiB, every tenth of them zero now; returns how many bytes."""
    dice = random.Random(11)
    changed = 0
    with open(path, "r+b") as file:
        while changed < size // 100:
            length = BLOCK << dice.randrange(4)
            file.seek(dice.randrange(size // BLOCK - 8) * BLOCK)
            file.write(bytes(length) if dice.randrange(10) == 0 else noise(length))
            changed += length
    return changed


def cache(path: Path, *, hot: bool) -> None:
    if not path.exists():
        return
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    at, size = 0, path.stat().st_size
    while hot and at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            break
        at = os.lseek(descriptor, begin, os.SEEK_HOLE)
        for part in range(begin, at, 4 * MIB):
            os.pread(descriptor, min(4 * MIB, at - part), part)
    os.close(descriptor)


def sectors_written(mount: Path) -> int:
    device = call("findmnt", "--noheadings", "--output", "SOURCE", "--target", str(mount)).strip()
    return int(Path(f"/sys/block/{Path(device).name}/stat").read_text().split()[6]) * SECTOR


def timed(command: list[str], source: Path, copy: Path, *, hot: bool) -> Run:
    cache(source, hot=hot)
    cache(copy, hot=hot)
    free = free_bytes(copy.parent)
    written = sectors_written(copy.parent)
    begin = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    call("sync", "--file-system", str(copy))
    wall = time.monotonic() - begin
    return Run(wall, usage.ru_utime + usage.ru_stime, sectors_written(copy.parent) - written, free - free_bytes(copy.parent))


def prepare(old: Path | None, copy: Path) -> None:
    """The copy as the last run left it: sharing its blocks with a snapshot where the filesystem can."""
    copy.unlink(missing_ok=True)
    if old is not None:
        call("cp", "--reflink=auto", "--sparse=always", "--preserve=timestamps", str(old), str(copy))
    call("sync", "--file-system", str(copy.parent))


# What is promised, as the ratio that a row may have at most: of a name, a peer, and hot or cold.
FIRST = {(peer, "wall"): 1.3 for peer in ("cp --sparse", "qemu-img convert", "dd")}
LIMITS = {
    ("1 % changed", True): {("rsync", "wall"): 1 / 8, ("rsync", "CPU"): 1 / 8},
    ("1 % changed", False): {("rsync", "wall"): 1 / 3.5, ("rsync", "CPU"): 1 / 8},
    ("first copy", False): FIRST,
    ("reflink copy, unchanged", False): {("the same without FIEMAP", "wall"): 1 / 10},
}


def compare(name: str, kind: str, ours: list[str], peers: dict[str, list[str]], source: Path, copy: Path, old: Path | None, *, hot: bool,
            rounds: int, may_write: float | None = None) -> list[Row]:
    """`may_write`: bytes that are promised to be enough."""
    limits = LIMITS.get((name, hot), {})
    contestants = {"": ours, **peers}
    runs: dict[str, list[Run]] = {peer: [] for peer in contestants}
    for number in range(rounds):
        turns = list(contestants.items())
        for peer, command in turns if number % 2 == 0 else reversed(turns):
            prepare(old, copy)
            runs[peer].append(timed(command, source, copy, hot=hot))
            if peer == "" and subprocess.run(["cmp", "--silent", source, copy], check=False).returncode != 0:
                raise RuntimeError(f"{name}, {kind}: the copy is not equal")
    rows = []
    for peer in peers:
        text = f"sync {name}, {kind}, {'hot' if hot else 'cold'} / {peer}"
        for what, field, show in (("wall", "wall", "{:.2f} s"), ("CPU", "cpu", "{:.2f} s")):
            values = {who: [getattr(run, field) for run in runs[who]] for who in ("", peer)}
            rows.append(Row(f"{text}: {what}", show.format(median(values[""])), show.format(median(values[peer])),
                            [one / max(other, 0.001) for one, other in zip(values[""], values[peer])], rounds, limits.get((peer, what))))
        for what, field, limit in (("written", "written", may_write), ("df lost", "space", None)):
            value = median([getattr(run, field) for run in runs[""]])
            rows.append(Row(f"{text}: {what}", mib(value), mib(median([getattr(run, field) for run in runs[peer]])), [], rounds,
                            None if limit is None else limit / MIB, value / MIB))
    for row in rows:
        print("   " + "  ".join(row.cells()), file=sys.stderr, flush=True)
    return rows


def run(*, smoke: bool, rounds: int) -> list[Row]:
    if os.geteuid() != 0:
        raise Skip("needs root: loop devices and mounts")
    require_programs("rsync", "losetup", "findmnt", "qemu-img", "cmp", *(f"mkfs.{kind}" for kind in FILESYSTEMS))
    size = 64 * MIB if smoke else int(os.environ.get("BENCH_SYNC_MIB", "2048")) * MIB
    wanted = set(os.environ.get("BENCH_SYNC", "").split())
    if unknown := wanted - FILESYSTEMS.keys() - PARTS:
        raise RuntimeError(f"BENCH_SYNC: no '{min(unknown)}': there are {', '.join([*FILESYSTEMS, *sorted(PARTS)])}")
    parts = wanted & PARTS or PARTS
    program = find_program("bench_sync")
    if not program:
        raise RuntimeError("'bench_sync' is not built")
    rows: list[Row] = []
    private_mounts()
    with tempfile.TemporaryDirectory(prefix="vr-sync-") as name:
        directory = Path(name)
        require_space(directory, 7 * size + 2 * GIB)
        (directory / "from").mkdir()
        with mounted("ext4", directory / "from", 3 * size + GIB) as sources:
            old, source = sources / "old", sources / "source"
            half(old, size)
            call("cp", "--sparse=always", str(old), str(source))
            changed = change(source, size)
            print(f"   {mib(changed)} changed of {mib(size)}", file=sys.stderr)
            for kind in FILESYSTEMS:
                if wanted & FILESYSTEMS.keys() and kind not in wanted:
                    continue
                with mounted(kind, directory, 3 * size + 2 * GIB) as mount:
                    rows += bench(kind, program, source, old, mount, changed, parts, smoke=smoke, rounds=rounds)
    return rows


def bench(kind: str, program: Path, source: Path, old: Path, mount: Path, changed: int, parts: set[str], *, smoke: bool,
          rounds: int) -> list[Row]:
    snapshot, copy = mount / "snapshot", mount / "copy"
    call("cp", "--sparse=always", str(old), str(snapshot))
    ours = [str(program), "--compare", str(source), str(copy)]
    files = [str(source), str(copy)]
    rsync = ["rsync", "--inplace", "-S", "--no-whole-file", "--times", "--ignore-times", *files]
    # Between local paths rsync takes --whole-file by itself.
    others = {"rsync --inplace -S": ["rsync", "--inplace", "-S", "--times", "--ignore-times", *files],
              "rsync -S -W": ["rsync", "-S", "-W", "--times", "--ignore-times", *files]}
    sparse = ["cp", "--sparse=always", "--reflink=never", str(source), str(copy)]
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "raw", "-S", "4k", str(source), str(copy)]
    dd = ["dd", f"if={source}", f"of={copy}", "bs=1M", "conv=sparse", "status=none"]
    # What no program can be faster than that looks at all of both.
    read = {"reading both": ["sh", "-c", 'for file; do dd if="$file" of=/dev/null bs=4M iflag=direct status=none & done; wait', "sh", *files]}
    rows: list[Row] = []
    for hot in (hot for hot, part in ((True, "hot"), (False, "cold")) if part in parts):
        peers = {"rsync": rsync, "cp --sparse": sparse, **(others if hot else read)}
        rows += compare("1 % changed", kind, ours, peers, source, copy, snapshot, hot=hot, rounds=rounds, may_write=1.05 * changed)
    if "unchanged" in parts:
        rows += compare("nothing changed", kind, [*ours[:-2], str(old), str(copy)], {"rsync": [*rsync[:-2], str(old), str(copy)]},
                        old, copy, snapshot, hot=False, rounds=rounds, may_write=MIB)  # the filesystem's own
    if "first" in parts:
        rows += compare("first copy", kind, ours, {"cp --sparse": sparse, "qemu-img convert": convert, "dd": dd}, source, copy, None,
                        hot=False, rounds=rounds)
    if "reflink" in parts and kind != "ext4" and not smoke:
        near = [str(program), "--compare", str(snapshot), str(copy)]
        reads = {"the same without FIEMAP": [str(program), "--compare", "--no-reflink", str(snapshot), str(copy)],
                 "rsync": [*rsync[:-2], str(snapshot), str(copy)]}
        rows += compare("reflink copy, unchanged", kind, near, reads, snapshot, copy, snapshot, hot=False, rounds=rounds)
    return rows
