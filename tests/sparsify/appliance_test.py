#!/usr/bin/env python3
"""appliance_test.py PROGRAM WORKER DUMP GUESTFS: what is left to libguestfs really goes through its appliance; without it there is one line."""

import os
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Judge, Program, allocated

import imagelib


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
        program.environment["VIRT_RECLAIM_GUESTFS"] = "/nonexistent"
        target = program("--engine=libguestfs", path, status=5)["targets"][0]
        if "virt-reclaim-guestfs is not installed" not in target["reasons_explained"][0]["detail"]:
            raise AssertionError(f"no word of what is missing: {target}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
