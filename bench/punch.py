"""The engine of `punch` beside util-linux `fallocate -d`, and `cp --sparse=always` and `qemu-img convert`, which make a new file.

On ext4, XFS and btrfs of their own, on loop devices over sparse files with direct I/O. Each contestant gets a fresh image
in each round. Hot: the image is in the page cache; cold: not a page of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchlib import GIB, MIB, Row, Skip, find_program, median, mib, require_programs, require_space

FILESYSTEMS = {"ext4": ["-q", "-F", "-E", "nodiscard"], "xfs": ["-q", "-K"], "btrfs": ["-q", "-K"]}
BLOCK = 4096
DIG = "fallocate -d"
DIG_AND_RELEASE = "fallocate -d, with release"  # ours moves what is left of btrfs's extents as well: not judged


@dataclass
class Run:
    wall: float
    cpu: float
    freed: int  # what df says, by the filesystem's own count of free blocks
    cache_changed: int  # bytes that came into the page cache or went from it, of what is data before and after


@contextlib.contextmanager
def mounted(kind: str, directory: Path, size: int) -> Iterator[Path]:
    disk, mount = directory / f"{kind}.disk", directory / kind
    mount.mkdir()
    with open(disk, "wb") as file:
        file.truncate(size)
    call(f"mkfs.{kind}", *FILESYSTEMS[kind], str(disk))
    loop = call("losetup", "--find", "--show", "--direct-io=on", str(disk)).strip()
    try:
        call("mount", loop, str(mount))
    finally:
        call("losetup", "--detach", loop)  # goes with the mount
    try:
        yield mount
    finally:
        call("umount", "--lazy", str(mount))
        disk.unlink()


def private_mounts() -> None:
    """What is mounted from here on goes with this process, killed or not."""
    new_namespace = 0x20000  # CLONE_NEWNS
    if ctypes.CDLL(None, use_errno=True).unshare(new_namespace) != 0:
        raise Skip("may not make a mount namespace")
    call("mount", "--make-rprivate", "/")


def call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# Images. Random bytes come from a pool of 32 MiB, started at another place each time: no filesystem here looks for doubles.
POOL = os.urandom(32 * MIB)


def noise(length: int) -> bytes:
    start = random.randrange(16 * MIB) // BLOCK * BLOCK
    return POOL[start : start + length]


def half(path: Path, size: int) -> None:
    """Zeros and data by turns, in runs of 4 KiB to 4 MiB."""
    dice = random.Random(7)
    with open(path, "wb") as file:
        data = False
        while file.tell() < size:
            length = min(BLOCK << dice.randrange(11), size - file.tell())
            file.write(noise(length) if data else bytes(length))
            data = not data


def dense(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        while file.tell() < size:
            file.write(noise(min(4 * MIB, size - file.tell())))


def sparse(path: Path, size: int) -> None:
    """Twice as large, half of it holes already."""
    with open(path, "wb") as file:
        file.truncate(2 * size)
        for at in range(0, 2 * size, 16 * MIB):
            file.seek(at)
            file.write(noise(4 * MIB) + noise(4 * MIB))


def fragments(path: Path, size: int) -> None:
    """Every other block zero."""
    with open(path, "wb") as file:
        for _ in range(size // (8 * MIB)):
            block = bytearray(noise(8 * MIB))
            for at in range(0, len(block), 2 * BLOCK):
                block[at : at + BLOCK] = bytes(BLOCK)
            file.write(block)


IMAGES: dict[str, Callable[[Path, int], None]] = {"half": half, "dense": dense, "sparse": sparse, "fragments": fragments}


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def cached_pages(path: Path) -> bytes:
    """Of each page 1 when it is in the page cache."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        memory = LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    found = ctypes.create_string_buffer((size + mmap.PAGESIZE - 1) // mmap.PAGESIZE)
    failed = memory == ctypes.c_void_p(-1).value or LIBC.mincore(memory, size, found) != 0
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    LIBC.munmap(memory, size)
    return bytes(byte & 1 for byte in found.raw)


def data_ranges(descriptor: int) -> Iterator[tuple[int, int]]:
    at, size = 0, os.fstat(descriptor).st_size
    while at < size:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, at


def cache_changed(before: bytes, path: Path) -> int:
    """Bytes of what is data still: pages of zeros that were punched went with their blocks."""
    after = cached_pages(path)
    changed = 0
    with open(path, "rb") as file:
        for begin, end in data_ranges(file.fileno()):
            pages = slice(begin // mmap.PAGESIZE, (end + mmap.PAGESIZE - 1) // mmap.PAGESIZE)
            if before[pages] != after[pages]:
                changed += sum(one != other for one, other in zip(before[pages], after[pages]))
    return changed * mmap.PAGESIZE


def free_bytes(mount: Path) -> int:
    # Twice: XFS and btrfs give blocks back after the first.
    for _ in range(2):
        call("sync", "--file-system", str(mount))
    if call("stat", "-f", "-c", "%T", str(mount)).strip() == "btrfs":
        call("btrfs", "filesystem", "sync", str(mount))
    status = os.statvfs(mount)
    return status.f_bfree * status.f_frsize


def prepare(master: Path, image: Path, *, hot: bool) -> None:
    image.unlink(missing_ok=True)
    call("cp", "--reflink=never", "--sparse=auto" if "sparse" in master.name else "--sparse=never", str(master), str(image))
    descriptor = os.open(image, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    if hot:
        # Only the data: pages of holes would be in the cache too.
        with open(image, "rb") as file:
            for begin, end in data_ranges(file.fileno()):
                for part in range(begin, end, 4 * MIB):
                    os.pread(file.fileno(), min(4 * MIB, end - part), part)


def timed(commands: list[list[str]], master: Path, image: Path, *, hot: bool) -> Run:
    prepare(master, image, hot=hot)
    before, cached = free_bytes(image.parent), cached_pages(image)
    begin, cpu = time.monotonic(), 0.0
    for command in commands:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"{command} ended with {process.returncode}")
        cpu += usage.ru_utime + usage.ru_stime
    wall = time.monotonic() - begin
    changed = cache_changed(cached, image)
    return Run(wall, cpu, free_bytes(image.parent) - before, changed)


def limit_of(kind: str, shape: str, peer: str, what: str, *, hot: bool) -> float | None:
    """What is promised, as the ratio or value that a row may have at most; None: nothing is."""
    release = kind == "btrfs" and peer == "cp --sparse and mv"
    if what == "wall" and release:
        return 1.3
    if what == "df freed":
        return 1 / 0.95 if release else None
    if peer != DIG:
        return None
    if what == "page cache":
        return None if hot else 1.0  # MiB
    if not hot:
        slower = 0.9 if kind == "ext4" else 0.8
        if what == "wall":
            return 1 / slower
        return 1 / 2.5
    if kind != "ext4":
        return 1 / 1.2 if what == "CPU" and shape == "half" else None
    if shape in ("dense", "sparse"):
        return 1 / 5
    return {"half": 1 / 1.7, "fragments": 1 / 1.1}[shape] if what == "CPU" else None


def compare(kind: str, shape: str, ours: list[list[str]], peer: list[list[str]], peer_name: str, files: tuple[Path, Path], *, hot: bool,
            rounds: int) -> list[Row]:
    our_runs: list[Run] = []
    peer_runs: list[Run] = []
    for number in range(rounds):
        turns = [(our_runs, ours), (peer_runs, peer)]
        for runs, commands in turns if number % 2 == 0 else reversed(turns):
            runs.append(timed(commands, *files, hot=hot))
            if subprocess.run(["cmp", "--silent", *map(str, files)], check=False).returncode != 0:
                if runs is our_runs:
                    raise RuntimeError(f"{shape}, {kind}: the image is another one afterwards")
    text = f"punch {shape}, {kind}, {'hot' if hot else 'cold'} / {peer_name}"

    def of(runs: list[Run], name: str) -> float:
        return median([getattr(run, name) for run in runs])

    def seconds(what: str, name: str) -> Row:
        return Row(f"{text}: {what}", f"{of(our_runs, name):.2f} s", f"{of(peer_runs, name):.2f} s",
                   [getattr(one, name) / getattr(other, name) for one, other in zip(our_runs, peer_runs)], rounds,
                   limit_of(kind, shape, peer_name, what, hot=hot))

    def bytes_of(what: str, name: str, value: float) -> Row:
        return Row(f"{text}: {what}", mib(of(our_runs, name)), mib(of(peer_runs, name)), [], rounds,
                   limit_of(kind, shape, peer_name, what, hot=hot), value)

    rows = [
        seconds("wall", "wall"),
        seconds("CPU", "cpu"),
        # Judged the other way round: theirs over ours.
        bytes_of("df freed", "freed", of(peer_runs, "freed") / max(of(our_runs, "freed"), 1.0)),
        bytes_of("page cache", "cache_changed", of(our_runs, "cache_changed") / MIB),
    ]
    for row in rows:
        print("   " + "  ".join(row.cells()), file=sys.stderr, flush=True)
    return rows


def run(*, smoke: bool, rounds: int) -> list[Row]:
    if os.geteuid() != 0:
        raise Skip("needs root: loop devices and mounts")
    require_programs("fallocate", "losetup", "qemu-img", "cmp", *(f"mkfs.{kind}" for kind in FILESYSTEMS))
    size = 64 * MIB if smoke else int(os.environ.get("BENCH_PUNCH_MIB", "2048")) * MIB
    wanted = os.environ.get("BENCH_PUNCH", "").split()
    program = find_program("bench_punch")
    if not program:
        raise RuntimeError("'bench_punch' is not built")
    rows: list[Row] = []
    private_mounts()
    with tempfile.TemporaryDirectory(prefix="vr-punch-") as name:
        directory = Path(name)
        require_space(directory, 4 * size + GIB)
        for kind in FILESYSTEMS:
            if wanted and not any(word.startswith(kind) for word in wanted):
                continue
            with mounted(kind, directory, 4 * size + 2 * GIB) as mount:
                for shape, make in IMAGES.items():
                    if wanted and f"{kind}-{shape}" not in wanted and kind not in wanted:
                        continue
                    files = (mount / f"master-{shape}", mount / "image")
                    make(files[0], size // 2 if shape == "fragments" else size)
                    ours = [[str(program), str(files[1])]]
                    dig = [["fallocate", "--dig-holes", str(files[1])]]
                    # Both only punch. What frees the space on btrfs is a step of its own, which fallocate has not.
                    punching = [[*ours[0], "--no-release"]] if kind == "btrfs" else ours
                    for hot in (True, False):
                        rows += compare(kind, shape, punching, dig, DIG, files, hot=hot, rounds=rounds)
                    if kind == "btrfs" and shape == "half":
                        rows += compare(kind, shape, ours, dig, DIG_AND_RELEASE, files, hot=True, rounds=rounds)
                    if shape == "half":
                        copy = str(mount / "copy")
                        move = ["mv", copy, str(files[1])]
                        rows += compare(kind, shape, ours,
                                        [["cp", "--reflink=never", "--sparse=always", str(files[1]), copy], move],
                                        "cp --sparse and mv", files, hot=True, rounds=rounds)
                        rows += compare(kind, shape, ours,
                                        [["qemu-img", "convert", "-f", "raw", "-O", "raw", "-S", "4k", str(files[1]), copy],
                                         move],
                                        "qemu-img convert and mv", files, hot=True, rounds=rounds)
                    for file in files:
                        file.unlink()
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(exist_ok=True)
    return rows
