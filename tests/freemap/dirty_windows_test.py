#!/usr/bin/env python3
"""dirty_windows_test.py DUMP WORKER: NTFS, FAT and exFAT that must be refused are, and for the right reason.

States are written as Windows would leave them: no Windows is at hand. A refused filesystem has no free run at all.
"""

import os
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import dirtylib
from dirtylib import restart_page
from imagelib import MIB, Mounted, Mtools, fill, hashes, run, scribble


class NtfsTest(dirtylib.DirtyTest):
    def record(self, number):
        return dirtylib.mft_record(self.image, number)

    def ntfs(self, options="", size=64 * MIB):
        return self.make(f"mkntfs -q -Q -F {options}".strip(), size)

    def test_ntfs_mounted_carries_no_mark_and_keeps_what_was_committed(self):
        self.ntfs()
        with Mounted(self.image, "ntfs") as directory:
            fill(directory, "chequered", 1, 4)
            run("sync", "-f", directory)
            before = hashes(directory)
            copy = self.copy_now()
        with open(copy, "r+b") as file:
            for _, offset, length in self.accepted(copy)[0].runs:
                scribble(file.fileno(), offset, length)
        run("ntfsfix", "-n", copy)
        with Mounted(copy, "ntfs", "ro") as directory:
            self.assertEqual(hashes(directory), before)

    def test_ntfs_states(self):
        self.ntfs()
        at, mirror = dirtylib.volume_flags(self.image)
        for value, refusal, reason in ((b"\3\1\1\0", "state", "dirty"), (b"\3\1\2\0", "state", "flags 0x2"),
                                       (b"\3\1\0\x40", "state", "flags 0x4000"), (b"\3\2\0\0", "unknown", "version 3.2"),
                                       (b"\2\0\0\0", "unknown", "version 2.0"), (b"\3\0\0\0", "none", "")):
            with self.subTest(value):
                self.write(at, value)
                self.refused("damaged", "$MFTMirr")
                self.write(mirror, value)
                if refusal == "none":
                    self.accepted()
                else:
                    self.refused(refusal, reason)
                self.write(at, b"\3\1\0\0")
                self.write(mirror, b"\3\1\0\0")
        self.refused("unchecked", options=["--strict"])

    def test_ntfs_marked_dirty_by_its_own_tool(self):
        self.ntfs()
        run("ntfsfix", self.image)  # wants Windows to check it
        self.refused("state", "dirty")
        run("ntfsfix", "-d", self.image)
        self.accepted()

    def test_ntfs_log(self):
        self.ntfs()
        log = self.image.read_bytes().index(b"\xff" * (2 * MIB))
        clean, open_ = {}, {"client": 0}
        for first, second, refusal, reason in (
            (clean, clean, None, ""), ({"client": 0, "flags": 2}, open_, None, ""), (open_, {"sequence": 2}, None, ""),
            (open_, open_, "state", "not cleanly"), (clean, {"client": 0, "sequence": 2}, "state", "not cleanly"),
            ({"version": (2, 0)}, clean, "state", "fast started"), (clean, {"version": (1, 2), "sequence": 2}, "unknown", "version"),
            ({"version": (2, 0), "client": 0}, {"sequence": 2}, None, ""), (clean, {"version": (2, 0), "sequence": 2}, "state", "fast started"),
        ):
            with self.subTest(first=first, second=second):
                self.write(log, restart_page(**first) + restart_page(**second))
                if refusal:
                    self.refused(refusal, reason)
                else:
                    self.accepted()
        page = bytearray(restart_page())
        page[1022] ^= 1
        self.write(log, bytes(page))
        self.refused("damaged", "half written")
        self.write(log, b"CHKD" + restart_page()[4:])
        self.refused("damaged", "restart page")
        self.write(log, b"\xff" * 8192)
        self.accepted()
        self.write(log + MIB, b"RCRD")
        self.refused("state", "not empty")

    def test_ntfs_hibernated(self):
        """Nothing on any disk of a sleeping Windows is taken, however clean it looks."""
        other = self.directory / "other"
        with open(other, "wb") as file:
            file.truncate(64 * MIB)
        run("mkfs.ext4", "-q", other)
        for name, head, asleep in (("hiberfil.sys", b"hibr", True), ("HIBERFIL.SYS", b"HIBR", True), ("hiberfil.sys", b"RSTR", True),
                                   ("hiberfil.sys", b"wake", False), ("hiberfil.sys", b"\0\0\0\0", False),
                                   ("hiberfil.sys", None, True), ("hiberfil.sy_", b"hibr", False)):
            with self.subTest(name=name, head=head):
                self.ntfs()
                with Mounted(self.image, "ntfs") as directory:
                    (directory / "sub").mkdir()
                    (directory / "sub" / "hiberfil.sys").write_bytes(b"hibr" + bytes(8192))  # not in its place
                    (directory / name).write_bytes(b"hibr" if head is None else head + bytes(100_000))
                found = self.dump(self.image, other)
                self.assertEqual([fs.refusal for fs in found], ["state" if asleep else "none"] * 2, found)
                self.assertEqual(any(fs.runs for fs in found), not asleep)

    def test_ntfs_hibernated_and_refused_for_more(self):
        self.ntfs()
        with Mounted(self.image, "ntfs") as directory:
            (directory / "hiberfil.sys").write_bytes(b"hibr" + bytes(100_000))
        self.write(0x1E00, bytes.fromhex("6b870838 76c1 484e b7ae 04046e6cc752") + bytes(32) + struct.pack("<Q", 0x4000))
        other = self.directory / "other"
        with open(other, "wb") as file:
            file.truncate(64 * MIB)
        run("mkfs.ext4", "-q", other)
        found = self.dump(self.image, other)
        self.assertEqual([(fs.refusal, fs.runs) for fs in found], [("state", [])] * 2)

    def test_ntfs_shadow_copies(self):
        self.ntfs()
        self.write(0x1E00, bytes.fromhex("6b870838 76c1 484e b7ae 04046e6cc752") + bytes(32) + struct.pack("<Q", 0))
        self.accepted()
        self.write(0x1E00 + 48, struct.pack("<Q", 0x4000))
        self.refused("state", "shadow copies")

    def test_ntfs_copies_that_differ(self):
        self.ntfs()
        last = 64 * MIB - 512
        self.write(0x1C, b"\x3f")  # sectors before the partition: tools correct the first one only
        self.accepted()
        self.write(last + 48, b"\5")
        self.refused("damaged", "boot sectors differ")
        self.ntfs()
        self.write(last, bytes(512))
        self.refused("damaged", "boot sectors differ")

    def test_ntfs_map_that_lies(self):
        """A cluster that a file has and the map calls free: of one file, of the MFT, of the boot sector."""
        self.ntfs()
        with Mounted(self.image, "ntfs") as directory:
            (directory / "file").write_bytes(b"here I am. " * 100_000)
        data = self.image.read_bytes()
        _, attributes = self.record(6)
        runs = attributes[0x80] + struct.unpack_from("<H", data, attributes[0x80] + 32)[0]
        counts, deltas = data[runs] & 15, data[runs] >> 4
        bitmap = int.from_bytes(data[runs + 1 + counts : runs + 1 + counts + deltas], "little") * 4096
        for cluster in (data.index(b"here I am. ") // 4096 + 3, 4, 0):
            with self.subTest(cluster=cluster):
                old = data[bitmap + cluster // 8]
                self.assertTrue(old >> cluster % 8 & 1)
                self.write(bitmap + cluster // 8, bytes([old & ~(1 << cluster % 8)]))
                self.refused("damaged", "a cluster it has is free")
                self.write(bitmap + cluster // 8, bytes([old]))
        self.accepted()

    def test_cut(self):
        self.ntfs()
        os.truncate(self.image, 64 * MIB - 512)
        self.refused("state", "larger than what holds it")


class FatTest(dirtylib.DirtyTest):
    def fat(self, options, size=48 * MIB):
        self.make(f"mkfs.fat {options}", size)
        head = self.image.read_bytes()[:512]
        sector, self.per_cluster, self.reserved, self.fats, self.roots = struct.unpack_from("<HBHBH", head, 11)
        self.sectors = struct.unpack_from("<H", head, 22)[0] or struct.unpack_from("<I", head, 36)[0]
        self.assertEqual(sector, 512)
        self.at = self.reserved * 512
        self.bits = int(options.split()[1])

    def entry(self, cluster, value, fats=None):
        """Into all FATs."""
        for number in range(self.fats if fats is None else fats):
            self.write(self.at + number * self.sectors * 512 + cluster * self.bits // 8, value.to_bytes(self.bits // 8, "little"))

    def put(self, name, content):
        (self.directory / name).write_bytes(content)
        Mtools(self.image).run("mcopy", self.directory / name, "::/")

    def find(self, content):
        """The first cluster of a file."""
        heap = self.at + self.fats * self.sectors * 512 + self.roots * 32
        return (self.image.read_bytes().index(content) - heap) // (512 * self.per_cluster) + 2

    def test_marks_in_the_boot_sector(self):
        for bits, per_cluster, at in ((12, 32, 0x25), (16, 4, 0x25), (32, 1, 0x41)):
            for value in (1, 2, 3):
                with self.subTest(bits=bits, value=value):
                    self.fat(f"-F {bits} -s {per_cluster}")
                    self.accepted()
                    self.write(at, bytes([value]))
                    self.refused("state", "boot sector")

    def test_marks_in_the_fat(self):
        for bits, values in ((16, (0x7FFF, 0xBFFF, 0x3FFF)), (32, (0x07FFFFFF, 0x0BFFFFFF))):
            for value in values:
                with self.subTest(bits=bits, value=value):
                    self.fat(f"-F {bits} -s {1 if bits == 32 else 4}")
                    self.entry(1, value)
                    self.refused("state", "FAT says")
        self.fat("-F 32 -s 1")
        self.entry(1, 0xFFFFFFFF)  # four bits are nobody's
        self.accepted()

    def test_fats_that_differ(self):
        self.fat("-F 16 -s 4")
        self.entry(20_000, 0xFFFF, fats=1)
        self.refused("damaged", "FATs differ")
        self.entry(20_000, 0xFFFF)
        runs = self.accepted()[0].runs  # a chain that nobody has is in use
        self.assertEqual(len(runs), 2)

    def test_clusters_in_use_that_look_free(self):
        for options in ("-F 16 -s 4 -f 1", "-F 32 -s 1"):
            with self.subTest(options):
                self.fat(options)
                self.put("short", b"one cluster")
                self.put("long", b"many clusters" * 1000)
                Mtools(self.image).run("mmd", "::/sub")
                Mtools(self.image).run("mcopy", self.directory / "short", "::/sub/other")
                self.accepted()
                end = (1 << self.bits) - 1 if self.bits == 16 else 0x0FFFFFFF
                first = self.find(b"many clusters")
                for cluster, right in ((self.find(b"one cluster"), end), (first, first + 1), (first + 5, first + 6),
                                       (self.find(b".          "), end)):
                    self.entry(cluster, 0)
                    self.refused("damaged", "chain of clusters leads nowhere")
                    self.entry(cluster, right)
                    self.accepted()
                self.entry(first + 5, first + 2)
                self.refused("damaged", "too long")
                self.entry(first + 5, end)
                self.refused("damaged", "longer than its clusters")
                self.entry(first + 5, 0x0FFFFFE0 if self.bits == 32 else 0xFFE0)
                self.refused("damaged", "nowhere")

    def test_bad_clusters_are_in_use(self):
        for bits, bad, per_cluster in ((16, 0xFFF7, 4), (32, 0x0FFFFFF7, 1)):
            self.fat(f"-F {bits} -s {per_cluster}")
            before = self.accepted()[0]
            self.entry(100, bad)
            self.entry(101, bad)
            self.assertEqual(self.accepted()[0].free, before.free - 2 * per_cluster * 512)

    def test_information_sector_is_not_believed(self):
        self.fat("-F 32 -s 1")
        before = self.accepted()[0].runs
        self.write(512 + 488, struct.pack("<II", 1, 50_000))
        self.assertEqual(self.accepted()[0].runs, before)

    def test_boot_sectors_that_differ(self):
        self.fat("-F 32 -s 1")
        self.write(6 * 512 + 32, b"\1\2")
        self.refused("damaged", "boot sectors differ")

    def test_entries_behind_the_end(self):
        """Windows does not see them, Linux does."""
        self.fat("-F 16 -s 4")
        self.put("file", b"content")
        root = self.at + self.fats * self.sectors * 512
        entry = self.image.read_bytes()[root : root + 32]
        self.write(root + 64, b"\xe5" + entry[1:])
        self.accepted()
        self.write(root + 64, entry)
        self.refused("damaged", "behind the end")

    def test_kinds_that_are_not_clear(self):
        self.fat("-F 32 -s 8")
        self.refused("unknown", "fields and its size disagree")

    def test_marks_beside_what_is_unknown(self):
        """What is not known goes to another engine: a mark must be told before it."""
        for bits, at, value, reason in ((16, 16, b"\3", "neither one FAT nor two"), (32, 40, b"\x80", "not mirrored"), (32, 42, b"\1", "unknown version")):
            with self.subTest(reason):
                per_cluster, end = (1, 0x0FFFFFFF) if bits == 32 else (4, 0xFFFF)
                self.fat(f"-F {bits} -s {per_cluster}")
                self.write(at, value)
                self.refused("unknown", reason)
                self.entry(1, end >> 1 if bits == 16 else 0x07FFFFFF)
                self.refused("state", "FAT says")
                self.entry(1, end)
                self.write(0x41 if bits == 32 else 0x25, b"\1")
                self.refused("state", "boot sector")

    def test_cut_and_strict(self):
        self.fat("-F 16 -s 4")
        self.refused("unchecked", options=["--strict"])
        os.truncate(self.image, 48 * MIB - 512)
        self.refused("state", "larger than what holds it")


class ExfatTest(dirtylib.DirtyTest):
    def setUp(self):
        super().setUp()
        self.make("mkfs.exfat -c 4K", 48 * MIB)
        head = self.image.read_bytes()[:512]
        self.fat, _, heap, self.count, self.root = struct.unpack_from("<IIIII", head, 80)
        self.heap = heap * 512

    def byte_of(self, cluster):
        return self.heap + (cluster - 2) * 4096

    def test_mounted(self):
        with Mounted(self.image, "exfat") as directory:
            fill(directory, "few", 1, 12)
            run("sync", "-f", directory)
            copy = self.copy_now()
        self.refused("state", "marked dirty", copy)
        self.accepted()

    def test_flags(self):
        for value, refusal, reason in ((2, "state", "dirty"), (4, "state", "medium"), (1, "unknown", "FAT"), (16, "unknown", "flags")):
            self.write(106, bytes([value]))
            self.refused(refusal, reason)
        self.write(105, b"\2")
        for value, refusal, reason in ((0, "unknown", "version"), (2, "state", "dirty")):
            self.write(106, bytes([value]))
            self.refused(refusal, reason)
        self.write(105, b"\1")
        self.write(106, bytes([8]))  # to be cleared to zero: says nothing
        self.accepted()
        self.refused("unchecked", options=["--strict"])

    def test_boot_regions(self):
        good = self.image.read_bytes()[: 24 * 512]
        for at, reason in ((3000, "checksum of the boot region"), (11 * 512 + 8, "checksum of the boot region"),
                           (12 * 512 + 3000, "second boot region"), (100, "checksum"), (12 * 512 + 100, "second")):
            with self.subTest(at):
                self.write(at, bytes([good[at] ^ 1]))
                self.refused("damaged", reason)
                self.write(at, good[at : at + 1])
        self.accepted()
        os.truncate(self.image, 48 * MIB - 512)
        self.refused("state", "larger than what holds it")

    def test_map_that_lies(self):
        with Mounted(self.image, "exfat") as directory:
            (directory / "file").write_bytes(b"here I am. " * 10_000)
            (directory / "sub").mkdir()
            (directory / "sub" / "other").write_bytes(b"me too. " * 10_000)
        self.accepted()
        data = self.image.read_bytes()
        places = [(data.index(text) - self.heap) // 4096 + 2 for text in (b"here I am. ", b"me too. ")]
        for cluster in (2, 3, self.root, places[0], places[0] + 20, places[1] + 1):
            with self.subTest(cluster=cluster):
                at = self.heap + (cluster - 2) // 8
                self.assertTrue(data[at] >> (cluster - 2) % 8 & 1)
                self.write(at, bytes([data[at] & ~(1 << (cluster - 2) % 8)]))
                self.refused("damaged", "are free and in use")
                self.write(at, data[at : at + 1])
        self.accepted()

    def test_bad_clusters(self):
        self.write(self.fat * 512 + 4 * 5000, struct.pack("<I", 0xFFFFFFF7))
        self.refused("damaged", "bad cluster is free")
        at = self.heap + (5000 - 2) // 8
        self.write(at, bytes([1 << (5000 - 2) % 8]))
        self.accepted()

    def test_checksums_of_files_and_tables(self):
        with Mounted(self.image, "exfat") as directory:
            (directory / "file").write_bytes(bytes(10_000))
        data = self.image.read_bytes()
        root = self.byte_of(self.root)
        table, file = (next(at for at in range(root, root + 4096, 32) if data[at] == kind) for kind in (0x82, 0x85))
        up_case = self.byte_of(struct.unpack_from("<I", data, table + 20)[0])
        for at, reason in ((up_case + 100, "up-case table"), (file + 8, "a file's entries"), (file + 32 + 24, "a file's entries"),
                           (file + 64 + 2, "a file's entries")):
            with self.subTest(reason=reason, at=at):
                self.write(at, bytes([data[at] ^ 1]))
                self.refused("damaged", reason)
                self.write(at, data[at : at + 1])
        self.write(file + 64, b"\x41")  # the name is deleted, the file is not
        self.refused("damaged", "cut short")
        self.write(file + 64, b"\xc1")
        self.write(root + 4000 // 32 * 32, data[file : file + 96])
        self.refused("damaged", "behind the end")


if __name__ == "__main__":
    dirtylib.main("mkntfs", "ntfs-3g", "mkfs.fat", "mcopy", "mkfs.exfat", "mount.exfat-fuse", "mkfs.ext4", "losetup")
