#!/usr/bin/env python3
"""appliance_test.py PROGRAM WORKER DUMP GUESTFS: what is left to libguestfs really goes through its appliance; without it there is one line."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Judge, Program, allocated

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


def copying(program, judge, work):
    """A dirty journal is replayed in the overlay; the source stays as it is."""
    temporary = work / "overlays"
    temporary.mkdir()
    environment = program.environment | {"VIRT_RECLAIM_RUN_DIR": str(program.run_directory)}

    def drop_in(*words, guestfs=None):
        more = {} if guestfs is None else {"VIRT_RECLAIM_GUESTFS": guestfs}
        done = subprocess.run([program.path, "virt-sparsify", "--tmp", temporary, *words], env=environment | more, capture_output=True,
                              text=True, timeout=500, stdin=subprocess.DEVNULL)
        if any(temporary.iterdir()):
            raise AssertionError(f"left behind: {list(temporary.iterdir())}")
        return done

    for format_ in ("raw", "qcow2"):
        plain, source, target = work / "dirty.raw", work / "source", work / "target"
        hashes = dirty(judge, plain)
        imagelib.run("qemu-img", "convert", "-f", "raw", "-O", format_, plain, source)
        before = source.read_bytes()
        failing = work / "failing"
        failing.write_text("#!/bin/sh\necho no appliance today >&2\nexit 1\n")
        failing.chmod(0o700)
        done = drop_in(source, target, guestfs=str(failing))
        if done.returncode != 1 or "libguestfs error: no appliance today" not in done.stderr or target.exists():
            raise AssertionError(f"a replay that failed: {done}")
        done = drop_in(source, target)
        if done.returncode != 0 or "Fill free space in /dev/sda1 with zero" not in done.stdout or "left alone" in done.stdout:
            raise AssertionError(f"not replayed: {done}")
        if source.read_bytes() != before:
            raise AssertionError("the source changed")
        if allocated(source) - allocated(target) < 8 * MIB:
            raise AssertionError(f"{allocated(source)} -> {allocated(target)}")
        view = work / "view.raw"
        imagelib.run("qemu-img", "convert", "-f", format_, "-O", "raw", target, view)
        judge.image.check(view)
        if judge.image.hashes(view) != hashes:
            raise AssertionError("files differ")
        print(f"copying {format_}, dirty: {allocated(source) >> 10} -> {allocated(target) >> 10} KiB, {len(hashes)} files the same", flush=True)
        for path in (plain, source, target, view):
            path.unlink()


def zeroed_in_place(program, judge, work):
    path = judge.copy(work / "zeroed.qcow2", "qcow2")
    done = subprocess.run([program.path, "virt-sparsify", "--in-place", "--zero", "/dev/sda1", path], capture_output=True, text=True,
                          env=program.environment | {"VIRT_RECLAIM_RUN_DIR": str(program.run_directory)}, timeout=500, stdin=subprocess.DEVNULL)
    if done.returncode != 0 or "Zeroing /dev/sda1" not in done.stdout:
        raise AssertionError(f"not zeroed: {done}")
    view = work / "zeroed.raw"
    imagelib.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, view)
    begin = judge.image.offset
    if view.read_bytes()[begin:begin + judge.image.size].strip(b"\0") or allocated(path) > 2 * MIB:
        raise AssertionError(f"{allocated(path)} are left")
    print("zeroed in place, by the appliance")


def main():
    virt_reclaim, worker, dump, guestfs = sys.argv[1:5]
    imagelib.need("mkfs.ext4", "debugfs", "losetup", "qemu-img", "supermin")
    imagelib.own_mounts()
    work = pathlib.Path(tempfile.mkdtemp(prefix="sparsify-appliance."))
    os.environ["TMPDIR"] = tempfile.tempdir = str(work)
    try:
        program = Program(virt_reclaim, worker, work)
        program.environment |= {"VIRT_RECLAIM_GUESTFS": guestfs, "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=64 * MIB, megabytes=24, table="gpt"), dump, worker)
        path = judge.copy(work / "image.qcow2", "qcow2")
        before = allocated(path)
        result = program("--engine=libguestfs", path)
        filesystem = result["targets"][0]["filesystems"][0]
        if filesystem["engine"] != "libguestfs" or filesystem["appliance_error"] or result["total"]["freed_bytes"] < MIB:
            raise AssertionError(f"not by the appliance: {result}")
        if before - allocated(path) != result["total"]["freed_bytes"]:
            raise AssertionError("not what the host measures")
        view = work / "view.raw"
        imagelib.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, view)
        judge.image.check(view)
        if judge.image.hashes(view) != judge.hashes:
            raise AssertionError("files differ")
        print(f"by the appliance: {result['total']['freed_bytes'] >> 10} KiB freed, {len(judge.hashes)} files the same")
        copying(program, judge, work)
        zeroed_in_place(program, judge, work)
        program.environment["VIRT_RECLAIM_GUESTFS"] = "/nonexistent"
        target = program("--engine=libguestfs", path, status=5)["targets"][0]
        if "virt-reclaim-guestfs is not installed" not in target["reasons_explained"][0]["detail"]:
            raise AssertionError(f"no word of what is missing: {target}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
