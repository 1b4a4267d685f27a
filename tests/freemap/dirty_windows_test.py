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
from imagelib import MIB, Mounted, fill, hashes, run, scribble


class NtfsTest(dirtylib.DirtyTest):
    def record(self, number):
        """Where a record of the MFT lies, and its attributes: type -> where its value, or its runs' header, begins."""
        data = self.image.read_bytes()
        cluster = struct.unpack_from("<H", data, 11)[0] * data[13]
        at = struct.unpack_from("<Q", data, 48)[0] * cluster + number * 1024
        found, here = {}, at + struct.unpack_from("<H", data, at + 20)[0]
        while struct.unpack_from("<I", data, here)[0] != 0xFFFFFFFF:
            kind, length, not_resident = struct.unpack_from("<IIB", data, here)
            found[kind] = here if not_resident else here + struct.unpack_from("<H", data, here + 20)[0]
            here += length
        return at, found

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
        _, attributes = self.record(3)
        at = attributes[0x70] + 8
        mirror = struct.unpack_from("<Q", self.image.read_bytes(), 56)[0] * 4096 + 3 * 1024 - self.record(3)[0]
        for value, refusal, reason in ((b"\3\1\1\0", "state", "dirty"), (b"\3\1\2\0", "state", "flags 0x2"),
                                       (b"\3\1\0\x40", "state", "flags 0x4000"), (b"\3\2\0\0", "unknown", "version 3.2"),
                                       (b"\2\0\0\0", "unknown", "version 2.0"), (b"\3\0\0\0", "none", "")):
            with self.subTest(value):
                self.write(at, value)
                self.refused("damaged", "$MFTMirr")
                self.write(at + mirror, value)
                if refusal == "none":
                    self.accepted()
                else:
                    self.refused(refusal, reason)
                self.write(at, b"\3\1\0\0")
                self.write(at + mirror, b"\3\1\0\0")
        self.refused("unchecked", options=["--strict"])

    def test_ntfs_marked_dirty_by_its_own_tool(self):
        self.ntfs()
        run("ntfsfix", self.image)  # wants Windows to check it
        self.refused("state", "dirty")
        run("ntfsfix", "-d", self.image)
        self.accepted()

    def restart_page(self, sequence=1, client=0xFFFF, flags=0, version=(1, 1)):
        page = bytearray(4096)
        struct.pack_into("<4sHHQIIHHH", page, 0, b"RSTR", 30, 9, 0, 4096, 4096, 48, version[1], version[0])
        struct.pack_into("<QHHHH", page, 48, sequence, 1, 0xFFFF, client, flags)
        page[30:32] = b"\7\0"
        for end in range(510, 4096, 512):
            page[end : end + 2] = b"\7\0"
        return bytes(page)

    def test_ntfs_log(self):
        self.ntfs()
        log = self.image.read_bytes().index(b"\xff" * (2 * MIB))
        clean, open_ = {}, {"client": 0}
        for first, second, refusal, reason in (
            (clean, clean, None, ""), ({"client": 0, "flags": 2}, open_, None, ""), (open_, {"sequence": 2}, None, ""),
            (open_, open_, "state", "not cleanly"), (clean, {"client": 0, "sequence": 2}, "state", "not cleanly"),
            ({"version": (2, 0)}, clean, "state", "fast started"), (clean, {"version": (1, 2)}, "unknown", "version"),
        ):
            with self.subTest(first=first, second=second):
                self.write(log, self.restart_page(**first) + self.restart_page(**second))
                if refusal:
                    self.refused(refusal, reason)
                else:
                    self.accepted()
        page = bytearray(self.restart_page())
        page[1022] ^= 1
        self.write(log, bytes(page))
        self.refused("damaged", "half written")
        self.write(log, b"CHKD" + self.restart_page()[4:])
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


if __name__ == "__main__":
    dirtylib.main("mkntfs", "ntfs-3g", "mkfs.ext4", "losetup")
