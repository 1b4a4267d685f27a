#!/usr/bin/env python3
"""content_test.py PROGRAM WORKER DUMP: sparsify on images of every format and filesystem keeps every byte that is in use.

For each image: a dry run changes nothing and promises what then comes; every file, every byte outside the free runs and the
checkers of filesystem and image say that nothing was lost; what was freed is what the host measures; a second run finds
nothing left. Prints a line for each image and the counts.
"""

import os
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import sparsifylib
from sparsifylib import MIB, Case, Judge, Program, allocated, qcow2_errors

import imagelib

QCOW2 = ("", "compat=0.10", "cluster_size=4096", "cluster_size=2M", "extended_l2=on,cluster_size=128k", "lazy_refcounts=on",
         "preallocation=metadata", "refcount_bits=1", "compression_type=zlib", "compression_type=zstd")


def cases():
    yield Case("ext4", "mkfs.ext4 -q", "few"), QCOW2
    yield Case("ext4", "mkfs.ext4 -q", "deep", table="gpt"), ["", "cluster_size=4096"]
    yield Case("xfs", "mkfs.xfs -q", "few", size=320 * MIB), [""]
    yield Case("btrfs", "mkfs.btrfs -q", "few", size=256 * MIB), [""]
    yield Case("ntfs", "mkntfs -q -Q -F", "few"), [""]
    yield Case("exfat", "mkfs.exfat", "few", megabytes=20), [""]


def sparsify_one(judge, program, path, format_, options):
    judge.copy(path, format_, options)
    before = allocated(path)
    promised = program("--dry-run", path)["total"]["reclaimable_bytes"]
    if allocated(path) != before:
        raise AssertionError("the dry run changed something")
    judge.check(path, format_)
    result = program(path)
    disk = result["targets"][0]["disks"][0]
    gone = before - allocated(path)
    if disk["format"] != format_ or disk["given_back_bytes"] != promised or result["total"]["freed_bytes"] != max(gone, 0):
        raise AssertionError(f"promised {promised}, gone {gone}, said {result}")
    # Preallocated clusters and compressed ones may hold less storage than their size.
    if promised == 0 or (gone < promised * 0.9 and "compression_type" not in options and "preallocation" not in options):
        raise AssertionError(f"only {gone} of {promised} came free")
    if format_ == "qcow2" and any(qcow2_errors(path)):
        raise AssertionError("qemu-img check is not content")
    judge.check(path, format_)
    again = program(path)["targets"][0]
    # Compressed clusters that share a cluster of the host leave pieces in it.
    if again["disks"][0]["given_back_bytes"] > 0 or "nothing-reclaimable" not in again["reasons"]:
        raise AssertionError(f"a second run found more: {again}")
    path.unlink()
    return gone


def main():
    virt_reclaim, worker, dump = sys.argv[1:4]
    imagelib.need("mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mkntfs", "mkfs.exfat", "mount.exfat-fuse", "sfdisk", "losetup", "qemu-img",
                  "qemu-storage-daemon")
    imagelib.own_mounts()
    work = pathlib.Path(tempfile.mkdtemp(prefix="sparsify-content."))
    os.environ["TMPDIR"] = tempfile.tempdir = str(work)
    images = freed = 0
    try:
        program = Program(virt_reclaim, worker, work)
        for case, qcow2 in cases():
            directory = work / "case"
            directory.mkdir()
            judge = Judge(directory, case, dump, worker)
            for format_, options in [("raw", ""), *(("qcow2", options) for options in qcow2)]:
                gone = sparsify_one(judge, program, directory / f"image.{format_}", format_, options)
                images, freed = images + 1, freed + gone
                print(f"{case.name} {format_} {options}: {len(judge.hashes)} files the same, freed {gone >> 10} KiB", flush=True)
            shutil.rmtree(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{images} images, {freed >> 20} MiB freed")


if __name__ == "__main__":
    sparsifylib.run("true")
    main()
