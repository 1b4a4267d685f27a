#!/usr/bin/env python3
"""hostile_test.py DUMP [--mutants=N] [--seed=N] [KIND...]: damaged metadata never frees a block that is in use.

Each mutant is an image with some bits flipped, or a field overwritten, where the reader looks. What it then calls free and the
undamaged image does not is wrong: where checksums cover the map that may never happen, elsewhere it is counted and bounded.
VR_MUTANTS=N in the environment sets the number too. DUMP runs the readers in its own process, so that a crash is one, and
sanitizers see it.
"""

import collections
import os
import pathlib
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import imagelib
from imagelib import MIB, Dump, Mounted, Mtools, fill, run


@dataclass
class Kind:
    type: str
    mkfs: str
    size: int
    checksums: bool
    wrong_bytes: int = 0  # the most that one mutant may free wrongly, without checksums


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


def mutate(rng, data):
    data = bytearray(data)
    way = rng.randrange(6)
    if way < 3:
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


def torture(name, kind, dump, work, mutants, seed):
    image = work / name
    with open(image, "wb") as file:
        file.truncate(kind.size)
    run(*kind.mkfs.split(" "), image)
    if kind.type == "vfat":
        Mtools(image).fill("chequered", seed, 12)
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
    rng = random.Random(seed)
    counts = collections.Counter()
    worst = 0
    fd = os.open(image, os.O_RDWR)
    for number in range(mutants):
        offset, length = rng.choice(reads)
        before = os.pread(fd, length, offset)
        os.pwrite(fd, mutate(rng, before), offset)
        try:
            found = dump(image)
        except RuntimeError as error:
            raise AssertionError(f"{name}, mutant {number} of seed {seed}: {error}") from None
        finally:
            os.pwrite(fd, before, offset)
        wrong = subtract(runs_of(found), truth)
        worst = max(worst, wrong)
        counts["wrong" if wrong else "accepted" if runs_of(found) else "refused"] += 1
        if wrong > (0 if kind.checksums else kind.wrong_bytes):
            raise AssertionError(f"{name}, mutant {number} of seed {seed}, at {offset}: {wrong} bytes freed that are in use")
    os.close(fd)
    image.unlink()
    return (f"{name}: {mutants} mutants: " + ", ".join(f"{counts[k]} {k}" for k in ("refused", "accepted", "wrong"))
            + (f" (at most {worst} bytes)" if worst else ""))


def main():
    options = dict(word[2:].split("=") for word in sys.argv[2:] if word.startswith("--"))
    names = [word for word in sys.argv[2:] if not word.startswith("--")] or list(KINDS)
    mutants = int(options.get("mutants", os.environ.get("VR_MUTANTS", 500)))
    imagelib.need("mkfs.ext4", "mkfs.xfs", "mkntfs", "mkfs.fat", "mcopy", "mkfs.exfat", "mount.exfat-fuse")
    imagelib.own_mounts()
    work = pathlib.Path(tempfile.mkdtemp(prefix="freemap-hostile."))
    os.environ["TMPDIR"] = tempfile.tempdir = str(work)
    failed = 0
    try:
        seed = int(options.get("seed", 1))
        jobs = ((name, KINDS[name], Dump(sys.argv[1]), work, mutants, seed) for name in names)
        for (name, *_), result in imagelib.each(torture, jobs):
            failed += isinstance(result, Exception)
            print(f"FAILED {name}: {result!r}" if isinstance(result, Exception) else result, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
