#!/usr/bin/env python3
"""drop_in_test.py PROGRAM WORKER DUMP: `virt-reclaim virt-sparsify`, and the program called virt-sparsify. Its wrong command lines get the
very answers of libguestfs's virt-sparsify, where that is installed; a copy keeps every file, and nothing is left behind. In place:
drop_in_place_test.py."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from dropinlib import DropIn, said
from sparsifylib import MIB, Case, Judge, allocated, form_of, leak, qcow2_errors

import imagelib
from content_test import Image

PEER = "/usr/bin/virt-sparsify"
# What neither needs an image for, nor an appliance.
COMMAND_LINES = """
--short-options|--long-options|--version|--xx|-c|--co|-in|--convert|--in-place=x|--check-tmpdir x a b|--check-tmpdir|a|a b c|--in-place|
--in-place a b|--in-place --compress a|--in-place -o x a|--in-place --tmp /tmp a|--in-place --convert raw a|--in-place --check-tmpdir fail a|
--in-place --check-tmpdir w --tmp x a b|a a|--key x a b|--machine-readable=x a b|--machine-readable=x:y a b|--machine-readable=fd:x a b|
--machine-readable=stream:x a b|-qvx|-qx|--conv=raw a|-inplace a b|a --in-place b|-f qcow2|-o|-ofoo a|--quiet=1|-- --in-place|-xv a a
""".replace("\n", "").split("|")


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
    # The words beside its options are ours.
    helps = [done.stdout for done in (drop_in("--help"), subprocess.run([PEER, "--help"], check=True, capture_output=True, text=True))]
    ours, theirs = ([line.split("  ")[1] for line in text.splitlines() if line.startswith("  -")] for text in helps)
    if ours != theirs or len(ours) < 20:
        raise AssertionError(f"--help: {ours}, theirs {theirs}")
    print(f"{len(COMMAND_LINES)} command lines: the same answers and statuses")


def hints(drop_in):
    for option, hint in (("--no-zero", "--ignore FILESYSTEM"), ("--overwrite", "always overwritten"), ("--overwrite=yes", "always overwritten")):
        done = drop_in("a", option, "b", status=1)
        if "unrecognized option" not in done.stderr or hint not in done.stderr:
            raise AssertionError(f"{option}: {done.stderr}")
    if "there is no" in drop_in("a", "--bogus", "b", status=1).stderr:
        raise AssertionError("a hint that does not fit")


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


def stopped(drop_in, judge, work):
    """Whatever ends it, nothing stays: at once, or after the next run."""
    temporary = work / "tmp"
    temporary.mkdir()
    source, target = judge.copy(work / "source"), work / "target"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = asleep_copying(drop_in, work, temporary, source, target)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        if number != signal.SIGKILL and (process.returncode != 1 or any(temporary.iterdir())):
            raise AssertionError(f"{number}: {process.returncode} {out} {err} {list(temporary.iterdir())}")
        if target.exists():
            raise AssertionError(f"{number}: a target")
        if (number == signal.SIGTERM) != (err == "virt-sparsify: Exiting on signal SIGTERM\n"):
            raise AssertionError(f"{number}: {err}")
    if not any(temporary.iterdir()):
        raise AssertionError("SIGKILL left nothing: not what was to be tried")
    drop_in("--tmp", temporary, source, target)
    if any(temporary.iterdir()):
        raise AssertionError(f"left behind: {list(temporary.iterdir())}")
    print("stopped and killed: nothing stays")
    for path in (source, target):
        path.unlink()


def the_form_of_the_source(drop_in, judge, work):
    """A copy is as its source is made, as far as there is a way, and what is lost is said."""
    source, target = work / "source", work / "target"
    for options in ("compat=0.10", "compat=0.10,cluster_size=4096", "cluster_size=2M", "extended_l2=on,cluster_size=128k", "lazy_refcounts=on",
                    "refcount_bits=8"):
        judge.copy(source, "qcow2", options)
        before, form = allocated(source), form_of(source)
        done = drop_in("--tmp", work, source, target)
        if form_of(target) != form or "does not keep" in done.stdout:
            raise AssertionError(f"{options}: {form} became {form_of(target)}: {done.stdout}")
        if form["compressed"] or allocated(target) >= before:
            raise AssertionError(f"{options}: {form} {before} -> {allocated(target)}")
        judge.check(target, "qcow2")
        print(f"kept: {options}", flush=True)
    judge.copy(source, "qcow2")
    imagelib.run("qemu-img", "bitmap", "--add", "-g", "65536", source, "backup")
    imagelib.run("qemu-img", "bitmap", "--add", "--disable", source, "old")
    imagelib.run("qemu-img", "snapshot", "-c", "before", source)
    bitmaps = form_of(source)["bitmaps"]
    done = drop_in("--tmp", work, source, target)
    if form_of(target)["bitmaps"] != bitmaps:
        raise AssertionError(f"{bitmaps} became {form_of(target)}")
    said(done, "warning: the copy does not keep: 1 internal snapshot\n")
    judge.check(target, "qcow2")
    done = drop_in("--tmp", work, "--convert", "raw", source, target)
    said(done, "warning: the copy does not keep: 1 internal snapshot, bitmap 'backup', bitmap 'old'\n")
    done = drop_in("--tmp", work, "-o", "compat=0.10", source, target)
    said(done, "bitmaps, which compat=0.10 does not have\n")
    top = work / "top"
    imagelib.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", source, "-F", "qcow2", top)
    done = drop_in("--tmp", work, top, target)
    said(done, "warning: the copy does not keep: its backing file (the copy stands alone)\n")
    judge.check(target, "qcow2")
    judge.copy(source, "qcow2")
    imagelib.run("qemu-io", "-d", "unmap", "-f", "qcow2", "-c", "discard 60M 64k", "-c", "write -c -P 7 60M 64k", source)
    said(drop_in("--tmp", work, source, target), "warning: the copy does not keep: compression (of 1 of ")
    if "compression" in drop_in("--tmp", work, "--compress", source, target).stdout:
        raise AssertionError("compressed, and yet said to be lost")
    print("what is lost is said")
    for path in (source, target, top):
        path.unlink()


def zeroed(drop_in, judge, work):
    """A named filesystem is zero in the copy; what is around it stays."""
    source, target = judge.copy(work / "source"), work / "target"
    done = drop_in("--tmp", work, "--zero", "/dev/sda9", source, target)
    if "Zeroing" in done.stdout:
        raise AssertionError(f"what is not there was zeroed: {done.stdout}")
    judge.check(target)
    drop_in("--tmp", work, "--zero", "/dev/sda1", "--ignore", "/dev/sda1", source, target)
    judge.check(target)
    said(drop_in("--tmp", work, "--zero", "/dev/sda1", source, target), "Zeroing /dev/sda1")
    image, copy, begin, end = source.read_bytes(), target.read_bytes(), judge.image.offset, judge.image.offset + judge.image.size
    if copy[begin:end].strip(b"\0") or copy[:begin] != image[:begin] or copy[end:] != image[end:]:
        raise AssertionError("not all of the filesystem, or something else")
    print("--zero: all of it, and nothing else")
    for path in (source, target):
        path.unlink()


def machine_readable(drop_in, judge, work):
    """Where the JSON goes, and progress as numbers."""
    path = judge.copy(work / "machine.raw")
    words = ("--machine-readable=stream:stderr", "--in-place", path)
    done = drop_in(*words)
    types = [json.loads(line)["type"] for line in done.stderr.splitlines()]
    if "message" not in types or not re.search(r"^[0-9]+/[0-9]+$", done.stdout, re.MULTILINE) or "{" in done.stdout:
        raise AssertionError(f"stream: {done}")
    if not re.search(r"^([0-9]+)/\1$", done.stdout, re.MULTILINE):
        raise AssertionError(f"progress without an end: {done.stdout}")
    done = drop_in(f"--machine-readable=file:{work}/json", "--in-place", path)
    texts = [json.loads(line)["message"] for line in (work / "json").read_text().splitlines()]
    if texts[-1] != "Sparsify in-place operation completed with no errors" or "{" in done.stdout + done.stderr:
        raise AssertionError(f"file: {texts} {done}")
    read, write = os.pipe()
    done = subprocess.run([*map(str, drop_in.command), "-q", f"--machine-readable=fd:{write}", "--in-place", str(path)], env=drop_in.environment,
                          pass_fds=(write,), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as file:
        texts = [json.loads(line)["message"] for line in file]
    if done.returncode != 0 or done.stdout or "Trimming /dev/sda1" not in texts:
        raise AssertionError(f"fd: {texts} {done}")
    drop_in("--machine-readable=fd:999", "--in-place", path, status=1)
    drop_in(f"--machine-readable=file:{work}/none/json", "--in-place", path, status=1)
    path.unlink()
    print("--machine-readable: to a stream, a file and a descriptor")


def temporary_space(drop_in, judge, work):
    """--check-tmpdir and the forms of --tmp."""
    source, target, small = judge.copy(work / "source", "qcow2"), work / "target", work / "small"
    small.mkdir()
    imagelib.run("mount", "-t", "tmpfs", "-o", "size=4m", "none", small)
    try:
        for words, status, warned in (((), 0, True), (("--check-tmpdir=ignore",), 0, False), (("--check-tmpdir=continue",), 0, True),
                                      (("--check-tmpdir=fail",), 2, True)):
            done = drop_in("--tmp", small, *words, source, target, status=status)
            if (f"There may not be enough free space on {small}." in done.stdout) != warned or "Press RETURN" in done.stderr:
                raise AssertionError(f"{words}: {done}")
            if status == 2 and (done.stderr != "Exiting because --check-tmpdir=fail was set.\n" or "Create overlay" in done.stdout):
                raise AssertionError(f"{words}: {done}")
        # It asks on a terminal only.
        ours, its = os.openpty()
        process = subprocess.Popen([*map(str, drop_in.command), "--tmp", str(small), str(source), str(target)], env=drop_in.environment, stdin=its,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        os.write(ours, b"\n")
        out, err = process.communicate(timeout=60)
        os.close(ours)
        os.close(its)
        if process.returncode != 0 or err != "Press RETURN to continue or ^C to quit.\n":
            raise AssertionError(f"asked: {process.returncode} {out} {err}")
    finally:
        imagelib.run("umount", small)
    small.rmdir()
    prebuilt, other = work / "prebuilt.qcow2", work / "other"
    imagelib.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", source, "-F", "qcow2", prebuilt)
    said(drop_in("--tmp", f"prebuilt:{prebuilt}", source, target), f"Using prebuilt file {prebuilt} as overlay")
    judge.check(target, "qcow2")
    if not prebuilt.exists() or allocated(source) - allocated(target) < 8 * MIB:
        raise AssertionError("prebuilt")
    judge.copy(other, "qcow2")
    for tmp, text in ((f"prebuilt:{work}/none", f"--tmp prebuilt:file: {work}/none: file does not exist"),
                      (f"prebuilt:{judge.image.path}", "file format is not qcow2"), (f"prebuilt:{source}", "file does not have backing file")):
        if text not in drop_in("--tmp", tmp, source, target, status=1).stderr:
            raise AssertionError(tmp)
    if "does not stand on" not in drop_in("--tmp", f"prebuilt:{prebuilt}", other, target, status=1).stderr:
        raise AssertionError("an overlay over something else")
    loop = imagelib.attach(judge.image.path)
    try:
        before = judge.image.path.read_bytes()
        said(drop_in("--tmp", loop, source, target), f"--tmp {loop} is left as it is")
        if judge.image.path.read_bytes() != before:
            raise AssertionError("a temporary device was written to")
    finally:
        imagelib.detach(loop, judge.image.path)
    print("temporary space: looked at, and asked about on a terminal only")
    for path in (source, target, prebuilt, other):
        path.unlink()


def not_root(drop_in, judge, work):
    """Who is not root has locks of his own, and nothing of them stays."""
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    home = work / "nobody"
    home.mkdir()
    source, target, temporary = judge.copy(home / "source"), home / "target", home / "tmp"
    temporary.mkdir()
    for path in (home, source, temporary):
        os.chown(path, 65534, 65534)
    work.chmod(0o755)
    environment = {name: value for name, value in drop_in.environment.items() if name not in ("VIRT_RECLAIM_RUN_DIR", "XDG_RUNTIME_DIR")}
    environment["TMPDIR"] = str(temporary)
    try:
        subprocess.run([drop_in.command[0], "--version"], check=True, capture_output=True, **nobody)
    except (OSError, subprocess.CalledProcessError):
        print("nobody cannot run the program where it was built: not tried")
        return
    for words in ((source, target), ("--in-place", source)):
        done = subprocess.run([*map(str, drop_in.command), *map(str, words)], env=environment, capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, **nobody)
        if done.returncode != 0 or "/dev/sda1" not in done.stdout or any(temporary.iterdir()):
            raise AssertionError(f"nobody's: {words} {done} {list(temporary.iterdir())}")
    for path in (source, target):
        judge.check(path)
    shutil.rmtree(home)
    print("not root: copying and in place")


def compressed(drop_in, work):
    """Compressed clusters stay compressed."""
    image, source, target, view = Image(work / "text.raw", Case("ext4", "mkfs.ext4 -q", "empty", size=64 * MIB)), *(work / name for name in (
        "source", "target", "view"))
    with image.mounted() as directory:
        for name in ("kept", "deleted"):
            (pathlib.Path(directory) / name).write_text("".join(f"{name} {i}\n" for i in range(MIB)))
        os.sync()
        (pathlib.Path(directory) / "deleted").unlink()
    hashes = image.hashes(image.path)
    for options in ("compression_type=zlib", "compression_type=zstd"):
        imagelib.run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, image.path, source)
        form = form_of(source)
        leak(source)  # qemu-img check tells of compression all the same, with another status
        done = drop_in("--tmp", work, source, target)
        if not form["compressed"] or form_of(target) != form or "does not keep" in done.stdout or allocated(target) >= allocated(source):
            raise AssertionError(f"{options}: {allocated(source)} -> {allocated(target)}, {form_of(target)}")
        imagelib.run("qemu-img", "convert", "-O", "raw", target, view)
        if image.hashes(view) != hashes:
            raise AssertionError("files differ")
        print(f"kept: {options}, {allocated(source) >> 10} -> {allocated(target) >> 10} KiB", flush=True)
    for path in (image.path, source, target, view):
        path.unlink()


def asleep_copying(drop_in, work, temporary, source, target):
    """A run that stands still while the free map is read."""
    worker = work / "asleep"
    worker.write_text("#!/bin/sh\nexec sleep 100\n")
    worker.chmod(0o700)
    words = [*map(str, drop_in.command), "--tmp", str(temporary), str(source), str(target)]
    process = subprocess.Popen(words, env=drop_in.environment | {"VIRT_RECLAIM_FREEMAP": str(worker)}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    wait_for(lambda: any(temporary.glob("*/overlay.qcow2")), "an overlay")
    return process


def nobody_writes_the_source(drop_in, judge, work):
    temporary = work / "tmp"
    temporary.mkdir(exist_ok=True)
    for format_ in ("raw", "qcow2"):
        source, target = judge.copy(work / "source", format_), work / "target"
        with open(source, "r+b"):
            done = drop_in("--tmp", temporary, source, target, status=1)
            if "is in use" not in done.stderr or "Create overlay" in done.stdout or target.exists():
                raise AssertionError(f"a source that is open for writing: {done.stdout} {done.stderr}")
        # Nor is a file replaced that somebody has, or that the source stands on.
        target.write_text("what was there")
        with open(target, "rb"):
            if "is in use" not in drop_in("--tmp", temporary, source, target, status=1).stderr:
                raise AssertionError("a target in use was replaced")
        top = work / "top"
        imagelib.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", source, "-F", format_, top)
        if "stands on" not in drop_in("--tmp", temporary, top, source, status=1).stderr:
            raise AssertionError("a backing file was replaced")
        # By a name that is no path, and as the file that has the data.
        description = '{"driver": "%s", "file": {"driver": "file", "filename": "%s"}}' % (format_, source)
        imagelib.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"json:{description}", "-F", format_, top)
        if "not known whether" not in drop_in("--tmp", temporary, top, source, status=1).stderr:
            raise AssertionError("a backing file with a description for a name was replaced")
        data = work / "data"
        imagelib.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", top, "64M")
        if "stands on" not in drop_in("--tmp", temporary, top, data, status=1).stderr:
            raise AssertionError("a data file was replaced")
        data.unlink()
        top.unlink()
        process = asleep_copying(drop_in, work, temporary, source, target)
        begin = time.monotonic()
        open(source, "r+b").close()
        waited = time.monotonic() - begin
        out, err = process.communicate(timeout=60)
        if process.returncode != 1 or "wanted by somebody" not in err or waited > 10:
            raise AssertionError(f"a writer who comes meanwhile: {process.returncode} {waited} s {out} {err}")
        if target.read_text() != "what was there" or any(temporary.iterdir()):
            raise AssertionError("given up, and something changed or stayed")
        # Replaced when it is whole, with its mode; a reader of the source is no hindrance.
        target.chmod(0o640)
        inode = target.stat().st_ino
        with open(source, "rb"):
            drop_in("--tmp", temporary, source, target)
        if target.stat().st_mode & 0o777 != 0o640 or target.stat().st_ino == inode:
            raise AssertionError("not replaced as a whole")
        judge.check(target, format_)
        source.unlink()
        target.unlink()
    print("a source in use is refused, and whoever wants to write it gets it")


def a_copy_that_fails(drop_in, judge, work):
    """No room for it: nothing of it stays."""
    source, small = judge.copy(work / "source"), work / "small"
    small.mkdir()
    imagelib.run("mount", "-t", "tmpfs", "-o", "size=2m", "none", small)
    drop_in("--tmp", work, source, small / "target", status=1)
    if any(small.iterdir()):
        raise AssertionError(f"left behind: {list(small.iterdir())}")
    imagelib.run("umount", small)
    # Devices are written to as they are.
    device = work / "device"
    with open(device, "wb") as file:
        file.truncate(judge.image.path.stat().st_size)
    loop = imagelib.attach(device)
    try:
        drop_in("--tmp", work, source, loop)
    finally:
        imagelib.detach(loop, device)
    judge.check(device)
    for path in (source, device):
        path.unlink()
    print("a copy that fails leaves nothing; a block device as output")


def wait_for(condition, what):
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"no {what}")
        time.sleep(0.05)


def refused_before_the_work(drop_in, judge, work):
    source = judge.copy(work / "source")
    (work / "again").symlink_to(source)
    for words, text in (
        ((source, work / "again"), "you cannot use the same disk image for input and output"),
        ((source, work / "nowhere" / "target"), "there is no directory"),
        ((source, work), "is a directory"),
        ((source, "/dev/null"), "cannot be a character device, it must be a regular file"),
        ((work / "none", work / "target"), "qemu-img info exited with error status 1.\n"),
        (("--compress", source, work / "target"), "--compress cannot be used for raw output."),
        (("--tmp", work / "none", source, work / "target"), "--tmp parameter must point to a directory, block device or prebuilt file"),
        (("--convert", "bogus", source, work / "target"), "Unknown file format 'bogus'"),
        (("--convert", "qcow2", "-o", "nope=1", source, work / "target"), "Invalid parameter 'nope'"),
        (("--convert", "qcow2", "-o", "cluster_size=3", source, work / "target"), f"{work}/target: error while converting qcow2: Cluster size"),
        (("--convert", "vdi", "--compress", source, work / "target"), "Compression not supported for this file format"),
        (("--convert", "vmdk", "-o", "subformat=monolithicFlat", source, work / "target"), "makes more than one file"),
    ):
        done = drop_in(*words, status=1)
        if text not in done.stderr or not done.stderr.startswith("virt-sparsify: error: "):
            raise AssertionError(f"{words}: {done.stderr}")
        if "Create overlay" in done.stdout or (work / "target").exists():
            raise AssertionError(f"{words}: after the work: {done.stdout}")
    print("wrong files: said before the work")


def main():
    virt_reclaim, worker, dump = sys.argv[1:4]
    imagelib.need("mkfs.ext4", "sfdisk", "losetup", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    with imagelib.work_directory("sparsify-drop-in.") as work:
        drop_in = DropIn(virt_reclaim, worker, work)
        wrong_command_lines(drop_in)
        hints(drop_in)
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=64 * MIB, megabytes=24, table="gpt"), dump, worker)
        copying(drop_in, judge, work)
        stopped(drop_in, judge, work)
        the_form_of_the_source(drop_in, judge, work)
        compressed(drop_in, work)
        zeroed(drop_in, judge, work)
        machine_readable(drop_in, judge, work)
        temporary_space(drop_in, judge, work)
        not_root(drop_in, judge, work)
        nobody_writes_the_source(drop_in, judge, work)
        a_copy_that_fails(drop_in, judge, work)
        refused_before_the_work(drop_in, judge, work)


if __name__ == "__main__":
    main()
