#!/usr/bin/env python3
"""scale_test.py DUMP WORKER PROGRAM: 15 TiB with 100,000 free runs, in less than 256 MiB of memory, worker and parent together, whether that is a
program of the tests or `sparsify` itself; how much is read, and the memory, hang on what is used, hardly on the capacity.

The images are sparse files; the runs come from one file of which every other block was punched.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import imagelib
from imagelib import Dump, Mounted, run

TIB = 1 << 40
# The most bytes that are read. The bitmaps of all groups of 15 TiB alone would be 480 MiB; a log is read as a whole, and never longer than 2 GiB.
READ = {"ext4": 96 << 20, "xfs": (2 << 30) + (32 << 20)}
MOST_KIB = 256 << 10
# More at 15 TiB than at 1: ext4 has 114,688 groups more, each with a descriptor of 64 bytes.
MORE_KIB = 24 << 10
DUMP, WORK = None, None


def peak_of_sparsify(image):
    """KiB that the larger of `sparsify --dry-run` and its worker had at most."""
    words = [sys.argv[3], f"--run-dir={WORK}/run", "sparsify", "--no-libvirt", "--json", "--dry-run", image]
    with open(pathlib.Path(WORK) / "said", "w+b") as said:
        process = subprocess.Popen(words, env=os.environ | {"VIRT_RECLAIM_FREEMAP": sys.argv[2]}, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        if process.returncode != 0:
            raise AssertionError(f"sparsify: {process.returncode}: {said.read()}")
    return usage.ru_maxrss


class ScaleTest(unittest.TestCase):
    def judge(self, image, runs):
        start = time.monotonic()
        found = DUMP(image, options=["--peak"])
        seconds = time.monotonic() - start
        self.assertEqual([fs.refusal for fs in found], ["none"], found[0].reason)
        own, worker = DUMP.peak_kib
        print(f"{found[0].type}: {len(found[0].runs)} runs, {found[0].free >> 30} GiB free, {seconds:.1f} s, "
              f"worker {worker >> 10} MiB, parent {own >> 10} MiB", flush=True)
        self.assertGreaterEqual(len(found[0].runs), runs)
        self.assertLess(own + worker, MOST_KIB)
        self.assertLess(seconds, 60)

    def fragmented(self, type_, mkfs, size):
        image = pathlib.Path(WORK) / type_
        with open(image, "wb") as file:
            file.truncate(size)
        run(*mkfs.split(" "), image)
        self.addCleanup(image.unlink, missing_ok=True)
        with Mounted(image, type_) as directory:
            # Two hundred thousand blocks, every other one given back: one file, so that it does not take minutes.
            with open(directory / "file", "wb") as file:
                for _ in range(200):
                    file.write(bytes(1000 * 4096))
                os.fsync(file.fileno())
                for block in range(0, 200_000, 2):
                    imagelib.punch(file.fileno(), block * 4096, 4096)
        self.judge(image, 99_000)
        traced = Dump(sys.argv[1])
        traced(image, options=["--reads"])
        read = sum(length for _, _, length in traced.reads)
        print(f"{type_}: {read >> 20} MiB of it read", flush=True)
        self.assertLess(read, READ[type_])
        return image

    def test_ext4(self):
        peaks = []
        for size in (TIB, 15 * TIB):
            image = self.fragmented("ext4", "mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1,nodiscard", size)
            peaks.append(peak_of_sparsify(image))
            print(f"ext4, {size // TIB} TiB: sparsify and its worker at most {peaks[-1] >> 10} MiB each", flush=True)
            self.assertLess(2 * peaks[-1], MOST_KIB)
        self.assertLess(peaks[1], peaks[0] + MORE_KIB)

    def test_xfs(self):
        self.fragmented("xfs", "mkfs.xfs -q -K", 15 * TIB)

    def test_swap(self):
        image = pathlib.Path(WORK) / "swap"
        with open(image, "wb") as file:
            file.truncate(TIB)
        run("mkswap", image)
        self.addCleanup(image.unlink)
        self.assertEqual(len(DUMP(image, options=["--take-swap"])[0].runs), 1)


if __name__ == "__main__":
    imagelib.need("mkfs.ext4", "mkfs.xfs")
    DUMP = Dump(sys.argv[1], sys.argv[2])
    imagelib.own_mounts()
    with tempfile.TemporaryDirectory(prefix="freemap-scale.") as WORK:
        os.environ["TMPDIR"] = tempfile.tempdir = WORK
        unittest.main(argv=[sys.argv[0], "-v", *sys.argv[4:]])
