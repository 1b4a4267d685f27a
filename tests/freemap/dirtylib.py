"""What the tests of refusals share: an image made anew for each test, and what the worker must say of it."""

import os
import pathlib
import shutil
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
        with open(path or self.image, "r+b") as file:
            file.seek(offset)
            file.write(data)

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


def main(*tools):
    """Runs the tests of the program: SCRIPT DUMP WORKER [unittest's arguments]."""
    imagelib.need(*tools)
    DirtyTest.dump = Dump(sys.argv[1], sys.argv[2])
    imagelib.own_mounts()
    with tempfile.TemporaryDirectory(prefix="freemap-dirty.") as DirtyTest.work:
        os.environ["TMPDIR"] = tempfile.tempdir = DirtyTest.work
        unittest.main(argv=[sys.argv[0], "-v", *sys.argv[3:]])
