"""`virt-reclaim sparsify` beside virt-sparsify --in-place, and beside a loop mount and fstrim by hand, on the same image; `sparsify --output`
beside virt-sparsify's copying mode, and beside qemu-img convert of the image once it is sparse, which is the least that a copy takes.

ext4 (one XFS, and small ones of other kinds) with random data, most of which was deleted: on the disk that TMPDIR is on, and on a tmpfs.
That XFS has many free runs of one length, of which virt-sparsify leaves some. One in a volume group, beside free extents in
which the filesystem of a volume lies that was removed: virt-sparsify leaves those. Each contestant gets a fresh copy in each round. virt-sparsify's
appliance is emulated (TCG): with KVM it would start in some seconds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "freemap"))
import imagelib
import lvm_test
from benchlib import GIB, MIB, Row, Skip, built, find_program, median, mib, require_programs, require_space
from punch import POOL, call, private_mounts

KEEP = 256 * MIB
OTHERS = {"ext2": "mkfs.ext2 -q", "btrfs": "mkfs.btrfs -q", "NTFS": "mkntfs -q -Q -F", "FAT32": "mkfs.vfat -F 32"}


@dataclass
class Run:
    wall: float
    cpu: float
    freed: int  # st_blocks before minus after; of a copy: source minus copy


@dataclass
class Shape:
    name: str
    size: int
    deleted: int
    format: str = "raw"
    tmpfs: bool = False
    fstrim: bool = False  # also beside a loop mount and fstrim
    copying: bool = False  # also a copy
    mkfs: str = "mkfs.ext4 -q"
    mixed: bool = False  # what stays lies between what is deleted, so that the longest free runs are many and of one length
    removed: int = 0  # in a volume group: bytes of the filesystem of a volume that is no more
    # What is promised of in place: so many times the wall and CPU of virt-sparsify, at most.
    wall: float | None = None
    cpu: float | None = None
    freed: float = 1.001  # theirs at most so many times ours: a mount writes, which may be a block more or less

    def promised(self, limit: float) -> float | None:
        """Nothing of small images: the smoke run."""
        return None if self.wall is None else limit


def shapes(*, smoke: bool) -> list[Shape]:
    if smoke:
        return [
            Shape("256 MiB raw, disk", 256 * MIB, 64 * MIB, fstrim=True),
            Shape("256 MiB qcow2, disk", 256 * MIB, 64 * MIB, "qcow2", copying=True),
        ]
    wanted = os.environ.get("BENCH_SPARSIFY", "").split()
    every = [
        Shape("20 GiB raw, disk", 20 * GIB, 3 * GIB, fstrim=True, wall=1 / 10, cpu=1 / 100),
        Shape("4 GiB raw, disk", 4 * GIB, 3 * GIB // 2, fstrim=True, copying=True, wall=1 / 40, cpu=1 / 100),
        Shape("4 GiB XFS raw, disk", 4 * GIB, 3 * GIB // 2, mkfs="mkfs.xfs -q", mixed=True, wall=1 / 40, cpu=1 / 100, freed=0.99),
        Shape("4 GiB LVM raw, disk", 4 * GIB, GIB, removed=512 * MIB, wall=1 / 40, cpu=1 / 100, freed=0.8),
        Shape("4 GiB qcow2, disk", 4 * GIB, 3 * GIB // 2, "qcow2", copying=True, wall=1 / 40, cpu=1 / 30),
        # What the others come to is judged of small ones: an appliance takes as long for them.
        *(Shape(f"1 GiB {name} raw, disk", GIB, GIB // 2, mkfs=mkfs, wall=1 / 10, cpu=1 / 10) for name, mkfs in OTHERS.items()),
        Shape("4 GiB raw, tmpfs", 4 * GIB, 3 * GIB // 2, tmpfs=True, fstrim=True, wall=1 / 40, cpu=1 / 30),
        Shape("4 GiB qcow2, tmpfs", 4 * GIB, 3 * GIB // 2, "qcow2", tmpfs=True, wall=1 / 40, cpu=1 / 30),
    ]
    return [shape for shape in every if not wanted or any(word in shape.name for word in wanted)]


def volume(group: lvm_test.Group, name: str) -> tuple[int, int]:
    """Where it lies: in one piece."""
    ((_, ((_, offset, length),)),) = group.volumes[name]
    return offset, length


def fill(mount: Path, contents: dict[str, int], *, mixed: bool) -> None:
    """Files of 16 MiB, so many bytes of each name: in a directory each, or in one and in turn, each in proportion to what there is of it."""
    files = [(name, i, size // (16 * MIB)) for name, size in contents.items() for i in range(size // (16 * MIB))]
    if mixed:
        files.sort(key=lambda file: file[1] / file[2])
    for name, i, _ in files:
        path = mount / (f"{name}.{i}" if mixed else f"{name}/{i}")
        path.parent.mkdir(exist_ok=True)
        # Random, and another file each time: no format finds doubles.
        path.write_bytes(POOL[i * 4096 % (16 * MIB) :][: 16 * MIB])


def leave_no_longer_run(mount: Path) -> None:
    """All that is free goes to one file, of which nothing is written: what is deleted later are the longest free runs."""
    with (mount / "preallocated").open("wb") as file:
        size, piece = 0, GIB
        while piece >= MIB // 16:
            try:
                os.posix_fallocate(file.fileno(), size, piece)
                size += piece
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 2


def make_filesystem(raw: Path, mkfs: str, contents: dict[str, int], place: tuple[int, int], *, mixed: bool = False) -> None:
    """With so many bytes of each name; what is "deleted" goes again."""
    mount = raw.parent / "making"
    mount.mkdir()
    loop = imagelib.attach(raw, *place)
    try:
        call(*mkfs.split(), loop)
        call("ntfs-3g" if "ntfs" in mkfs else "mount", loop, str(mount))
        try:
            fill(mount, contents, mixed=mixed)
            if mixed:
                leave_no_longer_run(mount)
            call("sync", "-f", str(mount))
            call("rm", "-rf", *map(str, mount.glob("deleted*")))
        finally:
            call("umount", str(mount))
    finally:
        call("losetup", "-d", loop)
        mount.rmdir()


def make_fat(raw: Path, mkfs: str, contents: dict[str, int]) -> None:
    """As make_filesystem, where no kernel mounts it."""
    call(*mkfs.split(), str(raw))
    tools = imagelib.Mtools(raw)
    with tempfile.TemporaryDirectory(dir=raw.parent) as name:
        fill(Path(name), contents, mixed=False)
        tools.run("mcopy", "-s", *sorted(Path(name).iterdir()), "::/")
    tools.run("mdeltree", "::/deleted")


def make_master(path: Path, shape: Shape) -> None:
    raw = path if shape.format == "raw" else path.with_suffix(".raw")
    if shape.removed:
        group = lvm_test.Group(path.parent, [shape.size], names=[raw.name])
        group.create(f"lvcreate -an -Zn -Wn -n kept -L {shape.size * 5 // 8}b vg", f"lvcreate -an -Zn -Wn -n removed -L {2 * shape.removed}b vg")
        make_filesystem(raw, shape.mkfs, {"removed": shape.removed}, volume(group, "removed"))
        make_filesystem(raw, shape.mkfs, {"kept": min(KEEP, shape.deleted), "deleted": shape.deleted}, volume(group, "kept"))
        group.lvm("lvremove -y vg/removed")
    else:
        with open(raw, "wb") as file:
            file.truncate(shape.size)
        contents = {"kept": min(KEEP, shape.deleted), "deleted": shape.deleted}
        if "vfat" in shape.mkfs:
            make_fat(raw, shape.mkfs, contents)
        else:
            make_filesystem(raw, shape.mkfs, contents, (0, shape.size), mixed=shape.mixed)
    if shape.format == "raw":
        return
    call("qemu-img", "convert", "-f", "raw", "-O", shape.format, str(raw), str(path))
    raw.unlink()


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def timed(commands: list[list[str]], environment: dict[str, str], master: Path, image: Path, output: Path) -> Run:
    """Of what changes `image`, or copies it to `output`."""
    image.unlink(missing_ok=True)
    output.unlink(missing_ok=True)
    call("cp", "--reflink=never", "--sparse=always", str(master), str(image))
    sync(image)
    before = allocated(image)
    begin, usage = time.monotonic(), os.times()
    for command in commands:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    wall, after = time.monotonic() - begin, os.times()
    cpu = after.children_user + after.children_system - usage.children_user - usage.children_system
    left = output if output.exists() else image
    sync(left)
    return Run(wall, cpu, before - allocated(left))


@dataclass
class Contest:
    """Who is compared with whom, and what is promised: ours at most so many times theirs, and freed no less."""

    peer_name: str
    ours: list[list[str]]
    peer: list[list[str]]
    verb: str = "sparsify"
    wall: float | None = None
    cpu: float | None = None
    freed: float | None = None  # theirs at most so many times ours

    def run(self, shape: Shape, environment: dict[str, str], master: Path, image: Path, output: Path, rounds: int) -> list[Row]:
        our_runs: list[Run] = []
        peer_runs: list[Run] = []
        for number in range(rounds):
            turns = [(our_runs, self.ours), (peer_runs, self.peer)]
            for runs, commands in turns if number % 2 == 0 else reversed(turns):
                runs.append(timed(commands, environment, master, image, output))
        text = f"{self.verb} {shape.name}, {mib(shape.deleted + shape.removed)} deleted / {self.peer_name}"
        freed, theirs = median([r.freed for r in our_runs]), median([r.freed for r in peer_runs])
        rows = [
            Row(f"{text}: wall", f"{median([r.wall for r in our_runs]):.2f} s", f"{median([r.wall for r in peer_runs]):.2f} s",
                [one.wall / other.wall for one, other in zip(our_runs, peer_runs)], rounds, limit=self.wall),
            Row(f"{text}: CPU", f"{median([r.cpu for r in our_runs]):.3f} s", f"{median([r.cpu for r in peer_runs]):.2f} s",
                [one.cpu / max(other.cpu, 0.001) for one, other in zip(our_runs, peer_runs)], rounds, limit=self.cpu),
            Row(f"{text}: freed", mib(freed), mib(theirs), [], rounds, limit=self.freed, value=theirs / max(freed, 1)),
        ]
        for row in rows:
            print("   " + "  ".join(row.cells()), file=sys.stderr, flush=True)
        return rows


def contests(shape: Shape, environment: dict[str, str], directory: Path, image: Path, sparse: Path, output: Path) -> Iterator[Contest]:
    ours = [str(built("virt-reclaim")), f"--run-dir={directory / 'run'}", "sparsify", "--no-libvirt"]
    peer = ["virt-sparsify", "--quiet", "--format", shape.format]
    in_place = [[*ours, str(image)]]
    theirs = [*peer, "--in-place", str(image)]
    yield Contest("virt-sparsify (TCG)", in_place, [theirs], wall=shape.wall, cpu=shape.cpu, freed=shape.promised(shape.freed))
    if shape.fstrim:
        mount = directory / "mount"
        mount.mkdir(exist_ok=True)
        by_hand = [["mount", "-o", "loop", str(image), str(mount)], ["fstrim", str(mount)], ["umount", str(mount)]]
        yield Contest("mount, fstrim, umount", in_place, by_hand, wall=shape.promised(1.2))
    if shape.copying:
        copy = [[*ours, "--output", str(output), str(image)]]
        theirs = [*peer, "--check-tmpdir=ignore", str(image), str(output)]
        yield Contest("virt-sparsify (TCG)", copy, [theirs], "sparsify --output", wall=shape.promised(1 / 5))
        subprocess.run([*ours, str(sparse)], env=environment, check=True, capture_output=True)
        # Ours has synced its copy when it ends.
        convert = [["qemu-img", "convert", "-f", shape.format, "-O", shape.format, str(sparse), str(output)], ["sync", str(output)]]
        yield Contest("qemu-img convert of what is left, sync", copy, convert, "sparsify --output", wall=shape.promised(1.5))


@contextlib.contextmanager
def place(directory: Path, *, tmpfs: bool) -> Iterator[Path]:
    where = directory / ("memory" if tmpfs else "disk")
    where.mkdir()
    if tmpfs:
        call("mount", "-t", "tmpfs", "-o", "size=8G", "tmpfs", str(where))
    try:
        yield where
    finally:
        if tmpfs:
            call("umount", str(where))
        shutil.rmtree(where)


def run(*, smoke: bool, rounds: int) -> list[Row]:
    if os.geteuid() != 0:
        raise Skip("needs root: loop devices and mounts")
    require_programs("mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mkntfs", "ntfs-3g", "mkfs.vfat", "mcopy", "lvm", "losetup", "qemu-img", "qemu-storage-daemon", "fstrim", "virt-sparsify")
    worker = find_program("virt-reclaim-freemap")
    if not worker:
        raise RuntimeError("'virt-reclaim-freemap' is not built")
    private_mounts()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="vr-sparsify-") as name:
        directory = Path(name)
        environment = os.environ | {
            "VIRT_RECLAIM_FREEMAP": str(worker), "LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        }
        for shape in shapes(smoke=smoke):
            require_space(directory, 0 if shape.tmpfs else (5 if shape.copying else 3) * (shape.deleted + shape.removed) + GIB)
            with place(directory, tmpfs=shape.tmpfs) as where:
                master, image = where / f"master.{shape.format}", where / f"image.{shape.format}"
                make_master(master, shape)
                sparse, output = where / f"sparse.{shape.format}", where / f"copy.{shape.format}"
                if shape.copying:
                    call("cp", "--reflink=never", "--sparse=always", str(master), str(sparse))
                for contest in contests(shape, environment, directory, image, sparse, output):
                    rows += contest.run(shape, environment, master, image, output, rounds)
    return rows
