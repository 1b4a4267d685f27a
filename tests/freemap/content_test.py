#!/usr/bin/env python3
"""content_test.py DUMP WORKER [KIND...]: gives back exactly the free runs, in a copy, and judges what is left.

For each image: sha256 of every file the same, the filesystem's own checker content, every byte outside the runs equal, and as
much given back as a trim by the kernel. First the runs are punched, then they are scribbled over, which is worse for whoever
still uses one. Prints a line for each image and a table. VR_IMAGES=9 makes so many of each kind, evenly; without it all are made, and none may be
missing.
"""

import os
import pathlib
import shutil
import sys
from dataclasses import dataclass

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import imagelib
import xfs4lib
from imagelib import MIB, Dump, Mounted, Mtools, allocated, attach, detach, fill, hash_outside, hashes, punch, run, scribble
from matrixlib import Matrix, filesystem_of


@dataclass
class Case:
    type: str  # of mount
    mkfs: str  # with its options; the device comes last
    pattern: str = "chequered"
    size: int = 96 * MIB
    table: str = ""  # "": whole disk
    megabytes: int = 40
    slack: int = 0  # bytes that a trim may give back beyond us
    mount: str = ""  # options while it is filled

    @property
    def name(self):
        return f"{self.mkfs} [{self.pattern}{', ' + self.table if self.table else ''}]"


def ext_cases():
    for pattern in ("empty", "few", "chequered", "deep", "full"):
        yield Case("ext4", "mkfs.ext4 -q", pattern)
    for pattern in ("chequered", "full"):
        yield Case("ext2", "mkfs.ext2 -q", pattern)
        yield Case("ext4", "mkfs.ext3 -q", pattern)
    for options in ("-b 1024", "-b 2048", "-O ^flex_bg", "-O ^64bit", "-O ^metadata_csum", "-O ^metadata_csum,^uninit_bg",
                    "-O meta_bg,^resize_inode", "-O bigalloc -C 16384", "-O sparse_super2", "-O ^resize_inode",
                    "-O inline_data", "-O mmp",
                    "-m 0 -E lazy_itable_init=0", "-b 1024 -g 2048", "-O fast_commit", "-O orphan_file", "-O ^has_journal",
                    "-O ea_inode,large_dir", "-O verity,stable_inodes", "-b 1024 -O bigalloc -C 4096", "-E stride=16,stripe-width=64",
                    "-O ^sparse_super,^resize_inode"):
        # One kibibyte blocks: the kernel trims through a loop device in pages.
        yield Case("ext4", f"mkfs.ext4 -q {options}", "chequered" if len(options) % 2 else "deep", slack=64 << 10)
    # The kernel's ext4 mounts ext3, too.
    for type_, mkfs in (("ext2", "mkfs.ext2 -q"), ("ext4", "mkfs.ext3 -q")):
        for pattern, table, options in (("few", "dos", ""), ("few", "gpt", ""), ("deep", "", ""), ("chequered", "", " -b 1024"),
                                        ("chequered", "", " -b 2048 -I 128"), ("deep", "", " -O ^resize_inode,^sparse_super")):
            yield Case(type_, mkfs + options, pattern, size=64 * MIB, table=table, megabytes=24, slack=64 << 10)
    for table in ("dos", "logical", "gpt", "gpt4k"):
        yield Case("ext4", "mkfs.ext4 -q", "few", table=table)
    yield Case("ext4", "mkfs.ext4 -q", "few", size=2048 * MIB, megabytes=200)


def xfs_cases():
    # The kernel leaves free space of group 0 untrimmed and counts late: what it gives back is no measure (slack < 0).
    def xfs(options, pattern, **more):
        return Case("xfs", f"mkfs.xfs -q {options}".strip(), pattern, size=more.pop("size", 320 * MIB), slack=16 * MIB, **more)

    for pattern in ("empty", "few", "chequered", "deep"):
        yield xfs("", pattern)
    yield xfs("", "full", size=300 * MIB)
    for options in ("-m rmapbt=1", "-m reflink=0", "-m finobt=0,reflink=0,rmapbt=0", "-b size=1024", "-b size=2048 -i size=1024",
                    "-s size=4096", "-l su=32k", "-l su=256k", "--unsupported -d agcount=13", "-m bigtime=0,inobtcount=0",
                    "-i nrext64=1", "-b size=2048 -n size=8192", "--unsupported -l size=16m"):
        yield xfs(options, "chequered" if len(options) % 2 else "deep")
    yield xfs("-d su=64k,sw=4", "deep", size=1024 * MIB)
    yield xfs("", "few", table="gpt")
    yield xfs("", "few", table="dos")
    for pattern in ("few", "chequered", "deep"):
        yield Case("xfs4", xfs4lib.MKFS, pattern, size=320 * MIB)


def btrfs_cases():
    def btrfs(options, pattern, **more):
        # A trim also frees the DUP twin of what a superblock's stripe covers.
        return Case("btrfs", f"mkfs.btrfs -q {options}".strip(), pattern, size=more.pop("size", 256 * MIB), slack=256 << 10, **more)

    for pattern in ("empty", "few", "chequered", "deep", "full"):
        yield btrfs("", pattern)
    for options in ("-m single", "-d dup", "--mixed", "-n 4096", "-n 65536", "-R ^free-space-tree", "-O ^skinny-metadata",
                    "-O ^no-holes", "-m dup -d dup"):
        yield btrfs(options, "chequered" if len(options) % 2 else "deep")
    yield btrfs("", "few", table="gpt")


def ntfs_cases():
    def ntfs(options, pattern, **more):
        return Case("ntfs", f"mkntfs -q -Q -F {options}".strip(), pattern, slack=64 << 10, **more)

    for pattern in ("empty", "few", "chequered", "deep", "full"):
        yield ntfs("", pattern)
    for options in ("-c 512", "-c 1024", "-c 65536", "-s 4096 -c 4096", "-p 2048"):
        yield ntfs(options, "chequered" if len(options) % 2 else "deep")
    yield ntfs("-c 2097152", "few", size=512 * MIB)
    yield ntfs("", "deep", mount="compression")
    yield ntfs("-c 512", "pieces", size=24 * MIB)
    yield ntfs("", "pieces", size=24 * MIB)
    yield ntfs("", "few", table="gpt")
    yield ntfs("", "few", table="dos")


def fat_cases():
    def fat(options, pattern, **more):
        return Case("vfat", f"mkfs.fat {options}", pattern, size=more.pop("size", 64 * MIB), **more)

    for pattern in ("empty", "few", "chequered", "deep", "full"):
        yield fat("-F 16", pattern, megabytes=70 if pattern == "full" else 30)
        yield fat("-F 32 -s 1", pattern, megabytes=70 if pattern == "full" else 30)
    for pattern in ("few", "chequered", "deep"):
        yield fat("-F 12 -s 64", pattern, size=120 * MIB, megabytes=20)
    yield fat("-F 12 -s 1", "chequered", size=MIB, megabytes=1)
    yield fat("-F 12 -s 64", "empty", size=120 * MIB)
    yield fat("-F 12 -s 16", "full", size=30 * MIB, megabytes=40)
    yield fat("-F 12 -s 8", "few", size=15 * MIB, table="dos", megabytes=8)
    yield fat("-F 12 -s 4 -r 1024", "chequered", size=7 * MIB, megabytes=3)
    yield fat("-F 16 -f 1 -r 1024", "chequered", megabytes=16)
    yield fat("-F 32 -s 1 -S 1024", "deep", size=128 * MIB)
    yield fat("-F 32 -s 8 -R 128 -b 3", "deep", size=300 * MIB)
    yield fat("-F 16 -S 4096 -s 1", "chequered", size=64 * MIB)
    yield fat("-F 16", "few", table="dos", megabytes=20)
    yield fat("-F 32 -s 1", "few", table="gpt", megabytes=20)


def exfat_cases():
    def exfat(options, pattern, **more):
        return Case("exfat", f"mkfs.exfat {options}".strip(), pattern, **more)

    for pattern in ("empty", "few", "chequered", "deep", "full"):
        yield exfat("", pattern, megabytes=20)
    for options in ("-c 512", "-c 32K", "-c 1M", "-c 128K -b 4M"):
        yield exfat(options, "chequered" if options == "-c 512" else "deep", size=256 * MIB, megabytes=10)
    yield exfat("-c 512", "deep", size=200 * MIB)
    yield exfat("-c 512", "pieces", size=8 * MIB)
    yield exfat("", "few", table="dos")
    yield exfat("", "few", table="gpt")


CASES = {"ext": ext_cases, "xfs": xfs_cases, "btrfs": btrfs_cases, "ntfs": ntfs_cases, "fat": fat_cases, "exfat": exfat_cases}
# How many there are of each. At least 8 of each filesystem that is named, and 120 in all: main judges this, too.
IMAGES = {
    "ext": {"ext2": 8, "ext3": 8, "ext4": 32}, "xfs": {"xfs": 24}, "btrfs": {"btrfs": 15}, "ntfs": {"NTFS": 16},
    "fat": {"FAT12": 8, "FAT16": 8, "FAT32": 8}, "exfat": {"exFAT": 13},
}
CHECKS = {
    "ext2": ["e2fsck -fn"], "ext4": ["e2fsck -fn"], "xfs": ["xfs_repair -n"], "xfs4": ["xfs_repair -n"],
    "btrfs": ["btrfs check --check-data-csum"],
    "vfat": ["fsck.fat -n"], "exfat": ["fsck.exfat -n"],
    # The last one compares $Bitmap with all runs.
    "ntfs": ["ntfsfix -n", "ntfs-3g.probe --readwrite", "ntfsresize --info"],
}


class Image:
    """A disk with one filesystem, whole or in a partition."""

    def __init__(self, path, case):
        self.path, self.case, self.offset, self.size = path, case, 0, case.size
        self.xfs4 = xfs4lib.Xfs4(case.mkfs) if case.type == "xfs4" else None
        with open(path, "wb") as file:
            file.truncate(case.size + (4 * MIB if case.table else 0))
        if case.table:
            self.partition()
        loop = attach(path, self.offset, self.size)
        try:
            run(*case.mkfs.split(" "), loop)
        finally:
            detach(loop, path)

    def partition(self):
        self.offset, self.size = 1 * MIB, self.case.size
        start, count = self.offset // 512, self.size // 512
        if self.case.table == "gpt":
            script = f"label: gpt\nstart={start}, size={count}\n"
        elif self.case.table == "gpt4k":
            script = f"label: gpt\nsector-size: 4096\nstart={start // 8}, size={count // 8}\n"
        elif self.case.table == "logical":
            self.offset += MIB
            script = f"label: dos\nstart={start}, size={count + 4096}, type=5\nstart={start + 2048}, size={count}\n"
        else:
            script = f"label: dos\nstart={start}, size={count}\n"
        loop = attach(self.path, options=["--sector-size", "4096"] if self.case.table == "gpt4k" else [])
        try:
            run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", loop, input=script.replace("sector-size: 4096\n", ""))
        finally:
            detach(loop, self.path)

    def mounted(self, path=None, options=""):
        return Mounted(path or self.path, self.case.type, options, self.offset, self.size)

    def check(self, path):
        loop = attach(path, self.offset, self.size)
        try:
            for command in CHECKS[self.case.type]:
                run(*command.split(" "), loop)
        finally:
            detach(loop, path)

    def fill(self, seed):
        if self.case.type == "vfat":
            Mtools(self.path, self.offset).fill(self.case.pattern, seed, self.case.megabytes)
            return
        if self.xfs4:
            self.xfs4.fill(self.path, self.case.pattern, seed, self.case.megabytes)
            return
        with self.mounted(options=self.case.mount) as directory:
            fill(directory, self.case.pattern, seed, self.case.megabytes)

    def hashes(self, path):
        if self.case.type == "vfat":
            return Mtools(path, self.offset).hashes()
        if self.xfs4:
            return self.xfs4.hashes(path)
        with self.mounted(path, "ro,norecovery" if self.case.type == "xfs" else "ro") as directory:
            return hashes(directory)


def copy_of(path):
    copy = path.with_suffix(".copy")
    run("cp", "--sparse=always", path, copy)
    return copy


def trimmed_by_kernel(image):
    if image.case.type in ("vfat", "xfs4"):
        return None
    copy = copy_of(image.path)
    before = allocated(copy)
    try:
        with image.mounted(copy) as directory:
            if run("fstrim", directory, check=False).returncode != 0:
                return None
            run("sync", "-f", directory)
        fd = os.open(copy, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        return before - allocated(copy)
    finally:
        copy.unlink()


def judge(case, dump, work, seed):
    work = work / f"{case.type}{seed}"
    work.mkdir()
    try:
        return judge_in(case, dump, work, seed)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def judge_in(case, dump, work, seed):
    image = Image(work / "image", case)
    image.fill(seed)
    before = image.hashes(image.path)
    image.check(image.path)
    found = dump(image.path)
    if len(found) != 1 or found[0].refusal != "none":
        raise AssertionError(f"not read: {found}")
    runs = [(offset, length) for _, offset, length in found[0].runs]
    outside = hash_outside(image.path, runs)
    copy = copy_of(image.path)
    full = allocated(copy)
    fd = os.open(copy, os.O_RDWR)
    for offset, length in runs:
        punch(fd, offset, length)
    os.fsync(fd)
    freed = full - allocated(copy)
    for act in (lambda: None, lambda: [scribble(fd, *a_run) for a_run in runs]):
        act()
        os.fsync(fd)
        image.check(copy)
        after = image.hashes(copy)
        if after != before:
            raise AssertionError(f"files differ: {[name for name in before if before[name] != after.get(name)][:5]}")
        if hash_outside(copy, runs) != outside:
            raise AssertionError("bytes outside of the free runs changed")
    os.close(fd)
    copy.unlink()
    kernels = trimmed_by_kernel(image)
    if kernels is not None and freed + case.slack < kernels:
        raise AssertionError(f"freed {freed}, a trim by the kernel {kernels}")
    return len(before), len(runs), found[0].free, freed, kernels


def jobs(kinds, dump, work):
    """All of each kind, or as many of them as VR_IMAGES says, evenly."""
    for kind in kinds:
        cases = list(CASES[kind]())
        few = min(int(os.environ.get("VR_IMAGES", len(cases))), len(cases))
        for i in range(few):
            seed = i * (len(cases) - 1) // max(few - 1, 1)
            yield cases[seed], dump, work, seed


def enough():
    counts = [images for kind in IMAGES.values() for images in kind.values()]
    return min(counts) >= 8 and sum(counts) >= 120


def main():
    dump = Dump(sys.argv[1], sys.argv[2])
    kinds = sys.argv[3:] or list(CASES)
    imagelib.need("mkfs.ext4", "mkfs.xfs", "xfs_db", "mkntfs", "mkfs.fat", "mcopy", "mkfs.exfat", "mount.exfat-fuse", "sfdisk", "losetup", "fstrim")
    imagelib.own_mounts()
    matrix, files, failed = Matrix(), 0, 0
    with imagelib.work_directory("freemap-content.") as work:
        for (case, *_), result in imagelib.each(judge, jobs(kinds, dump, work)):
            if isinstance(result, Exception):
                failed += 1
                print(f"FAILED {case.name}: {result}", flush=True)
                continue
            count, runs, free, freed, kernels = result
            matrix.add(filesystem_of(case.mkfs), free, freed)
            files += count
            print(f"{case.name}: {count} files, {runs} runs, freed {freed >> 10} KiB"
                  + (f", by a trim {kernels >> 10}" if kernels is not None else ""), flush=True)
    least = {} if "VR_IMAGES" in os.environ else {name: images for kind in kinds for name, images in IMAGES[kind].items()}
    whole = matrix.end(least) and enough()
    print(f"{'+'.join(kinds)}: {matrix.total().images} images, {files} files the same, {failed} failed")
    sys.exit(0 if whole and not failed else 1)


if __name__ == "__main__":
    main()
