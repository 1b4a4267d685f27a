#!/usr/bin/env python3
"""drop_in_test.py PROGRAM WORKER DUMP: `virt-reclaim virt-sparsify`, and the program called virt-sparsify. Its wrong command lines get the
very answers of libguestfs's virt-sparsify, where that is installed; both modes keep every file, and leave nothing behind."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Judge, allocated, qcow2_errors

import imagelib

PEER = "/usr/bin/virt-sparsify"
# What neither needs an image for, nor an appliance.
COMMAND_LINES = """
--short-options|--long-options|--version|--xx|-c|--co|-in|--convert|--in-place=x|--check-tmpdir x a b|--check-tmpdir|a|a b c|--in-place|
--in-place a b|--in-place --compress a|--in-place -o x a|--in-place --tmp /tmp a|--in-place --convert raw a|--in-place --check-tmpdir fail a|
--in-place --check-tmpdir w --tmp x a b|a a|--key x a b|--machine-readable=x a b|--machine-readable=x:y a b|--machine-readable=fd:x a b|
--machine-readable=stream:x a b|-qvx|-qx|--conv=raw a|-inplace a b|a --in-place b|-f qcow2|-o|-ofoo a|--quiet=1|-- --in-place|-xv a a
""".replace("\n", "").split("|")
PROGRESS = re.compile(r"^\[ *\d+\.\d\] .+$")


class DropIn:
    def __init__(self, virt_reclaim, worker, work):
        self.command = [virt_reclaim, "virt-sparsify"]
        self.environment = os.environ | {"VIRT_RECLAIM_FREEMAP": worker, "VIRT_RECLAIM_RUN_DIR": str(work / "run"), "LC_ALL": "C.UTF-8"}
        self.by_name = work / "bin" / "virt-sparsify"
        self.by_name.parent.mkdir()
        self.by_name.symlink_to(virt_reclaim)

    def __call__(self, *words, status=0, command=None):
        done = subprocess.run([*map(str, command or self.command), *map(str, words)], env=self.environment, capture_output=True, text=True,
                              timeout=300, stdin=subprocess.DEVNULL)
        if done.returncode != status:
            raise AssertionError(f"virt-sparsify {words}: status {done.returncode}, not {status}: {done.stdout} {done.stderr}")
        return done


def wrong_command_lines(drop_in):
    if not os.access(PEER, os.X_OK):
        print("libguestfs's virt-sparsify is not here to compare with")
        return
    for line in COMMAND_LINES:
        words = line.split(" ")
        theirs = subprocess.run([PEER, *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=drop_in.environment)
        ours = drop_in(*words, status=theirs.returncode)
        # It says by which name it was called.
        if (ours.stdout, ours.stderr) != (theirs.stdout, theirs.stderr.replace(PEER, "virt-sparsify")):
            raise AssertionError(f"{line}: theirs {theirs.stdout!r} {theirs.stderr!r}, ours {ours.stdout!r} {ours.stderr!r}")
    print(f"{len(COMMAND_LINES)} command lines: the same answers and statuses")


def said(done, *texts):
    for line in done.stdout.splitlines():
        if not PROGRESS.match(line) and not line.startswith("virt-sparsify: "):
            raise AssertionError(f"not a line of virt-sparsify: {line!r}")
    for text in texts:
        if text not in done.stdout:
            raise AssertionError(f"no word of '{text}': {done.stdout}")


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
    drop_in("--in-place", "--ignore", "/dev/vda1", path)
    if allocated(path) != before:
        raise AssertionError("an ignored filesystem was trimmed")
    path.unlink()
    print("in place: raw and qcow2, every file the same")


def copying(drop_in, judge, work):
    for input_format, options, output_format in (("raw", [], "raw"), ("raw", ["--convert", "qcow2"], "qcow2"), ("qcow2", [], "qcow2"),
                                                 ("qcow2", ["--compress"], "qcow2"), ("qcow2", ["--convert=raw"], "raw"),
                                                 ("raw", ["--convert", "qcow2", "-o", "compat=0.10,cluster_size=4096"], "qcow2")):
        source, target = judge.copy(work / "source", input_format), work / "target"
        before = source.read_bytes()
        temporary = work / "tmp"
        temporary.mkdir()
        done = drop_in("--tmp", temporary, *options, source, target)
        said(done, "Create overlay file in", "Fill free space in /dev/sda1 with zero", "Copy to destination and make sparse",
             "Sparsify operation completed with no errors.", "Before deleting the old disk")
        if source.read_bytes() != before:
            raise AssertionError("the source changed")
        judge.check(target, output_format)
        if output_format == "qcow2" and any(qcow2_errors(target)):
            raise AssertionError("qemu-img check is not content")
        if allocated(source) - allocated(target) < 8 * MIB:
            raise AssertionError(f"{input_format} {options}: {allocated(source)} -> {allocated(target)}")
        if any(temporary.iterdir()):
            raise AssertionError("left behind: " + str(list(temporary.iterdir())))
        print(f"copying {input_format} {' '.join(options)}: {allocated(source) >> 10} -> {allocated(target) >> 10} KiB, every file the same", flush=True)
        temporary.rmdir()
        source.unlink()
        target.unlink()


def refused_before_the_work(drop_in, judge, work):
    source = judge.copy(work / "source")
    (work / "again").symlink_to(source)
    for words, text in (
        ((source, work / "again"), "you cannot use the same disk image for input and output"),
        ((source, work / "nowhere" / "target"), "there is no directory"),
        ((source, work), "is a directory"),
        ((source, "/dev/null"), "cannot be a character device, it must be a regular file"),
        ((work / "none", work / "target"), "qemu-img info exited with error status 1."),
        (("--compress", source, work / "target"), "--compress cannot be used for raw output."),
        (("--tmp", work / "none", source, work / "target"), "--tmp parameter must point to a directory, block device or prebuilt file"),
        (("--zero", "/dev/sda1", source, work / "target"), "--zero"),
    ):
        done = drop_in(*words, status=1)
        if text not in done.stderr or not done.stderr.startswith("virt-sparsify: error: "):
            raise AssertionError(f"{words}: {done.stderr}")
    done = drop_in("--convert", "bogus", source, work / "target", status=1)
    if "bogus" not in done.stderr:
        raise AssertionError(done.stderr)
    print("wrong files: said before the work")


def main():
    virt_reclaim, worker, dump = sys.argv[1:4]
    imagelib.need("mkfs.ext4", "sfdisk", "losetup", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    work = pathlib.Path(tempfile.mkdtemp(prefix="sparsify-drop-in."))
    os.environ["TMPDIR"] = tempfile.tempdir = str(work)
    try:
        drop_in = DropIn(virt_reclaim, worker, work)
        wrong_command_lines(drop_in)
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=64 * MIB, megabytes=24, table="gpt"), dump, worker)
        in_place(drop_in, judge, work)
        copying(drop_in, judge, work)
        refused_before_the_work(drop_in, judge, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
