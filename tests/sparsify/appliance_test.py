#!/usr/bin/env python3
"""appliance_test.py PROGRAM WORKER DUMP GUESTFS: what is left to libguestfs really goes through its appliance; without it there is one line."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from dropinlib import DropIn
from sparsifylib import MIB, Case, Judge, Program, allocated, as_raw, disk_of, part_of

import imagelib


def dirty(judge, path):
    """A copy of the image while it is mounted, and its files once the journal is replayed."""
    mounted = judge.copy(path.with_suffix(".mounted"))
    with judge.image.mounted(mounted) as directory:
        (pathlib.Path(directory) / "last").write_bytes(os.urandom(MIB))
        os.sync()
        imagelib.run("cp", "--sparse=always", mounted, path)
    hashes = judge.image.hashes(mounted)
    mounted.unlink()
    return hashes


def copying(drop_in, judge, work):
    """A dirty journal is replayed in the overlay; the source stays as it is."""
    temporary = work / "overlays"
    temporary.mkdir()
    for format_ in ("raw", "qcow2"):
        plain, source, target = work / "dirty.raw", work / "source", work / "target"
        hashes = dirty(judge, plain)
        imagelib.run("qemu-img", "convert", "-f", "raw", "-O", format_, plain, source)
        before = source.read_bytes()
        failing = work / "failing"
        failing.write_text("#!/bin/sh\necho no appliance today >&2\nexit 1\n")
        failing.chmod(0o700)
        done = drop_in("--tmp", temporary, source, target, status=1, VIRT_RECLAIM_GUESTFS=str(failing))
        if "libguestfs error: no appliance today" not in done.stderr or target.exists() or any(temporary.iterdir()):
            raise AssertionError(f"a replay that failed: {done} {list(temporary.iterdir())}")
        done = drop_in("--tmp", temporary, source, target)
        if "Fill free space in /dev/sda with zero" not in done.stdout or "left alone" in done.stdout:
            raise AssertionError(f"not replayed: {done}")
        if source.read_bytes() != before or any(temporary.iterdir()):
            raise AssertionError(f"the source changed, or left behind: {list(temporary.iterdir())}")
        if allocated(source) - allocated(target) < 8 * MIB:
            raise AssertionError(f"{allocated(source)} -> {allocated(target)}")
        whole(judge, target, format_, hashes)
        print(f"copying {format_}, dirty: {allocated(source) >> 10} -> {allocated(target) >> 10} KiB, {len(hashes)} files the same", flush=True)
        for path in (plain, source, target):
            path.unlink()


def whole(judge, path, format_, hashes):
    view = as_raw(path, format_)
    judge.image.check(view)
    if judge.image.hashes(view) != hashes:
        raise AssertionError("files differ")
    if view != path:
        view.unlink()


def pair(judge, work):
    """A qcow2 image of two partitions, and what must be in them: one of a filesystem at rest, one of its copy with a dirty journal."""
    plain, disk, path = work / "dirty.raw", work / "pair.raw", work / "pair.qcow2"
    hashes = dirty(judge, plain)
    offsets = disk_of(disk, judge.image.path, plain)
    imagelib.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, path)
    plain.unlink()
    disk.unlink()
    return path, dict(zip(offsets, (judge.hashes, hashes), strict=True))


def whole_part(judge, path, offset, hashes, part):
    view = as_raw(path, "qcow2")
    whole(judge, part_of(view, offset, judge.image.size, part), "raw", hashes)
    view.unlink()
    part.unlink()


def in_place(program, judge, work):
    """By the verb: all by the appliance, which replays a journal when told. In one run, as the appliance takes its time."""
    path, parts = pair(judge, work)
    before = allocated(path)
    target = program("--engine=libguestfs", "--replay", path)["targets"][0]
    found = [(one["engine"], one["refusal"], one["appliance_error"]) for one in target["filesystems"]]
    if found != [("libguestfs", None, None), ("libguestfs", "dirty-journal", None)]:
        raise AssertionError(f"not by the appliance: {target}")
    freed = target["disks"][0]["freed_bytes"]
    if before - allocated(path) != freed or freed < 16 * MIB:
        raise AssertionError(f"{freed} freed, the host measures {before} -> {allocated(path)}")
    # Replayed: nothing is left to be.
    left = [one["refusal"] for one in program("--dry-run", "--engine=native", path)["targets"][0]["filesystems"]]
    if left != [None, None]:
        raise AssertionError(f"not replayed: {left}")
    for offset, hashes in parts.items():
        whole_part(judge, path, offset, hashes, work / "part")
    print(f"in place by the appliance: {freed >> 10} KiB freed, one replayed, {[len(hashes) for hashes in parts.values()]} files the same", flush=True)
    path.unlink()


def drop_in_in_place(drop_in, judge, work):
    """By the drop-in, which replays unasked, and makes zero what is named; without an appliance the one is left as it is."""
    path, parts = pair(judge, work)
    rest, replayed = parts.items()
    digest = path.read_bytes()
    done = drop_in("--in-place", "--ignore", "/dev/sda1", path, VIRT_RECLAIM_GUESTFS="/nonexistent")
    if "its journal wants to be replayed; libguestfs: virt-reclaim-guestfs is not installed" not in done.stdout or path.read_bytes() != digest:
        raise AssertionError(f"without an appliance: {done}")
    done = drop_in("--in-place", "--zero", "/dev/sda1", path)
    if "Zeroing /dev/sda1" not in done.stdout or "Trimming /dev/sda2" not in done.stdout:
        raise AssertionError(f"not zeroed, or not replayed: {done}")
    view = as_raw(path, "qcow2")
    if view.read_bytes()[rest[0] : rest[0] + judge.image.size].strip(b"\0"):
        raise AssertionError("not all of it is zero")
    whole_part(judge, path, *replayed, work / "part")
    # What is zero occupies nothing, and what is free hardly more than what is in use.
    if allocated(path) > allocated(judge.image.path) - 8 * MIB:
        raise AssertionError(f"{allocated(path)} are left")
    print(f"in place by the drop-in: one zero, one replayed, {len(replayed[1])} files the same", flush=True)
    path.unlink()


def main():
    virt_reclaim, worker, dump, guestfs = sys.argv[1:5]
    imagelib.need("mkfs.ext4", "debugfs", "sfdisk", "losetup", "qemu-img", "supermin")
    imagelib.own_mounts()
    with imagelib.work_directory("sparsify-appliance.") as work:
        program = Program(virt_reclaim, worker, work)
        appliance = {"VIRT_RECLAIM_GUESTFS": guestfs, "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
        program.environment |= appliance
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=64 * MIB, megabytes=24), dump, worker)
        drop_in = DropIn(virt_reclaim, worker, work)
        drop_in.environment |= appliance
        in_place(program, judge, work)
        copying(drop_in, judge, work)
        drop_in_in_place(drop_in, judge, work)
        path = judge.copy(work / "image.qcow2", "qcow2")
        program.environment["VIRT_RECLAIM_GUESTFS"] = "/nonexistent"
        target = program("--engine=libguestfs", path, status=5)["targets"][0]
        if "virt-reclaim-guestfs is not installed" not in target["reasons_explained"][0]["detail"]:
            raise AssertionError(f"no word of what is missing: {target}")


if __name__ == "__main__":
    main()
