#!/usr/bin/env python3
"""hostile_test.py DUMP [--mutants=N] [--seed=N] [KIND...]: damaged metadata never frees a block that is in use.

Each mutant is an image with some bits flipped, or a field overwritten, where the reader looks. What it then calls free and the
undamaged image does not is wrong: where checksums cover the map that may never happen, elsewhere it is counted and bounded. Of
ext2, ext3 and an ext4 without them it may be no more, in sum, than what the kernel's own trim frees wrongly of the same images;
of NTFS, FAT and exFAT no more than what the map says that Linux's driver would go by (kernelmaps.py).
VR_MUTANTS=N in the environment sets the number too. DUMP runs the readers in its own process, so that a crash is one, and
sanitizers see it.
"""

import collections
import contextlib
import itertools
import os
import pathlib
import random
import shutil
import struct
import sys
from dataclasses import dataclass

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import imagelib
import kernelmaps
import xfs4lib
from imagelib import MIB, Dump, Mounted, Mtools, fill, holes, run


@dataclass
class Kind:
    type: str
    mkfs: str
    size: int
    checksums: bool
    wrong_bytes: int = 0  # the most that one mutant may free wrongly, without checksums

    @property
    def by_kernel(self):
        """Whether the kernel's own trim is the measure of what may be freed wrongly."""
        return self.type in ("ext2", "ext4") and not self.checksums


KINDS = {
    "ext4": Kind("ext4", "mkfs.ext4 -q -g 8192", 96 * MIB, True),
    "ext4-1k": Kind("ext4", "mkfs.ext4 -q -b 1024 -O meta_bg,^resize_inode", 64 * MIB, True),
    # Its descriptors have checksums, its bitmaps have not.
    "ext4-uninit": Kind("ext4", "mkfs.ext4 -q -O ^metadata_csum,uninit_bg", 96 * MIB, False, 64 << 10),
    "ext3": Kind("ext4", "mkfs.ext3 -q", 96 * MIB, False, 64 << 10),
    "ext2": Kind("ext2", "mkfs.ext2 -q -b 1024", 64 * MIB, False, 64 << 10),
    "btrfs": Kind("btrfs", "mkfs.btrfs -q -m single", 128 * MIB, True),
    "btrfs-dup": Kind("btrfs", "mkfs.btrfs -q", 256 * MIB, True),
    # No checksums, but every run in use is known from the MFT.
    "ntfs": Kind("ntfs", "mkntfs -q -Q -F", 64 * MIB, False, 64 << 10),
    "ntfs-512": Kind("ntfs", "mkntfs -q -Q -F -c 512", 32 * MIB, False, 64 << 10),
    "fat12": Kind("vfat", "mkfs.fat -F 12 -s 16", 30 * MIB, False, 64 << 10),
    "fat16": Kind("vfat", "mkfs.fat -F 16 -f 1", 48 * MIB, False, 64 << 10),
    "fat32": Kind("vfat", "mkfs.fat -F 32 -s 1", 48 * MIB, False, 64 << 10),
    "exfat": Kind("exfat", "mkfs.exfat -c 4K", 48 * MIB, False, 64 << 10),
    "xfs": Kind("xfs", "mkfs.xfs -q --unsupported -l size=16m", 300 * MIB, True),
    "xfs-v4": Kind("xfs4", f"{xfs4lib.MKFS} --unsupported -l size=16m", 300 * MIB, False, 64 << 10),
}


def subtract(runs, truth):
    """Bytes of `runs` that are in no run of `truth`; both sorted."""
    wrong, at = 0, 0
    for offset, length in runs:
        end = offset + length
        while offset < end:
            while at < len(truth) and sum(truth[at]) <= offset:
                at += 1
            if at == len(truth) or truth[at][0] >= end:
                wrong += end - offset
                break
            begin = max(offset, truth[at][0])
            wrong += begin - offset
            offset = min(end, sum(truth[at]))
        at = max(0, at - 1)
    return wrong


def mutate(rng, data, ways=6):
    data = bytearray(data)
    way = rng.randrange(ways)
    if way == 6:
        # A map that lies and counts right: nothing but a walk of all files would see it.
        one, other = rng.randrange(len(data)), rng.randrange(len(data))
        data[one], data[other] = data[other], data[one]
    elif way < 3:
        for _ in range((1, 2, 8)[way]):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == 3:
        data[rng.randrange(len(data))] = rng.randrange(256)
    else:
        width = min(len(data), 4 if way == 4 else rng.choice((2, 8)))
        at = rng.randrange(0, len(data) - width + 1, width)
        value = rng.choice((b"\0" * width, b"\xff" * width, rng.randbytes(width), b"\x7f" + b"\xff" * (width - 1)))
        data[at : at + width] = value
    return bytes(data)


def runs_of(found):
    return sorted((offset, length) for fs in found if fs.refusal == "none" for _, offset, length in fs.runs)


class KernelTrim:
    """What the kernel frees of a damaged image. Its copies lie on a filesystem of the smallest blocks: a loop device takes no shorter discards than
    that has, and each makes a hole in them."""

    def __init__(self, directory, size):
        storage = directory / "storage"
        with open(storage, "wb") as file:
            file.truncate(size + 64 * MIB)
        run("mkfs.ext4", "-q", "-b", "1024", "-O", "^has_journal", storage)
        self.storage = Mounted(storage, "ext4")

    def __enter__(self):
        self.copy = self.storage.__enter__() / "copy"
        return self

    def __exit__(self, *words):
        self.storage.__exit__(*words)

    def __call__(self, image):
        """Runs of bytes; None where it does not mount the image."""
        with open(image, "rb") as source, open(self.copy, "wb") as file:
            shutil.copyfileobj(source, file, MIB)  # zeroes too: no hole to begin with
            file.flush()
            os.fsync(file.fileno())
        if holes(self.copy):
            raise AssertionError("a copy with holes")
        # Whatever its superblock says: an error must not stop this machine.
        mounted = Mounted(self.copy, "ext4", "errors=continue,noinit_itable")
        try:
            directory = mounted.__enter__()
        except RuntimeError:
            return None
        try:
            run("fstrim", directory, check=False)  # what it freed before an error counts, too
        finally:
            mounted.__exit__()
        with open(self.copy, "rb") as file:
            os.fsync(file.fileno())
        return holes(self.copy)


# Of filesystems that are tested where no kernel mounts them. XFS 4 is none: its driver looks at all that ours does.
# So many mutants are compared in any case: ours frees nothing wrongly of nearly all, and what the driver does is to be seen.
ALWAYS_COMPARED = 40
MAPS = {"vfat": kernelmaps.vfat, "exfat": kernelmaps.exfat, "ntfs": kernelmaps.ntfs}


def map_of(image, read):
    """None, too, where what `read` follows leads out of the image: the driver would not get to a map either."""
    try:
        return read(image.read_bytes())
    except (IndexError, struct.error):
        return None


class Comparison:
    """Of mutants, among them all that free what is in use: how much, and what the kernel frees of the same ones."""

    def __init__(self, kernel, truth):
        self.kernel, self.truth = kernel, truth
        self.mutants = self.ours = self.kernels = 0
        self.not_mounted = self.not_mounted_bytes = 0

    def add(self, image, wrong):
        freed = self.kernel(image)
        if freed is None:
            self.not_mounted += 1
            self.not_mounted_bytes += wrong
            return
        self.mutants += 1
        self.ours += wrong
        self.kernels += subtract(freed, self.truth)

    def __str__(self):
        return (f"; of {self.mutants} that the kernel mounts, {self.ours} bytes in use were freed, by its own trim {self.kernels}"
                f"; of {self.not_mounted} that it does not, {self.not_mounted_bytes}")


def torture(name, kind, dump, work, mutants, seed):
    work = work / name
    work.mkdir()
    image = work / "image"
    with open(image, "wb") as file:
        file.truncate(kind.size)
    run(*kind.mkfs.split(" "), image)
    if kind.type == "vfat":
        Mtools(image).fill("chequered", seed, 12)
    elif kind.type == "xfs4":
        xfs4lib.Xfs4(kind.mkfs).fill(image, "chequered", seed, 12)
    else:
        with Mounted(image, kind.type) as directory:
            fill(directory, "chequered", seed, 12)
    found = dump(image, options=["--reads"])
    truth = runs_of(found)
    if len(found) != 1 or not truth:
        raise AssertionError(f"{name}: the image itself was not read: {found}")
    # Page by page; of something long, like a log, its first ones and its last.
    reads = sorted({(offset + at, min(length - at, 4096)) for _, offset, length in dump.reads
                    for at in range(0, min(length, 64 << 10), 4096)})
    reads += sorted({(offset + length - 4096, 4096) for _, offset, length in dump.reads if length > 4096})
    with contextlib.ExitStack() as stack:
        compared = None
        if kind.by_kernel:
            compared = Comparison(stack.enter_context(KernelTrim(work, kind.size)), truth)
        elif kind.type in MAPS:
            compared = Comparison(lambda path: map_of(path, MAPS[kind.type]), truth)
            if subtract(compared.kernel(image), truth) or subtract(truth, compared.kernel(image)):
                raise AssertionError(f"{name}: the undamaged image has another map by the kernel's driver")
        counts, worst = judge_mutants(name, kind, dump, image, (reads, truth, compared), mutants, seed)
    image.unlink()
    if compared and compared.ours > compared.kernels:
        raise AssertionError(f"{name}: more than the kernel{compared}")
    if kind.by_kernel and compared.mutants == 0:
        raise AssertionError(f"{name}: nothing to compare with the kernel")
    return (f"{name}: {sum(counts.values())} mutants: " + ", ".join(f"{counts[k]} {k}" for k in ("refused", "accepted", "wrong"))
            + (f" (at most {worst} bytes)" if worst else "") + str(compared or ""))


def judge_mutants(name, kind, dump, image, known, mutants, seed):
    """How many were refused, accepted and wrong; and the most bytes that one of them freed wrongly. There are more when the kernel had none to judge."""
    reads, truth, compared = known
    rng = random.Random(seed)
    counts = collections.Counter()
    worst = 0
    with open(image, "r+b") as file:
        fd = file.fileno()
        for number in itertools.count():
            if number >= mutants and (not kind.by_kernel or compared.mutants or number >= 20 * mutants):
                break
            offset, length = rng.choice(reads)
            before = os.pread(fd, length, offset)
            os.pwrite(fd, mutate(rng, before, 7 if compared else 6), offset)
            try:
                runs = runs_of(dump(image))
                wrong = subtract(runs, truth)
                if compared and (wrong or (number < ALWAYS_COMPARED and not kind.by_kernel)):
                    compared.add(image, wrong)
            except RuntimeError as error:
                raise AssertionError(f"{name}, mutant {number} of seed {seed}: {error}") from None
            finally:
                os.pwrite(fd, before, offset)
            worst = max(worst, wrong)
            counts["wrong" if wrong else "accepted" if runs else "refused"] += 1
            if wrong > (0 if kind.checksums else kind.wrong_bytes):
                raise AssertionError(f"{name}, mutant {number} of seed {seed}, at {offset}: {wrong} bytes freed that are in use")
    return counts, worst


def main():
    options = dict(word[2:].split("=") for word in sys.argv[2:] if word.startswith("--"))
    names = [word for word in sys.argv[2:] if not word.startswith("--")] or list(KINDS)
    mutants = int(options.get("mutants", os.environ.get("VR_MUTANTS", 500)))
    imagelib.need("mkfs.ext4", "mkfs.xfs", "xfs_db", "mkntfs", "mkfs.fat", "mcopy", "mkfs.exfat", "mount.exfat-fuse")
    imagelib.own_mounts()
    failed = 0
    with imagelib.work_directory("freemap-hostile.") as work:
        seed = int(options.get("seed", 1))
        jobs = ((name, KINDS[name], Dump(sys.argv[1]), work, mutants, seed) for name in names)
        for (name, *_), result in imagelib.each(torture, jobs):
            failed += isinstance(result, Exception)
            print(f"FAILED {name}: {result!r}" if isinstance(result, Exception) else result, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
