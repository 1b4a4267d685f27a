#!/usr/bin/env python3
"""drop_in_place_test.py PROGRAM WORKER DUMP: `virt-sparsify --in-place`, by the verb and by the name: every file is kept; what is passed over or refused
stays to the byte, with the status and the words of libguestfs's."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import refusals_test
from dropinlib import DropIn, said
from sparsifylib import MIB, Case, Judge, allocated

import imagelib


def in_place(drop_in, judge, work):
    for format_ in ("raw", "qcow2"):
        path = judge.copy(work / f"in-place.{format_}", format_)
        before = allocated(path)
        done = drop_in("--in-place", "--format", format_, path, command=[drop_in.by_name])
        said(done, "Trimming /dev/sda1", "Sparsify in-place operation completed with no errors")
        if before - allocated(path) < 8 * MIB:
            raise AssertionError(f"only {before - allocated(path)} came free")
        judge.check(path, format_)
        again = drop_in("-q", "--in-place", path)
        if again.stdout:
            raise AssertionError(f"not quiet: {again.stdout}")
        path.unlink()
    path = judge.copy(work / "ignored.raw")
    before = allocated(path)
    said(drop_in("--in-place", "--key", "/dev/sda2:key:x", "--ignore", "/dev/sda1", path), "warning: keys are not used")
    drop_in("--in-place", "--ignore", "/dev/vda1", path)
    if allocated(path) != before:
        raise AssertionError("an ignored filesystem was trimmed")
    path.unlink()
    print("in place: raw and qcow2, every file the same")


def seen(path):
    return refusals_test.sha256(path), allocated(path), path.stat().st_mtime_ns


def refused_in_place(drop_in, judge, work):
    """What libguestfs would trim for nothing is passed over with a warning; what it would refuse, and what would be harmed, is an error."""
    path = work / "image"
    for make, status, text in (  # with the code of the verb's reason
        (refusals_test.snapshot, 0, "warning: internal-snapshots: the image has internal snapshots"), (refusals_test.overlay, 0, "warning: overlay: "),
        (refusals_test.data_file, 1, "error: external-data-file: "), (refusals_test.luks, 1, "error: encrypted-image: "),
        (refusals_test.with_feature(refusals_test.DIRTY), 1, "error: image-needs-check: "),
        (refusals_test.with_feature(refusals_test.CORRUPT), 1, "error: image-needs-check: "),
        (refusals_test.vmdk, 1, "error: libguestfs error: discard cannot be enabled on this drive: qemu does not support discard for ‘vmdk’ format files\n"),
    ):
        make(judge, path)
        images = sorted(work.glob("image*"))
        before = [seen(image) for image in images]
        done = drop_in("--in-place", path, status=status)
        if text not in done.stdout + done.stderr or ("completed with no errors" in done.stdout) != (status == 0):
            raise AssertionError(f"{make.__name__}: {done.stdout} {done.stderr}")
        if [seen(image) for image in images] != before:
            raise AssertionError(f"{make.__name__}: passed over, and yet something changed")
        for image in images:
            image.unlink()
    # What cannot make holes has a status of its own, as where an appliance cannot trim.
    mounted = work / "mounted"
    mounted.mkdir()
    imagelib.run("mount", "-t", "ramfs", "ramfs", mounted)
    try:
        for format_ in ("raw", "qcow2"):
            path = judge.copy(mounted / "image", format_)
            before = refusals_test.sha256(path)
            done = drop_in("--in-place", path, status=3)
            if "error: discard/trim is not supported\n" not in done.stderr or "completed" in done.stdout or refusals_test.sha256(path) != before:
                raise AssertionError(f"{format_} on ramfs: {done}")
            path.unlink()
    finally:
        imagelib.run("umount", mounted)
    mounted.rmdir()
    print("in place: passed over with a warning, or refused, and untouched")


def main():
    virt_reclaim, worker, dump = sys.argv[1:4]
    imagelib.need("mkfs.ext4", "sfdisk", "losetup", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    with imagelib.work_directory("sparsify-in-place.") as work:
        drop_in = DropIn(virt_reclaim, worker, work)
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=64 * MIB, megabytes=24, table="gpt"), dump, worker)
        in_place(drop_in, judge, work)
        refused_in_place(drop_in, judge, work)


if __name__ == "__main__":
    main()
