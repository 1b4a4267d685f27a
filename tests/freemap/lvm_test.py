#!/usr/bin/env python3
"""lvm_test.py DUMP WORKER: volume groups over one and two disks, linear and striped, made by LVM2's own tools.

There is no device mapper where tests run, so the tools only write metadata; where each byte of a logical volume lies is worked
out here, by another rule than the reader's (block by block, from what `lvs` prints). Free runs of volumes and of the group are
punched and scribbled over; then every file, every checker and every other byte must be as before. Ends with a table.
"""

import os
import pathlib
import re
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import imagelib
from imagelib import MIB, Dump, Mounted, allocated, attach, fill, hash_outside, hashes, punch, run, scribble
from matrixlib import Matrix

DUMP, WORK, MATRIX = None, None, Matrix()
GROUPS = {"LVM2 on 1 disk": 5, "LVM2 over 2 disks": 2, "LVM2 over 3 disks": 1}  # that are read as a whole
BLOCK = 65536  # no piece of a volume is cut finer


class Group:
    """A volume group "vg" over parts of disk images; parts: (disk, offset, size)."""

    def __init__(self, work, disks, parts=None, names=None):
        self.work = work
        self.disks = [work / name for name in names or (f"disk{i}" for i in range(len(disks)))]
        for path, size in zip(self.disks, disks):
            with open(path, "wb") as file:
                file.truncate(size)
        self.parts = parts or [(i, 0, size) for i, size in enumerate(disks)]
        self.volumes = {}

    def lvm(self, *commands):
        loops = [attach(self.disks[disk], offset, size) for disk, offset, size in self.parts]
        filters = "".join(f'"a|^{loop}$|",' for loop in loops)
        config = (f'devices {{ filter=[{filters}"r|.*|"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }} '
                  f'global {{ locking_dir="{self.work}/lock" }}')
        try:
            output = ""
            for command in commands:
                words = [word.format(*loops) for word in command.split(" ")]
                output += run("lvm", words[0], "--driverloaded", "n", "--config", config, *words[1:]).stdout
            # Where the volumes lie, as LVM2 tells it: "root striped 4194304 0 /dev/loop0:0-9 /dev/loop1:0-9".
            self.volumes = {}
            starts = dict(re.findall(r"(/dev/\S+)=(\d+)", run(
                "lvm", "pvs", "--driverloaded", "n", "--config", config, "--noheadings", "--separator", "=", "--units", "b", "--nosuffix",
                "-o", "pv_name,pe_start", check=False).stdout))
            for line in run("lvm", "lvs", "--driverloaded", "n", "--config", config, "--noheadings", "--units", "b", "--nosuffix",
                            "--separator", "|", "-o", "lv_name,vg_extent_size,stripe_size,seg_pe_ranges").stdout.splitlines():
                if line.count("|") == 3:
                    name, extent, stripe, ranges = line.strip().split("|")
                    pieces = []
                    for device, first, last in re.findall(r"(/dev/\S+):(\d+)-(\d+)", ranges):
                        disk, offset, _ = self.parts[loops.index(device)]
                        begin = offset + int(starts[device]) + int(first) * int(extent)
                        pieces.append((disk, begin, (int(last) - int(first) + 1) * int(extent)))
                    self.volumes.setdefault(name, []).append((int(stripe), pieces))
            return output
        finally:
            for loop in loops:
                run("losetup", "-d", loop)

    def create(self, *commands):
        names = " ".join(f"{{{i}}}" for i in range(len(self.parts)))
        self.lvm(f"pvcreate {names}", f"vgcreate vg {names}", *commands)
        return self

    def blocks(self, name):
        """(disk, offset) of each BLOCK of a volume, in its order"""
        for stripe, pieces in self.volumes[name]:
            for row in range(0, pieces[0][2], stripe or pieces[0][2]):
                for disk, begin, length in pieces:
                    for at in range(row, min(row + (stripe or length), length), BLOCK):
                        yield disk, begin + at

    def copy(self, name, path, into):
        with open(path, "r+b" if into else "wb") as file:
            for disk, offset in self.blocks(name):
                with open(self.disks[disk], "r+b" if into else "rb") as image:
                    image.seek(offset)
                    if into:
                        image.write(file.read(BLOCK))
                    else:
                        file.write(image.read(BLOCK))

    def size(self, name):
        return sum(1 for _ in self.blocks(name)) * BLOCK


class LvmTest(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(dir=WORK))

    def tearDown(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    def put(self, group, name, mkfs, type_, pattern="chequered"):
        image = self.directory / "volume"
        with open(image, "wb") as file:
            file.truncate(group.size(name))
        run(*mkfs.split(" "), image)
        with Mounted(image, type_) as directory:
            fill(directory, pattern, 1, 20)
        with Mounted(image, type_, "ro") as directory:
            before = hashes(directory)
        group.copy(name, image, into=True)
        return before

    def judge(self, group, contents):
        """contents: volume -> (mkfs, type); all of them are read, and so is what is free in the group."""
        before = {name: self.put(group, name, *how) for name, how in contents.items()}
        found = DUMP(*group.disks)
        wanted = sorted([f"vg/{name}" for name in contents] + ["vg (free extents)"])
        self.assertEqual(sorted(fs.place for fs in found if fs.refusal == "none"), wanted, found)
        runs = [[] for _ in group.disks]
        for fs in found:
            self.assertEqual(fs.free, fs.dropped + sum(length for _, _, length in fs.runs))
            for disk, offset, length in fs.runs:
                runs[disk].append((offset, length))
        outside = [hash_outside(path, r) for path, r in zip(group.disks, runs)]
        freed = 0
        for path, r in zip(group.disks, runs):
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
                full = allocated(path)
                for offset, length in r:
                    punch(file.fileno(), offset, length)
                os.fsync(file.fileno())
                freed += full - allocated(path)
                for offset, length in r:
                    scribble(file.fileno(), offset, length)
        self.assertEqual([hash_outside(path, r) for path, r in zip(group.disks, runs)], outside)
        for name, (_, type_) in contents.items():
            image = self.directory / "volume"
            group.copy(name, image, into=False)
            run(*{"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"]}[type_], image)
            with Mounted(image, type_, "ro") as directory:
                self.assertEqual(hashes(directory), before[name])
        group.lvm("vgck vg")
        disks = len(group.disks)
        MATRIX.add(f"LVM2 {'over' if disks > 1 else 'on'} {disks} disk{'s' if disks > 1 else ''}", sum(fs.free for fs in found), freed)
        files = sum(map(len, before.values()))
        print(f"{self.id()}: {files} files, {sum(map(len, runs))} runs, {sum(fs.free for fs in found) >> 20} MiB free", flush=True)
        return found

    EXT4 = ("mkfs.ext4 -q", "ext4")
    XFS = ("mkfs.xfs -q --unsupported", "xfs")

    def test_linear(self):
        group = Group(self.directory, [200 * MIB]).create("lvcreate -an -Zn -Wn -n root -L 100M vg")
        found = self.judge(group, {"root": self.EXT4})
        self.assertEqual([fs.free for fs in found if fs.place == "vg (free extents)"], [96 * MIB])

    def test_partition(self):
        group = Group(self.directory, [220 * MIB], [(0, MIB, 200 * MIB)])
        run("sfdisk", "-q", group.disks[0], input=f"label: gpt\n2048,{400 * 1024}\n")
        self.judge(group.create("lvcreate -an -Zn -Wn -n root -L 100M vg"), {"root": self.EXT4})

    def test_two_volumes(self):
        group = Group(self.directory, [600 * MIB]).create(
            "lvcreate -an -Zn -Wn -n root -L 100M vg", "lvcreate -an -Zn -Wn -n data -L 320M vg")
        self.judge(group, {"root": self.EXT4, "data": self.XFS})

    def test_in_pieces(self):
        """A volume of three pieces in the wrong order: libblkid sees its beginning and its end only."""
        group = Group(self.directory, [300 * MIB]).create(
            *(f"lvcreate -an -Zn -Wn -n hole{i} -L 40M vg" for i in range(6)), "lvremove -y vg/hole1 vg/hole3",
            "lvcreate -an -Zn -Wn -n root -L 100M vg {0}:60-69:10-19:30-34")
        found = self.judge(group, {"root": self.EXT4}) if len(group.volumes["root"]) > 1 else self.fail("in one piece")
        self.assertEqual(len([fs for fs in found if fs.refusal == "unknown"]), 4)

    def test_over_two_disks(self):
        group = Group(self.directory, [100 * MIB, 120 * MIB]).create("lvcreate -an -Zn -Wn -n root -L 180M vg")
        self.judge(group, {"root": self.EXT4})

    def test_striped(self):
        group = Group(self.directory, [200 * MIB, 220 * MIB]).create("lvcreate -an -Zn -Wn -n root -i 2 -I 64k -L 240M vg")
        self.judge(group, {"root": self.EXT4})

    def test_striped_xfs(self):
        group = Group(self.directory, [200 * MIB, 220 * MIB, 200 * MIB]).create("lvcreate -an -Zn -Wn -n root -i 3 -I 128k -L 360M vg")
        self.judge(group, {"root": self.XFS})

    def test_stripes_on_one_disk(self):
        group = Group(self.directory, [400 * MIB], [(0, MIB, 150 * MIB), (0, 200 * MIB, 150 * MIB)])
        run("sfdisk", "-q", group.disks[0], input=f"label: gpt\n2048,{300 * 1024}\n{200 * 2048},{300 * 1024}\n")
        self.judge(group.create("lvcreate -an -Zn -Wn -n root -i 2 -I 64k -L 160M vg"), {"root": self.EXT4})

    def test_free_extents_with_an_old_signature(self):
        """Where virt-sparsify's temporary volume asks whether to wipe it, and gives up."""
        group = Group(self.directory, [200 * MIB]).create("lvcreate -an -Zn -Wn -n old -L 100M vg")
        self.put(group, "old", *self.EXT4)
        group.lvm("lvremove -y vg/old")
        self.assertEqual([fs.free for fs in DUMP(*group.disks)], [196 * MIB])

    def refused(self, disks, refusal, reason):
        found = DUMP(*disks)
        self.assertTrue(found)
        for fs in found:
            self.assertEqual((fs.refusal, fs.runs), (refusal, []), fs)
            self.assertIn(reason, fs.reason)

    def test_refused(self):
        group = Group(self.directory, [100 * MIB, 100 * MIB]).create("lvcreate -an -Zn -Wn -n root -i 2 -L 64M vg")
        one, two = group.disks
        old = self.directory / "old"
        shutil.copyfile(two, old)
        with self.subTest("a disk is missing"):
            self.refused([one], "state", "is not here")
            self.refused([two], "state", "is not here")
        with self.subTest("a disk is there twice"):
            self.refused([one, two, old], "state", "twice")
        group.lvm("lvcreate -an -Zn -Wn -n more -L 8M vg")
        with self.subTest("a disk of yesterday"):
            self.refused([one, old], "state", "different stories")
        with self.subTest("a read-only volume"):
            group.lvm("lvchange -pr vg/more")
            self.assertIn(("vg/more", "unknown", "it is hidden or read-only"),
                          [(fs.place, fs.refusal, fs.reason) for fs in DUMP(one, two)])
        with self.subTest("damaged metadata"):
            text = one.read_bytes()
            newest = 4096 + int.from_bytes(text[4096 + 40 : 4096 + 48], "little")
            for at in (512 + 40, 4096 + 50, newest + 100):
                with open(self.directory / "bad", "wb") as file:
                    file.write(text[:at] + b"\7" + text[at + 1 :])
                found = DUMP(self.directory / "bad", two)
                self.assertIn("damaged", {fs.refusal for fs in found})
                self.assertEqual([fs.runs for fs in found], [[]] * len(found))
        with self.subTest("exported"):
            group.lvm("vgexport vg")
            self.refused([one, two], "state", "EXPORTED")


if __name__ == "__main__":
    imagelib.need("lvm", "mkfs.ext4", "mkfs.xfs", "sfdisk", "losetup")
    DUMP = Dump(sys.argv[1], sys.argv[2])
    imagelib.own_mounts()
    with tempfile.TemporaryDirectory(prefix="freemap-lvm.") as WORK:
        os.environ["TMPDIR"] = tempfile.tempdir = WORK
        names = sys.argv[3:]
        done = unittest.main(argv=[sys.argv[0], "-v", *names], exit=False)
        whole = MATRIX.end({} if names else GROUPS)
    sys.exit(0 if whole and done.result.wasSuccessful() else 1)
