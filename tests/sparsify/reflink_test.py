#!/usr/bin/env python3
"""reflink_test.py PROGRAM WORKER DUMP: copies (--output, the drop-in's) on the filesystem of their source share its blocks where they can (XFS),
are as small as copied ones, and are whole copies all the same when the source goes. Not on btrfs, where they would keep it alive."""

import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Judge, Program, allocated, qcow2_errors

import imagelib
from imagelib import run

def used(directory):
    fd = os.open(directory, os.O_RDONLY)
    imagelib.libc.syncfs(fd)
    os.close(fd)
    numbers = os.statvfs(directory)
    return (numbers.f_blocks - numbers.f_bfree) * numbers.f_frsize


def dense(path):
    """All of it has storage, as in an image that was used for long."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def copy(program, way, source, target):
    words = (program.command("--output", target, source) if way == "--output"
             else [program.path, "virt-sparsify", "--tmp", source.parent, source, target])
    done = subprocess.run([*map(str, words)], env=program.environment | {"VIRT_RECLAIM_RUN_DIR": str(program.run_directory)},
                          capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise AssertionError(f"{way}: {done}")


def copies(judge, program, mounted, work, shares):
    for way in ("--output", "drop-in"):
        for format_ in ("raw", "qcow2"):
            source, target, elsewhere = mounted / "source", mounted / "target", work / "elsewhere"
            empty = used(mounted)
            judge.copy(source, format_)
            if format_ == "raw":
                dense(source)  # zeros in it, in use and free
            digest = source.read_bytes()
            copy(program, way, source, elsewhere)
            before = used(mounted)
            copy(program, way, source, target)
            cost, size = used(mounted) - before, allocated(target)
            if size > allocated(elsewhere) + MIB:
                raise AssertionError(f"{way} {format_}: {size} where {allocated(elsewhere)} are enough")
            if shares and cost > 2 * MIB:
                raise AssertionError(f"{way} {format_}: its {size} bytes cost {cost}")
            judge.check(target, format_)
            if format_ == "qcow2" and any(qcow2_errors(target)):
                raise AssertionError("qemu-img check is not content")
            if source.read_bytes() != digest:
                raise AssertionError("the source changed")
            # Nobody misses the source.
            with open(source, "r+b") as file:
                file.write(os.urandom(len(digest)))
            source.unlink()
            judge.check(target, format_)
            deadline = time.monotonic() + 30
            while used(mounted) - empty > size + 2 * MIB:  # XFS frees what was unlinked when it has time
                if time.monotonic() > deadline:
                    raise AssertionError(f"{way} {format_}: without its source it keeps {used(mounted) - empty} for {size}")
                time.sleep(0.1)
            target.unlink()
            elsewhere.unlink()
            print(f"{way} {format_}: {size >> 10} KiB, of which {cost >> 10} are new", flush=True)


def main():
    virt_reclaim, worker, dump = sys.argv[1:4]
    imagelib.need("mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "losetup", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    with imagelib.work_directory("sparsify-reflink.") as work:
        program = Program(virt_reclaim, worker, work)
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=64 * MIB, megabytes=24), dump, worker)
        for mkfs, shares in (("mkfs.xfs -q -m reflink=1", True), ("mkfs.btrfs -q", False)):
            mounted, disk = work / "mounted", work / "disk"
            mounted.mkdir()
            with open(disk, "wb") as file:
                file.truncate(512 * MIB)
            run(*mkfs.split(" "), disk)
            run("mount", "-o", "loop", disk, mounted)
            try:
                copies(judge, program, mounted, work, shares)
            finally:
                run("umount", mounted)
                imagelib.wait_for_loops(disk)
            mounted.rmdir()
            disk.unlink()


if __name__ == "__main__":
    main()
