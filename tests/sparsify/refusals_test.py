#!/usr/bin/env python3
"""refusals_test.py PROGRAM WORKER DUMP: what sparsify must not touch, made by qemu-img and e2fsprogs: refused with the reason, status 5, and
not a byte of the file changes. And block devices: discarded while nobody has them, else refused."""

import hashlib
import os
import pathlib
import re
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from dropinlib import DropIn, said
from sparsifylib import MIB, Case, Judge, Program, allocated, disk_of, form_of, leak, part_of, qcow2_errors, run

import imagelib

FEATURES = 79  # the last byte of incompatible_features in a qcow2 header
DIRTY, CORRUPT, UNKNOWN = 1 << 0, 1 << 1, 1 << 5


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_feature(bit):
    def make(judge, path):
        judge.copy(path, "qcow2")
        with open(path, "r+b") as file:
            file.seek(FEATURES)
            old = file.read(1)[0]
            file.seek(FEATURES)
            file.write(bytes([old | bit]))

    return make


def snapshot(judge, path):
    judge.copy(path, "qcow2")
    run("qemu-img", "snapshot", "-c", "before", path)


def overlay(judge, path):
    base = judge.copy(path.with_suffix(".base"), "qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)


def bitmap(judge, path):
    judge.copy(path, "qcow2")
    run("qemu-img", "bitmap", "--add", path, "backup")


def data_file(judge, path):
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", f"data_file={path}.data", judge.image.path, path)


def luks(judge, path):
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "--object", "secret,id=key,data=x", "-o",
        "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10", judge.image.path, path)


def vmdk(judge, path):
    judge.copy(path, "vmdk")


def thick(judge, path):
    judge.copy(path)
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def dirty_ext4(judge, path):
    judge.copy(path)
    run("debugfs", "-w", "-R", "feature needs_recovery", path)


REFUSED = {
    "internal-snapshots": snapshot, "overlay": overlay, "persistent-bitmaps": bitmap, "external-data-file": data_file, "encrypted-image": luks,
    "image-needs-check": with_feature(DIRTY), "image-needs-check ": with_feature(CORRUPT), "unknown-features": with_feature(UNKNOWN),
    "image-format": vmdk, "thick-image": thick, "filesystem-refused": dirty_ext4,
}


def refused(judge, program, work):
    for reason, make in REFUSED.items():
        path = work / "image"
        make(judge, path)
        before, times = sha256(path), path.stat()
        for words in ((path,), ("--dry-run", path)):
            target = program(*words, status=5)["targets"][0]
            if target["reasons"] != [reason.strip()]:
                raise AssertionError(f"{reason}: {target['reasons_explained']}")
        if sha256(path) != before or path.stat().st_mtime_ns != times.st_mtime_ns:
            raise AssertionError(f"{reason}: refused, and yet something changed")
        print(f"{make.__name__}: {reason.strip()}", flush=True)
        for left in work.glob("image*"):
            left.unlink()


def asked_for(judge, program, work):
    """What may be done when told."""
    path, drop_in = work / "image", DropIn(program.path, judge.programs[1], work)
    # By the verb when told, by the drop-in with a warning. One that was not put away in order would be marked as in use, and worth nothing.
    for words in (("--with-bitmaps",), ("virt-sparsify", "--in-place")):
        bitmap(judge, path)
        run("qemu-img", "bitmap", "--add", "--disable", "-g", "4096", path, "old")
        form, before = form_of(path), allocated(path)
        if words[0] != "virt-sparsify":
            program(*words, path)
        else:
            said(drop_in(*words[1:], path), "warning: the image has persistent bitmaps: what is trimmed counts as changed")
        if before - allocated(path) < MIB or form_of(path) != form or len(form["bitmaps"]) != 2 or any(qcow2_errors(path)):
            raise AssertionError(f"{words}: {form} became {form_of(path)}")
        judge.check(path, "qcow2")
        path.unlink()
    thick(judge, path)
    if program("--allow-thick", path)["total"]["freed_bytes"] < MIB:
        raise AssertionError("a thick image stayed thick")
    judge.check(path)
    if program("--threshold", "1T", path)["targets"][0]["reasons"] != ["below-threshold"]:
        raise AssertionError("the threshold is not heard")
    path.unlink()


def strict_and_swap(judge, program, work):
    """--strict and --keep-swap, beside one that has checksums: what is left alone stays to the block, what is taken comes free."""
    ext3 = Judge(work / "ext3", Case("ext4", "mkfs.ext3 -q", "few", size=32 * MIB, megabytes=12), *judge.programs)
    swap, path, part = work / "swap", work / "image", work / "part"
    swap.write_bytes(b"paged out" * (16 * MIB // 9 + 1))
    os.truncate(swap, 16 * MIB)
    run("mkswap", swap)
    for words, refusals in ((("--strict",), [None, "unchecked", "unchecked"]), (("--strict", "--keep-swap"), [None, "unchecked", "not-asked"]),
                            (("--keep-swap",), [None, None, "not-asked"]), ((), [None, None, None])):
        begins = disk_of(path, judge.image.path, ext3.image.path, swap)
        places = list(zip(begins, (judge.image.size, ext3.image.size, 16 * MIB), strict=True))
        before, were = allocated(path), [imagelib.holes(path, offset, offset + size) for offset, size in places]
        target = program("--engine=native", *words, path)["targets"][0]
        found = [filesystem["refusal"] for filesystem in target["filesystems"]]
        if found != refusals or before - allocated(path) != target["disks"][0]["freed_bytes"]:
            raise AssertionError(f"{words}: {found}, {target}")
        for (offset, size), original, refusal, was in zip(places, (judge.image.path, ext3.image.path, swap), refusals, were, strict=True):
            holes = imagelib.holes(path, offset, offset + size)
            if refusal and (holes != was or part_of(path, offset, size, part).read_bytes() != original.read_bytes()):
                raise AssertionError(f"{words}: at {offset}: left alone, and yet something changed")
            if not refusal and sum(length for _, length in holes) < sum(length for _, length in was) + 4 * MIB:
                raise AssertionError(f"{words}: at {offset}: {was} became {holes}")
        judge.check(part_of(path, *places[0], part))
        ext3.check(part_of(path, *places[1], part))
    left = part_of(path, *places[2], part).read_bytes()
    if left[:4096] != swap.read_bytes()[:4096] or left[4096:].strip(b"\0"):
        raise AssertionError("of a swap area its first page stays, and nothing else")
    print("--strict and --keep-swap: what is left alone stays, what is taken comes free", flush=True)
    shutil.rmtree(work / "ext3")
    for path in (swap, path, part):
        path.unlink()


def after_a_kill(judge, program, work):
    """Leaks of a run of ours that was killed are repaired by the next one, and nobody else's."""
    path = judge.copy(work / "image", "qcow2")
    program(path)
    leak(path)
    program(path)
    if qcow2_errors(path) != (False, True):
        raise AssertionError("a leak that is not ours, and yet it is not there any more")
    mark = program.run_directory / f"unfinished-{path.stat().st_dev}-{path.stat().st_ino}"
    mark.touch()
    program("--dry-run", path)
    if qcow2_errors(path) != (False, True):
        raise AssertionError("a dry run repaired something")
    program(path)
    if any(qcow2_errors(path)) or mark.exists():
        raise AssertionError("the leak of a killed run is there still")
    judge.check(path, "qcow2")
    path.unlink()
    print("a leak after a kill: repaired by the next run", flush=True)


def devices(judge, program, work):
    path = judge.copy(work / "image")
    before = allocated(path)
    loop = run("losetup", "-f", "--show", path).stdout.strip()
    try:
        with open(loop, "rb"):
            target = program(loop, status=5)["targets"][0]
            if target["reasons"] != ["image-in-use"]:
                raise AssertionError(f"a device in use: {target}")
        result = program(loop)
        if result["targets"][0]["disks"][0]["freed_bytes"] is not None or result["total"]["given_back_bytes"] < MIB:
            raise AssertionError(f"a device: {result}")
    finally:
        imagelib.detach(loop, path)
    print(f"a block device: {(before - allocated(path)) >> 10} KiB came free below it", flush=True)
    if before - allocated(path) < MIB:
        raise AssertionError("nothing came free")
    judge.check(path)
    path.unlink()


def no_holes(judge, program, work):
    """A filesystem that cannot punch: said, and not trimmed for nothing."""
    mounted = work / "mounted"
    mounted.mkdir()
    run("mount", "-t", "ramfs", "ramfs", mounted)  # every kernel has it
    try:
        for format_ in ("raw", "qcow2"):
            path = judge.copy(mounted / "image", format_)
            before = sha256(path)
            target = program("--allow-thick", path, status=5)["targets"][0]
            if target["reasons"] != ["storage-cannot-punch"] or sha256(path) != before:
                raise AssertionError(f"{format_} on ramfs: {target}")
            path.unlink()
    finally:
        run("umount", mounted)
    print("a filesystem without holes: refused, raw and qcow2", flush=True)


def without_libguestfs(judge, program, work):
    """One line for the filesystem that native does not know; what it knows beside that comes free."""
    path, unknown, size = work / "image", judge.copy(work / "unknown"), judge.image.size
    run("debugfs", "-w", "-R", "set_super_value feature_incompat 0x12c2", unknown)
    begin, second = disk_of(path, judge.image.path, unknown)
    environment = program.environment
    program.environment = environment | {"VIRT_RECLAIM_GUESTFS": "/nonexistent"}
    target = program(path)["targets"][0]
    program.environment = environment
    lines = [reason["detail"] for reason in target["reasons_explained"] if "libguestfs" in reason["detail"]]
    if len(lines) != 1 or "virt-reclaim-guestfs is not installed" not in lines[0] or target["disks"][0]["freed_bytes"] < 8 * MIB:
        raise AssertionError(f"not one line, or native did not go on: {target}")
    known = part_of(path, second, size, work / "known")
    if known.read_bytes() != unknown.read_bytes():
        raise AssertionError("what is not known was changed")
    judge.check(part_of(path, begin, size, known))
    for left in (path, unknown, known):
        left.unlink()
    print(f"without libguestfs: {lines[0]}", flush=True)


def copies(judge, program, work):
    """--output: the source stays, the copy is the smaller one; nothing is overwritten."""
    for format_ in ("raw", "qcow2"):
        source, copy = judge.copy(work / "image", format_), work / "copy"
        if format_ == "qcow2":
            run("qemu-img", "snapshot", "-c", "before", source)
        before = sha256(source)
        dry = program("--output", copy, "--dry-run", source)
        if copy.exists() or dry["message_type"] != "sparsify-plan" or sha256(source) != before:
            raise AssertionError(f"a dry run made a copy: {dry}")
        target = program("--output", copy, source)["targets"][0]
        if sha256(source) != before or target["output"] != str(copy) or target["output_allocation_bytes"] != allocated(copy):
            raise AssertionError(f"{format_}: {target}")
        if allocated(source) - allocated(copy) < 8 * MIB or target["not_kept"] != ([] if format_ == "raw" else ["1 internal snapshot"]):
            raise AssertionError(f"{format_}: {allocated(source)} -> {allocated(copy)}: {target}")
        # An estimate is by the rules of a copy, not by those of the work in place, and as much as comes of it.
        planned = dry["targets"][0]
        if planned.get("not_kept", []) != target["not_kept"] or "output" in planned:
            raise AssertionError(f"{format_}: {planned}")
        if not 8 * MIB <= planned["disks"][0]["reclaimable_bytes"] <= allocated(source) - allocated(copy) + MIB:
            raise AssertionError(f"{format_}: {allocated(source)} -> {allocated(copy)}, and an estimate of {planned}")
        judge.check(copy, format_)
        digest = sha256(copy)
        target = program("--output", copy, source, status=1)["targets"][0]
        if sha256(copy) != digest or "is there already" not in str(target):
            raise AssertionError(f"overwritten: {target}")
        copy.unlink()
        with open(source, "r+b"):
            target = program("--output", copy, source, status=5)["targets"][0]
        if target["reasons"] != ["image-in-use"] or copy.exists():
            raise AssertionError(f"in use: {target}")
        source.unlink()
    print("--output: a copy, and the source as it was", flush=True)


def snapshots(judge, program, work):
    """What deleting an internal snapshot would free is what it frees."""
    path = judge.copy(work / "image", "qcow2")
    for pattern, name in enumerate(("first", "second", "third"), 1):
        run("qemu-img", "snapshot", "-c", name, path)
        run("qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} 12M {12 - pattern}M", path)
    for name in ("first", "second", "third"):
        (reason,) = program(path, status=5)["targets"][0]["reasons_explained"]
        promised = re.search(rf"'{name}' \(\d\) (?:would free )?([0-9.]+) ([KM])iB", reason["detail"])
        before = allocated(path)
        run("qemu-img", "snapshot", "-d", name, path)
        freed = before - allocated(path)
        wanted = float(promised[1]) * (MIB if promised[2] == "M" else 1 << 10)
        # As it is printed; the table of snapshots is written anew, and what it freed may be used at once.
        if abs(freed - wanted) > 256 << 10 or freed < MIB:
            raise AssertionError(f"{name}: {freed} came free: {reason}")
        print(f"deleting a snapshot: {freed >> 10} KiB, said: {promised[1]} {promised[2]}iB", flush=True)
    program(path)
    path.unlink()


def libvirt_that_does_not_answer(judge, program, work):
    """Where there are definitions nothing is done; each command line is told how to do it all the same."""
    path, here = judge.copy(work / "image"), work / "etc"
    run("cp", "-a", "/etc", here)
    (here / "libvirt" / "qemu").mkdir(parents=True, exist_ok=True)
    (here / "libvirt" / "qemu" / "web.xml").touch()
    run("mount", "--bind", here, "/etc")
    environment = program.environment | {"LIBVIRT_DEFAULT_URI": f"qemu+unix:///system?socket={work}/none", "VIRT_RECLAIM_RUN_DIR": str(work / "run")}
    before = sha256(path)
    try:
        for words, advice, helps, more in (
            (["sparsify"], "(or write --no-libvirt)", ["sparsify", "--no-libvirt"], {}),
            (["virt-sparsify", "--in-place"], "(or set VIRT_RECLAIM_NO_LIBVIRT=1)", ["virt-sparsify", "--in-place"], {"VIRT_RECLAIM_NO_LIBVIRT": "1"}),
        ):
            done = run(program.path, *words, path, check=False, env=environment)
            if done.returncode != 1 or advice not in done.stdout or sha256(path) != before:
                raise AssertionError(f"{words}: {done.returncode} {done.stdout}")
            run(program.path, *helps, "-q" if more else "--dry-run", path, env=environment | more)
    finally:
        run("umount", "/etc")
    judge.check(path)
    path.unlink()
    print("libvirt that does not answer: nothing is done, and it is said how", flush=True)


def main():
    virt_reclaim, worker, dump = sys.argv[1:4]
    imagelib.need("mkfs.ext4", "debugfs", "mkswap", "losetup", "sfdisk", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    with imagelib.work_directory("sparsify-refusals.") as work:
        program = Program(virt_reclaim, worker, work)
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=64 * MIB, megabytes=24), dump, worker)
        refused(judge, program, work)
        asked_for(judge, program, work)
        strict_and_swap(judge, program, work)
        after_a_kill(judge, program, work)
        devices(judge, program, work)
        copies(judge, program, work)
        snapshots(judge, program, work)
        without_libguestfs(judge, program, work)
        no_holes(judge, program, work)
        libvirt_that_does_not_answer(judge, program, work)


if __name__ == "__main__":
    main()
