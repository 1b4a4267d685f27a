#!/usr/bin/env python3
"""content_test.py PROGRAM WORKER DUMP: sparsify on images of every format and filesystem keeps every byte that is in use.

For each image: a dry run changes nothing and promises what then comes; every file, every byte outside the free runs and the
checkers of filesystem and image say that nothing was lost; what was freed is what the host measures; a second run finds
nothing left. Prints a line for each image and a table; an image that is missing is a failure.
"""

import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import sparsifylib
from sparsifylib import MIB, Case, Judge, Program, allocated, qcow2_errors

import imagelib
import xfs4lib
from matrixlib import Matrix, filesystem_of

QCOW2 = ("", "compat=0.10", "cluster_size=4096", "cluster_size=2M", "extended_l2=on,cluster_size=128k", "lazy_refcounts=on",
         "preallocation=metadata", "refcount_bits=1", "compression_type=zlib", "compression_type=zstd")


# How many there are, raw and qcow2: every filesystem that is named goes through the verb.
IMAGES = {"ext2": 2, "ext3": 2, "ext4": 17, "xfs": 6, "btrfs": 4, "NTFS": 4, "FAT12": 2, "FAT16": 3, "FAT32": 2, "exFAT": 4}


def cases():
    yield Case("ext4", "mkfs.ext4 -q", "few"), QCOW2
    yield Case("ext4", "mkfs.ext4 -q", "deep", table="gpt"), ["", "cluster_size=4096"]
    yield Case("ext4", "mkfs.ext4 -q -b 1024", "chequered", table="logical"), ["cluster_size=512", "cluster_size=4096,lazy_refcounts=on"]
    yield Case("ext2", "mkfs.ext2 -q", "few", table="dos", size=48 * MIB, megabytes=24), [""]
    yield Case("ext4", "mkfs.ext3 -q", "few", table="gpt", size=48 * MIB, megabytes=24), [""]
    yield Case("xfs", "mkfs.xfs -q", "few", size=320 * MIB), [""]
    yield Case("xfs", "mkfs.xfs -q", "deep", size=320 * MIB, table="dos"), ["cluster_size=4096"]
    yield Case("xfs4", xfs4lib.MKFS, "chequered", size=320 * MIB), ["cluster_size=4096"]
    yield Case("btrfs", "mkfs.btrfs -q", "few", size=256 * MIB), [""]
    yield Case("btrfs", "mkfs.btrfs -q -m single", "deep", size=256 * MIB, table="gpt"), ["cluster_size=4096"]
    yield Case("ntfs", "mkntfs -q -Q -F", "few"), [""]
    yield Case("ntfs", "mkntfs -q -Q -F", "deep", table="dos"), ["cluster_size=4096"]
    yield Case("vfat", "mkfs.fat -F 12 -s 16", "few", size=30 * MIB, megabytes=20), [""]
    yield Case("vfat", "mkfs.fat -F 16", "few", size=64 * MIB, megabytes=20, table="dos"), ["", "cluster_size=2M"]
    yield Case("vfat", "mkfs.fat -F 32 -s 1", "few", size=64 * MIB, megabytes=20), [""]
    yield Case("exfat", "mkfs.exfat", "few", megabytes=20), [""]
    yield Case("exfat", "mkfs.exfat", "deep", table="gpt"), ["cluster_size=4096"]


def sparsify_one(judge, program, path, format_, options):
    judge.copy(path, format_, options)
    before = allocated(path)
    promised = program("--dry-run", f"./{path.name}", cwd=path.parent)["total"]["reclaimable_bytes"]
    if allocated(path) != before:
        raise AssertionError("the dry run changed something")
    judge.check(path, format_)
    result = program(path)
    disk, free = result["targets"][0]["disks"][0], sum(found["free_bytes"] for found in result["targets"][0]["filesystems"])
    gone = before - allocated(path)
    if disk["format"] != format_ or disk["given_back_bytes"] != promised or result["total"]["freed_bytes"] != max(gone, 0):
        raise AssertionError(f"promised {promised}, gone {gone}, said {result}")
    if sum(found["given_back_bytes"] or 0 for found in result["targets"][0]["filesystems"]) != promised:
        raise AssertionError(f"of the filesystems another sum was given back: {result}")
    # Preallocated clusters and compressed ones may hold less storage than their size; those of 512 bytes share a block of the host.
    loose = any(word in options for word in ("compression_type", "preallocation", "cluster_size=512"))
    if promised == 0 or gone <= 0 or (gone < promised * 0.9 and not loose):
        raise AssertionError(f"only {gone} of {promised} came free")
    if format_ == "qcow2" and any(qcow2_errors(path)):
        raise AssertionError("qemu-img check is not content")
    judge.check(path, format_)
    again = program(path)["targets"][0]
    # Compressed clusters that share a cluster of the host leave pieces in it.
    if again["disks"][0]["given_back_bytes"] > 0 or "nothing-reclaimable" not in again["reasons"]:
        raise AssertionError(f"a second run found more: {again}")
    path.unlink()
    return free, gone


def sparsify_case(programs, work, number, case, qcow2):
    """(bytes free in the guest, bytes freed, a line) of each image."""
    virt_reclaim, worker, dump = programs
    directory = work / f"case{number}"
    directory.mkdir()
    program = Program(virt_reclaim, worker, directory)
    judge = Judge(directory, case, dump, worker)
    images = []
    for format_, options in [("raw", ""), *(("qcow2", options) for options in qcow2)]:
        try:
            free, gone = sparsify_one(judge, program, directory / f"image.{format_}", format_, options)
        except AssertionError as error:
            raise AssertionError(f"{case.name} {format_} {options}: {error}") from error
        images.append((free, gone, f"{case.name} {format_} {options}: {len(judge.hashes)} files the same, freed {gone >> 10} KiB"))
    shutil.rmtree(directory)
    return images


def main():
    imagelib.need("mkfs.ext4", "mkfs.xfs", "xfs_db", "mkfs.btrfs", "mkntfs", "mkfs.fat", "mcopy", "mkfs.exfat", "mount.exfat-fuse", "sfdisk",
                  "losetup", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    matrix, failed = Matrix(), []
    with imagelib.work_directory("sparsify-content.") as work:
        jobs = [(sys.argv[1:4], work, number, case, qcow2) for number, (case, qcow2) in enumerate(cases())]
        for job, result in imagelib.each(sparsify_case, jobs):
            if isinstance(result, BaseException):
                failed.append(f"{job[3].name}: {result}")
                print("FAILED", failed[-1], flush=True)
                continue
            for free, freed, line in result:
                matrix.add(filesystem_of(job[3].mkfs), free, freed)
                print(line, flush=True)
    whole = matrix.end(IMAGES)
    if failed:
        sys.exit(f"{len(failed)} of the cases failed")
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    sparsifylib.run("true")
    main()
