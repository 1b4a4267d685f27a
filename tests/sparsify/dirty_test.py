#!/usr/bin/env python3
"""dirty_test.py PROGRAM WORKER DUMP: filesystems of every kind that are not at rest, through the verb: refused with the reason, status 5, and not a
byte, nor what the image occupies, is another; at rest the same filesystem comes free, so that it was the state that was refused. Copies that carry no
mark (btrfs, NTFS) keep every file of their last committed state."""

import ctypes
import hashlib
import os
import pathlib
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Image, Program, allocated, as_raw, disk_of, qcow2_errors, run

import dirtylib
import foreignlib
import imagelib
from imagelib import Mounted, attach, fill, hashes, holes

WRITE_AND_WAIT = 1 | 2 | 4  # sync_file_range(2)


def copied(source, path):
    run("cp", "--sparse=always", source, path)


def mounted(act=None, frozen=False):
    """What a copy of a mounted filesystem is. `act` comes right before the copy, which it keeps from being made until it is over."""

    def make(image, copy):
        with image.mounted() as directory:
            fill(directory, "few", 1, 12)
            run("sync", "-f", directory)
            if frozen:
                run("fsfreeze", "-f", directory)
            try:
                (act or (lambda _, copy_now: copy_now()))(directory, lambda: copied(image.path, copy))
            finally:
                if frozen:
                    run("fsfreeze", "-u", directory)

    return make


def marked(mark):
    """A copy of a filesystem at rest, in which `mark` writes down that it is not."""

    def make(image, copy):
        image.fill(1)
        copied(image.path, copy)
        mark(copy)

    return make


def ext_error(path):
    run("debugfs", "-w", "-R", "set_super_value state 3", path)


def xfs_needs_repair(path):
    run("xfs_db", "-x", "-c", "sb 0", "-c", "write -d features_incompat 0x1b", path)


def ntfs_dirty(path):
    for at in dirtylib.volume_flags(path):
        dirtylib.write(path, at, b"\3\1\1\0")


def ntfs_by_its_tool(path):
    run("ntfsfix", path)  # wants Windows to check it


def ntfs_log(**pages):
    def mark(path):
        log = path.read_bytes().index(b"\xff" * (2 * MIB))
        dirtylib.write(path, log, dirtylib.restart_page(**pages) * 2)

    return mark


def ntfs_hibernated(path):
    with Mounted(path, "ntfs") as directory:
        (directory / "hiberfil.sys").write_bytes(b"hibr" + bytes(100_000))


def byte(at, value):
    return lambda path: dirtylib.write(path, at, bytes([value]))


def fat_entry(bits, value):
    """The second entry of both FATs, where a mount is noted, too."""

    def mark(path):
        with open(path, "rb") as file:
            head = file.read(64)
        reserved, fats = struct.unpack_from("<HB", head, 14)
        sectors = struct.unpack_from("<H", head, 22)[0] or struct.unpack_from("<I", head, 36)[0]
        for number in range(fats):
            dirtylib.write(path, (reserved + number * sectors) * 512 + bits // 8, value.to_bytes(bits // 8, "little"))

    return mark


@dataclass
class State:
    name: str
    case: Case
    make: Callable[[Image, pathlib.Path], None]
    refusal: str
    reason: str


def case(type_, mkfs, size=64, **more):
    return Case(type_, mkfs, "few", size=size * MIB, megabytes=12, **more)


EXT4, XFS = case("ext4", "mkfs.ext4 -q"), case("xfs", "mkfs.xfs -q", 300)
NTFS, EXFAT = case("ntfs", "mkntfs -q -Q -F"), case("exfat", "mkfs.exfat -c 4K", 48)
FAT12, FAT16, FAT32 = (case("vfat", f"mkfs.fat -F {options}", 48) for options in ("12 -s 32", "16 -s 4", "32 -s 1"))
NOT_UNMOUNTED, JOURNAL, LOG = "not cleanly unmounted", "its journal wants to be replayed", "its log wants to be replayed"
STATES = [
    State("ext2, mounted", case("ext2", "mkfs.ext2 -q"), mounted(), "state", NOT_UNMOUNTED),
    State("ext3, mounted", case("ext4", "mkfs.ext3 -q"), mounted(), "dirty-journal", JOURNAL),
    State("ext4, mounted", EXT4, mounted(), "dirty-journal", JOURNAL),
    State("ext4 in a partition, mounted", case("ext4", "mkfs.ext4 -q", table="gpt"), mounted(), "dirty-journal", JOURNAL),
    State("ext4 without a journal, mounted", case("ext4", "mkfs.ext4 -q -O ^has_journal"), mounted(), "state", NOT_UNMOUNTED),
    State("ext4, errors noted", EXT4, marked(ext_error), "state", "errors are noted"),
    State("XFS, mounted", XFS, mounted(), "dirty-journal", LOG),
    State("XFS in a partition, mounted", case("xfs", "mkfs.xfs -q", 300, table="dos"), mounted(), "dirty-journal", LOG),
    State("XFS, frozen", XFS, mounted(frozen=True), "dirty-journal", LOG),
    State("XFS, needs repair", XFS, marked(xfs_needs_repair), "state", "xfs_repair"),
    State("btrfs, log tree", case("btrfs", "mkfs.btrfs -q", 128), mounted(dirtylib.with_log_tree), "dirty-journal", "its log tree wants to be replayed"),
    State("NTFS, dirty flag", NTFS, marked(ntfs_dirty), "state", "marked dirty"),
    State("NTFS, dirty flag of ntfsfix", NTFS, marked(ntfs_by_its_tool), "state", "marked dirty"),
    State("NTFS, log not closed", NTFS, marked(ntfs_log(client=0)), "state", NOT_UNMOUNTED),
    State("NTFS, fast started", NTFS, marked(ntfs_log(version=(2, 0))), "state", "fast started"),
    State("NTFS, hibernated", NTFS, marked(ntfs_hibernated), "state", "hibernated"),
    State("FAT12, boot sector", FAT12, marked(byte(0x25, 1)), "state", "as its boot sector says"),
    State("FAT16, boot sector", FAT16, marked(byte(0x25, 1)), "state", "as its boot sector says"),
    State("FAT32, boot sector", FAT32, marked(byte(0x41, 1)), "state", "as its boot sector says"),
    State("FAT16, FAT", FAT16, marked(fat_entry(16, 0x7FFF)), "state", "as its FAT says"),
    State("FAT32, FAT", FAT32, marked(fat_entry(32, 0x07FFFFFF)), "state", "as its FAT says"),
    State("exFAT, mounted", EXFAT, mounted(), "state", "marked dirty"),
    State("exFAT, dirty flag", EXFAT, marked(byte(106, 2)), "state", "marked dirty"),
    State("exFAT, medium failed", EXFAT, marked(byte(106, 4)), "state", "its medium failed"),
]


def in_format(source, path, format_):
    """An image whose size on the host does not change by itself any more."""
    if format_ == "raw":
        copied(source, path)
    else:
        run("qemu-img", "convert", "-f", "raw", "-O", format_, "-o", "cluster_size=4096", source, path)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return path


def outside_of(path):
    """All that can be seen of a file."""
    status = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), status.st_blocks, status.st_size, status.st_mtime_ns


def refused(program, path, state):
    before = outside_of(path)
    for words in ((), ("--dry-run",), ("--engine=native",)):
        target = program(*words, path, status=5)["targets"][0]
        (found,) = target["filesystems"]
        if target["reasons"] != ["filesystem-refused"] or found["refusal"] != state.refusal or state.reason not in found["refusal_text"]:
            raise AssertionError(f"{words}: {target}")
        if state.reason not in target["reasons_explained"][0]["detail"] or any(disk["given_back_bytes"] for disk in target["disks"]):
            raise AssertionError(f"{words}: not said, or not kept: {target}")
        if outside_of(path) != before:
            raise AssertionError(f"{words}: refused, and yet something changed")


def judge_state(programs, work, number):
    state, work = STATES[number], work / f"state{number}"
    work.mkdir()
    program = Program(*programs[:2], work)
    image, copy = Image(work / "original", state.case), work / "copy"
    state.make(image, copy)
    for format_ in ("raw", "qcow2"):
        path = in_format(copy, work / f"image.{format_}", format_)
        refused(program, path, state)
        path.unlink()
    path = in_format(image.path, work / "at-rest", "raw")
    before = allocated(path)
    freed = program("--engine=native", path)["total"]["freed_bytes"]
    if freed < 4 * MIB or before - allocated(path) != freed:
        raise AssertionError(f"at rest {freed} bytes come free: {before} -> {allocated(path)}")
    shutil.rmtree(work)
    return f"{state.name}: {state.refusal}, untouched; at rest {freed >> 10} KiB come free"


def committed_btrfs(image, copy):
    """Deleted and written since, on the disk in part, and not committed."""
    with image.mounted(options="commit=300") as directory:
        image.fill_into(directory)
        run("btrfs", "filesystem", "sync", directory)
        before = hashes(directory)
        for name in list(before)[::3]:
            if (directory / name).is_file():
                (directory / name).unlink()
        with open(directory / "late", "wb") as file:
            file.write(os.urandom(4 * MIB))
            file.flush()
            if imagelib.libc.sync_file_range(file.fileno(), ctypes.c_long(0), ctypes.c_long(0), WRITE_AND_WAIT) != 0:
                raise OSError(ctypes.get_errno(), "sync_file_range")
        copied(image.path, copy)
    return before


def committed_ntfs(image, copy):
    with image.mounted() as directory:
        image.fill_into(directory)
        run("sync", "-f", directory)
        before = hashes(directory)
        copied(image.path, copy)
    return before


class Filled(Image):
    def fill_into(self, directory):
        fill(directory, self.case.pattern, 1, self.case.megabytes)


def judge_committed(programs, work, number):
    (type_, mkfs, make), work = COMMITTED[number], work / f"committed{number}"
    work.mkdir()
    program = Program(*programs[:2], work)
    image, copy = Filled(work / "original", Case(type_, mkfs, "chequered", size=256 * MIB, megabytes=24)), work / "copy"
    before = make(image, copy)
    if len(before) < 100 or image.hashes(copy) != before:
        raise AssertionError("the copy is not as it was when it was committed")
    freed = []
    for format_ in ("raw", "qcow2"):
        path = in_format(copy, work / f"image.{format_}", format_)
        freed.append(program("--engine=native", path)["total"]["freed_bytes"])
        if freed[-1] < MIB:
            raise AssertionError(f"{format_}: only {freed[-1]} bytes came free")
        if format_ == "qcow2" and any(qcow2_errors(path)):
            raise AssertionError("qemu-img check is not content")
        view = as_raw(path, format_)
        image.check(view)
        after = image.hashes(view)
        if after != before:
            raise AssertionError(f"{format_}: files differ: {[name for name in before if before[name] != after.get(name)][:5]}")
    shutil.rmtree(work)
    return f"{type_}, mounted, without a mark: {len(before)} files as they were committed; freed of raw and qcow2: {[n >> 10 for n in freed]} KiB"


COMMITTED = [("btrfs", "mkfs.btrfs -q", committed_btrfs), ("ntfs", "mkntfs -q -Q -F", committed_ntfs)]


def beside_one_at_rest(programs, work):
    """Two partitions: what is dirty stays as it is, to the block, and what is at rest comes free."""
    work = work / "beside"
    work.mkdir()
    program = Program(*programs[:2], work)
    image, copy, path = Image(work / "original", XFS), work / "copy", work / "image"
    mounted()(image, copy)
    size = image.size
    disk_of(path, image.path, copy, label="dos")
    begin, end = MIB + size, MIB + 2 * size
    before = path.read_bytes()[begin:end], holes(path, begin, end)
    target = program("--engine=native", path)["targets"][0]
    refusals = [found["refusal"] for found in target["filesystems"]]
    if refusals != [None, "dirty-journal"] or target["reasons"] != ["filesystem-refused"] or target["disks"][0]["freed_bytes"] < 4 * MIB:
        raise AssertionError(f"beside one at rest: {target}")
    if (path.read_bytes()[begin:end], holes(path, begin, end)) != before:
        raise AssertionError("the one that was refused is another")
    loop = attach(path, MIB, size)
    try:
        run("xfs_repair", "-n", loop)
    finally:
        imagelib.detach(loop, path)
    shutil.rmtree(work)
    return f"an XFS that is mounted beside one at rest: the one is untouched, of the other {target['disks'][0]['freed_bytes'] >> 10} KiB came free"


def what_is_foreign(programs, work):
    """A partition of each kind that has no reader, each over an ext4 where that leaves it to be seen, raw and through QEMU."""
    work = work / "foreign"
    work.mkdir()
    program, kinds, parts = Program(*programs[:2], work), foreignlib.foreign(16 * MIB), []
    for number, (name, _, writes) in enumerate(kinds):
        parts.append(work / f"part{number}")
        with open(parts[-1], "wb") as file:
            file.truncate((64 if name == "ZFS" else 16) * MIB)  # as much as libblkid wants
        if name.startswith("MD"):
            run("mkfs.ext4", "-q", parts[-1])
        for offset, data in writes:
            dirtylib.write(parts[-1], offset, data)
    whole = work / "whole"
    disk_of(whole, *parts)
    for format_ in ("raw", "qcow2"):
        path = in_format(whole, work / f"image.{format_}", format_)
        before = outside_of(path)
        target = program("--engine=native", path, status=5)["targets"][0]
        found = [(one["type"], one["refusal"]) for one in target["filesystems"]]
        if found != [(type_, "unknown") for _, type_, _ in kinds] or outside_of(path) != before:
            raise AssertionError(f"{format_}: {found}")
        if [reason["code"] for reason in target["reasons_explained"]] != ["filesystem-refused"] * len(kinds):
            raise AssertionError(f"{format_}: not told: {target['reasons_explained']}")
    shutil.rmtree(work)
    return f"{', '.join(name for name, _, _ in kinds)}: told, and untouched"


def main():
    imagelib.need("mkfs.ext4", "debugfs", "mkfs.xfs", "xfs_db", "mkfs.btrfs", "mkntfs", "ntfsfix", "ntfs-3g", "mkfs.fat", "mcopy", "mkfs.exfat",
                  "mount.exfat-fuse", "fsfreeze", "sfdisk", "losetup", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    failed = 0
    with imagelib.work_directory("sparsify-dirty.") as work:
        # By their numbers: functions made by functions do not go to another process.
        jobs = [(judge_state, sys.argv[1:4], work, number) for number in range(len(STATES))]
        jobs += [(judge_committed, sys.argv[1:4], work, number) for number in range(len(COMMITTED))]
        jobs += [(beside_one_at_rest, sys.argv[1:4], work), (what_is_foreign, sys.argv[1:4], work)]
        for job, result in imagelib.each(call, jobs):
            failed += isinstance(result, BaseException)
            name = STATES[job[3]].name if job[0] is judge_state else job[0].__name__
            print(f"FAILED {name}: {result!r}" if isinstance(result, BaseException) else result, flush=True)
    print(f"{len(jobs)} states, {failed} failed")
    sys.exit(1 if failed else 0)


def call(function, *words):
    return function(*words)


if __name__ == "__main__":
    main()
