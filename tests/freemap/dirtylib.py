"""What the tests of refusals share: an image made anew for each test, and what the worker must say of it."""

import os
import pathlib
import shutil
import struct
import sys
import tempfile
import unittest

import imagelib
from imagelib import MIB, Dump, run


class DirtyTest(unittest.TestCase):
    dump: Dump
    work: str

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(dir=DirtyTest.work))
        self.image = self.directory / "image"

    def tearDown(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    def make(self, mkfs, size=64 * MIB):
        with open(self.image, "wb") as file:
            file.truncate(size)
        run(*mkfs.split(" "), self.image)
        return self.image

    def write(self, offset, data, path=None):
        write(path or self.image, offset, data)

    def copy_now(self):
        copy = self.directory / "copy"
        run("cp", "--sparse=always", self.image, copy)
        return copy

    def refused(self, refusal, reason="", path=None, options=()):
        found = self.dump(path or self.image, options=options)
        self.assertEqual(len(found), 1, found)
        self.assertEqual(found[0].refusal, refusal, found[0].reason)
        self.assertIn(reason, found[0].reason)
        self.assertEqual((found[0].runs, found[0].free), ([], 0))

    def accepted(self, path=None, options=()):
        found = self.dump(path or self.image, options=options)
        self.assertEqual([fs.refusal for fs in found], ["none"] * len(found), found)
        self.assertTrue(found)
        return found


def write(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def with_log_tree(directory, act):
    """A file of a mounted btrfs that was synced by itself: until the next commit it lies in a log tree, in which `act` comes."""
    with open(directory / "log", "wb") as file:
        file.write(os.urandom(100_000))
        file.flush()
        run("btrfs", "filesystem", "sync", directory)  # a new file's first fsync would commit all
        file.write(os.urandom(100_000))
        file.flush()
        os.fsync(file.fileno())
        return act()


def mft_record(path, number):
    """Where a record of an NTFS's MFT lies, and its attributes: type -> where its value, or its runs' header, begins."""
    data = pathlib.Path(path).read_bytes()
    cluster = struct.unpack_from("<H", data, 11)[0] * data[13]
    at = struct.unpack_from("<Q", data, 48)[0] * cluster + number * 1024
    found, here = {}, at + struct.unpack_from("<H", data, at + 20)[0]
    while struct.unpack_from("<I", data, here)[0] != 0xFFFFFFFF:
        kind, length, not_resident = struct.unpack_from("<IIB", data, here)
        found[kind] = here if not_resident else here + struct.unpack_from("<H", data, here + 20)[0]
        here += length
    return at, found


def volume_flags(path):
    """Where $Volume of an NTFS has its version and flags (4 bytes), in the MFT and in its mirror; clusters of 4096 bytes."""
    record, attributes = mft_record(path, 3)
    with open(path, "rb") as file:
        file.seek(56)
        mirror = int.from_bytes(file.read(8), "little") * 4096 + 3 * 1024
    at = attributes[0x70] + 8
    return at, at - record + mirror


def restart_page(sequence=1, client=0xFFFF, flags=0, version=(1, 1)):
    """One of the two at the beginning of NTFS's $LogFile; as it is, of a log that was closed."""
    page = bytearray(4096)
    struct.pack_into("<4sHHQIIHHH", page, 0, b"RSTR", 30, 9, 0, 4096, 4096, 48, version[1], version[0])
    struct.pack_into("<QHHHH", page, 48, sequence, 1, 0xFFFF, client, flags)
    page[30:32] = b"\7\0"
    for end in range(510, 4096, 512):
        page[end : end + 2] = b"\7\0"
    return bytes(page)


def main(*tools):
    """Runs the tests of the program: SCRIPT DUMP WORKER [unittest's arguments]."""
    imagelib.need(*tools)
    DirtyTest.dump = Dump(sys.argv[1], sys.argv[2])
    imagelib.own_mounts()
    with tempfile.TemporaryDirectory(prefix="freemap-dirty.") as DirtyTest.work:
        os.environ["TMPDIR"] = tempfile.tempdir = DirtyTest.work
        unittest.main(argv=[sys.argv[0], "-v", *sys.argv[3:]])
