"""Images with real filesystems, made, filled and judged, for the tests of the free map worker.

Everything that is mounted is mounted in a mount namespace of the test's own, through loop devices that the kernel detaches
with their last user: nothing stays behind, however a test ends.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import hashlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

SKIP = 77
CLONE_NEWNS = 0x00020000
KEEP_SIZE_PUNCH_HOLE = 0x1 | 0x2
MIB = 1 << 20
PATIENCE_SECONDS = 10
libc = ctypes.CDLL(None, use_errno=True)


def run(*words, check=True, **more):
    done = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=more.pop("timeout", 300), **more)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: status {done.returncode}\n{done.stdout[-3000:]}")
    return done


def need(*tools):
    """Ends the test as skipped unless it is root's and has these programs."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [tool for tool in tools if not shutil.which(tool)]
    if os.geteuid() != 0:
        missing.append("root")
    if not os.access("/dev/loop-control", os.W_OK):
        missing.append("loop devices")
    if missing:
        print("SKIP: needs " + ", ".join(missing))
        sys.exit(SKIP)


def each(function, jobs, at_once=os.cpu_count()):
    """(job, result or exception) of function(*job), as they end; by default as many at once as there are processors."""
    with concurrent.futures.ProcessPoolExecutor(at_once) as pool:
        futures = {pool.submit(function, *job): job for job in jobs}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.exception() or future.result()


def own_mounts():
    """From now on what this process mounts dies with it."""
    if libc.unshare(CLONE_NEWNS) != 0:
        print("SKIP: no mount namespace to be had")
        sys.exit(SKIP)
    run("mount", "--make-rprivate", "/")


@contextlib.contextmanager
def work_directory(prefix):
    """A directory that goes at the end, also the one in which whatever is started makes its temporary files."""
    work = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
    os.environ["TMPDIR"] = tempfile.tempdir = str(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@dataclass
class Filesystem:
    index: int
    disk: int
    offset: int
    length: int
    size: int
    block: int
    free: int
    dropped: int
    refusal: str
    place: str
    type: str
    reason: str
    runs: list[tuple[int, int, int]] = field(default_factory=list)  # disk, offset, length


class Dump:
    """tests/freemap/freemap_dump, through the worker or in its own process."""

    def __init__(self, program, worker=None):
        self.command = [program, *([f"--worker={worker}"] if worker else [])]
        self.peak_kib = (0, 0)
        self.reads = []

    def __call__(self, *images, options=()):
        done = subprocess.run([*self.command, *options, *map(str, images)], capture_output=True, text=True, errors="replace",
                              timeout=300)
        if done.returncode != 0:
            raise RuntimeError(f"freemap_dump {images}: status {done.returncode}: {done.stderr[-3000:]}")
        found, self.reads = [], []
        for line in done.stdout.splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "fs":
                numbers, place, type_, reason = rest.split("\t")
                words = numbers.split(" ")
                found.append(Filesystem(*map(int, words[:8]), words[8], place, type_, reason))
            elif kind == "run":
                index, disk, offset, length = map(int, rest.split(" "))
                found[index].runs.append((disk, offset, length))
            elif kind == "read":
                self.reads.append(tuple(map(int, rest.split(" "))))
            elif kind == "peak":
                self.peak_kib = tuple(map(int, rest.split(" ")))
        return found


def punch(fd, offset, length):
    if libc.fallocate(fd, KEEP_SIZE_PUNCH_HOLE, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "punch")


def scribble(fd, offset, length):
    """Bytes that no one can take for anything, over what is free: worse than zeroes for whoever still uses them."""
    pattern = b"\xa5\x5a\xc3\x3c" * (MIB // 4)
    while length > 0:
        n = os.pwrite(fd, pattern[: min(length, MIB)], offset)
        offset, length = offset + n, length - n


def allocated(path):
    return os.stat(path).st_blocks * 512


def holes(path, begin=0, end=None):
    """Runs of bytes between `begin` and `end` that hold no storage. What was written is seen when it was synced."""
    found = []
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size if end is None else end
        while begin < end:
            try:
                data = min(os.lseek(file.fileno(), begin, os.SEEK_DATA), end)
            except OSError:  # ENXIO: none
                data = end
            if data > begin:
                found.append((begin, data - begin))
            begin = os.lseek(file.fileno(), data, os.SEEK_HOLE) if data < end else end
    return found


def hash_outside(path, runs):
    """Of every byte that is in no run."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        for offset, length in [*sorted(runs), (end, 0)]:
            file.seek(at)
            left = offset - at
            while left > 0:
                piece = file.read(min(left, MIB))
                digest.update(piece)
                left -= len(piece)
            at = offset + length
    return digest.hexdigest()


# By a program, as kernels without these filesystems can.
FUSE = {"ntfs": "ntfs-3g", "exfat": "mount.exfat-fuse"}


def unmount(directory):
    """A kernel lets go of a file after its close, with FUSE somewhat later, and who looks at all files of the machine holds it, too."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while subprocess.run(["umount", directory], capture_output=True, check=False).returncode != 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    if os.path.ismount(directory):
        run("umount", "--lazy", directory)  # or a FUSE's program would keep it for ever
        raise RuntimeError(f"{directory}: still in use after {PATIENCE_SECONDS} s")


class Mounted:
    """with Mounted(image, ...) as directory:"""

    def __init__(self, image, type_, options="", offset=0, size=None):
        self.image, self.type, self.offset, self.size, self.options = image, type_, offset, size, options
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="mnt."))

    def __enter__(self):
        if self.type in FUSE:
            loop = attach(self.image, self.offset, self.size)
            run(FUSE[self.type], *(["-o", self.options] if self.options else []), loop, self.directory)
            run("losetup", "-d", loop)  # once its last user is gone
        else:
            options = ["loop", f"offset={self.offset}", f"sizelimit={self.size}" if self.size else "", self.options]
            run("mount", "-t", self.type, "-o", ",".join(filter(None, options)), self.image, self.directory)
        return self.directory

    def __exit__(self, *_):
        unmount(self.directory)
        self.directory.rmdir()
        wait_for_loops(self.image)


class Mtools:
    """A FAT filesystem in an image, where no kernel mounts one."""

    def __init__(self, image, offset=0):
        self.drive = f"{image}@@{offset}"

    def run(self, tool, *words, **more):
        return run(tool, "-i", self.drive, *words, env=os.environ | {"MTOOLS_SKIP_CHECK": "1"}, **more)

    def fill(self, pattern, seed, megabytes):
        """As fill: first everything, then the holes, then something that lies in them."""
        goners = []
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            fill(directory, "few" if pattern == "full" else pattern, seed, megabytes, remove=goners.extend)
            for path in directory.rglob("*"):
                if path.is_symlink():
                    path.unlink()
            if not any(directory.iterdir()):
                return
            self.run("mcopy", "-s", "-n", *sorted(directory.iterdir()), "::/", check=pattern != "full")
            if goners:
                self.run("mdel", *(f"::/{path.relative_to(directory)}" for path in goners), check=pattern != "full")
            late = directory / "late file with a long name"
            late.write_bytes(random.Random(seed).randbytes(megabytes << 14))
            self.run("mcopy", late, "::/")

    def hashes(self):
        with tempfile.TemporaryDirectory() as directory:
            self.run("mcopy", "-s", "-n", "::/", directory)
            return hashes(directory)


def attach(image, offset=0, size=None, options=()):
    """A loop device; the caller detaches it."""
    limit = ["--sizelimit", size] if size else []
    return run("losetup", "-f", "--show", "-o", offset, *limit, *options, image).stdout.strip()


def detach(loop, image):
    run("losetup", "-d", loop)
    wait_for_loops(image)


def wait_for_loops(image):
    """Until no loop device has the image: one goes with its last user, who may be another test's mount that looks at all of them."""
    path, deadline = os.path.realpath(image), time.monotonic() + PATIENCE_SECONDS
    while True:
        names = []
        for file in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
            try:
                names.append(file.read_text().strip())
            except OSError:
                pass  # it went meanwhile
        if path not in names:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"a loop device keeps {image}")
        time.sleep(0.01)


def fill(directory, pattern, seed, megabytes, remove=None):
    """Files that stay and files that go. Patterns: empty, few, chequered, deep, pieces, full. `remove` gets the list of those that go."""
    rng = random.Random(seed)
    directory = pathlib.Path(directory)
    if pattern == "empty":
        return

    def write(path, size):
        path.write_bytes(rng.randbytes(size))

    def sync():
        fd = os.open(directory, os.O_RDONLY)
        libc.syncfs(fd)
        os.close(fd)

    goners = []
    if pattern == "few":
        for i in range(megabytes // 4):
            path = directory / f"file{i}"
            write(path, 4 * MIB)
            if i % 4:
                goners.append(path)
    elif pattern == "chequered":
        for i in range(megabytes * 40):
            path = directory / f"d{i % 7}" / f"small{i}"
            path.parent.mkdir(exist_ok=True)
            write(path, rng.randrange(1, 12000))
            if i % 2:
                goners.append(path)
    elif pattern == "deep":
        at = directory
        for i in range(40):
            at = at / f"deeper{i}"
            at.mkdir()
            write(at / "data", rng.randrange(100, 400_000))
            write(at / "gone", rng.randrange(100, 600_000))
            goners.append(at / "gone")
            if i % 5 == 0:
                try:
                    os.symlink("x" * 200, at / "link")
                except OSError:
                    pass  # not everywhere
                with open(at / "sparse", "wb") as file:  # its holes are nobody's blocks
                    for j in range(20):
                        file.seek(j * 300_000)
                        file.write(rng.randbytes(3000))
    elif pattern == "pieces":
        # Every other small file goes, and what comes then lies in thousands of runs: one file, and the maps of many.
        small = []
        try:
            for i in range(100_000):
                small.append(directory / f"small{i}")
                write(small[-1], 4096)
        except OSError:
            small.pop().unlink()
        for path in small[::2]:
            path.unlink()
        try:
            with open(directory / "pieces", "wb") as file:
                for i in range(len(small) // 4):
                    file.write(rng.randbytes(4096))
            for i in range(len(small)):
                write(directory / f"tiny{i}", 10)
        except OSError:
            pass
        goners += small[1::20]
    elif pattern == "full":
        try:
            for i in range(100_000):
                path = directory / f"full{i}"
                write(path, rng.randrange(10_000, 2 * MIB))
                if i % 9 == 4:
                    goners.append(path)
        except OSError:
            pass
    sync()
    if remove:
        remove(goners)
        return
    for path in goners:
        path.unlink()
    sync()


def hashes(directory):
    """path -> (mode, size, sha256 or link) of everything below"""
    found = {}
    directory = pathlib.Path(directory)
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_file():
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            what = ""
        found[str(path.relative_to(directory))] = (status.st_mode, status.st_size if path.is_file() else 0, what)
    return found
