#!/usr/bin/env python3
"""btrfs_test.py PROGRAM WORKER DUMP: images that lie on btrfs, which frees an extent only when nothing refers to any part of it. What sparsify says
it freed is what `btrfs filesystem df` gets back, to the byte; what is held is said; and no file in the image differs."""

import json
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Judge, Program, qcow2_errors

import imagelib
from imagelib import run


def data_used(directory):
    run("btrfs", "filesystem", "sync", directory)
    return int(re.search(r"Data, single: total=\d+, used=(\d+)", run("btrfs", "filesystem", "df", "-b", directory).stdout)[1])


def in_one_piece(judge, path, format_="raw"):
    """The image again, its extents as long as btrfs makes them."""
    judge.copy(path, format_)
    pieces = path.rename(path.with_suffix(".pieces"))
    path.write_bytes(pieces.read_bytes())
    pieces.unlink()
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return path


def sparsified(program, path, directory):
    before = data_used(directory)
    process = program.start("--allow-thick", path)
    out, err = process.communicate(timeout=120)
    if process.returncode not in (0, 4):
        raise AssertionError(f"{process.returncode}: {out} {err}")
    target = json.loads(out)["targets"][0]
    disk = target["disks"][0]
    gone = before - data_used(directory)
    if disk["freed_bytes"] != gone:
        raise AssertionError(f"df got {gone} back: {target}")
    return gone, disk, target, process.returncode


def released(judge, program, directory):
    for format_ in ("raw", "qcow2"):
        path = in_one_piece(judge, directory / "image", format_)
        times = os.stat(path).st_mtime_ns
        gone, disk, target, _ = sparsified(program, path, directory)
        if disk["moved_bytes"] < MIB or disk["held_bytes"] > disk["given_back_bytes"] // 20 or gone < disk["given_back_bytes"] * 0.9:
            raise AssertionError(f"{format_}: not moved: {target}")
        if format_ == "raw" and disk["given_back_bytes"] - gone != disk["held_bytes"]:
            raise AssertionError(f"held, and not said: {target}")
        if ("extents-held" in target["reasons"]) != (disk["held_bytes"] > 0):
            raise AssertionError(f"{target}")
        judge.check(path, format_)
        if format_ == "qcow2" and any(qcow2_errors(path)):
            raise AssertionError("qemu-img check is not content")
        print(f"{format_}: given back {disk['given_back_bytes'] >> 10} KiB, df {gone >> 10}, moved {disk['moved_bytes'] >> 10}, "
              f"held {disk['held_bytes'] >> 10}, times {'same' if os.stat(path).st_mtime_ns == times else 'new'}", flush=True)
        path.unlink()


def shared(judge, program, directory):
    """A snapshot has all of it, too: nothing comes free, nothing is moved, and that is what is said."""
    path = in_one_piece(judge, directory / "image")
    run("cp", "--reflink=always", path, directory / "snapshot")
    gone, disk, target, status = sparsified(program, path, directory)
    if gone != 0 or status != 4 or disk["moved_bytes"] != 0 or "shared-extents" not in target["reasons"]:
        raise AssertionError(f"shared: {target}")
    judge.check(path)
    path.unlink()
    (directory / "snapshot").unlink()
    print("shared with a snapshot: nothing freed, and said", flush=True)


def no_room(judge, program, directory):
    path = in_one_piece(judge, directory / "image")
    filler, size = directory / "filler", 256 * MIB
    while size >= 4096:
        grown = (filler.stat().st_size if filler.exists() else 0) + size
        if subprocess.run(["fallocate", "-l", str(grown), str(filler)], capture_output=True).returncode != 0:
            size //= 2
    gone, disk, target, _ = sparsified(program, path, directory)
    if disk["held_bytes"] == 0 or disk["held_bytes"] != disk["given_back_bytes"] - gone or "extents-held" not in target["reasons"]:
        raise AssertionError(f"no room: {target}")
    if not any("no room" in reason["detail"] for reason in target["reasons_explained"]):
        raise AssertionError(f"no word of why: {target}")
    judge.check(path)
    filler.unlink()
    before = data_used(directory)
    done = subprocess.run([program.path, f"--run-dir={program.run_directory}", "punch", str(path)], capture_output=True, text=True)
    if done.returncode != 0 or before - data_used(directory) < disk["held_bytes"] * 0.9:
        raise AssertionError(f"punch does not get it back: {done} {before - data_used(directory)}")
    judge.check(path)
    path.unlink()
    print(f"no room: {disk['held_bytes'] >> 10} KiB held, and said; punch gets them back", flush=True)


def main():
    virt_reclaim, worker, dump = sys.argv[1:4]
    imagelib.need("mkfs.ext4", "mkfs.btrfs", "btrfs", "losetup", "qemu-img", "qemu-storage-daemon", "fallocate")
    imagelib.own_mounts()
    with imagelib.work_directory("sparsify-btrfs.") as work:
        directory, disk = work / "btrfs", work / "disk"
        directory.mkdir()
        with open(disk, "wb") as file:
            file.truncate(1 << 30)
        run("mkfs.btrfs", "-q", disk)
        run("mount", "-o", "loop", disk, directory)
        try:
            program = Program(virt_reclaim, worker, work)
            judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=64 * MIB, megabytes=24), dump, worker)
            released(judge, program, directory)
            shared(judge, program, directory)
            no_room(judge, program, directory)
        finally:
            run("umount", directory)


if __name__ == "__main__":
    main()
