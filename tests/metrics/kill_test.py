"""`virt-reclaim metrics --textfile` is killed anywhere: whoever reads the file finds a whole one, the old or the new, and what
a killed run leaves beside it goes. Also what reads it: the text of hostile names is clean for promtool.

usage: kill_test.py VIRT_RECLAIM KILL_AT_SYNC
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from metricslib import need, run
from world import NAMES, World

PROGRAM, KILLER = "", ""
KILLS = 40


class Killed(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.world = World(Path(directory.name))

    def setUp(self) -> None:
        self.uri = self.world.uri
        self.place = Path(tempfile.mkdtemp(dir=self.world.directory))
        self.file = self.place / "x.prom"

    def metrics(self, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.world.command(PROGRAM, "metrics", "--textfile", str(self.file), uri=self.uri),
            env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

    def check(self) -> str:
        text = self.file.read_text()
        checked = run("promtool", "check", "metrics", text=text)
        self.assertEqual((checked.returncode, checked.stdout + checked.stderr), (0, ""))
        self.assertIn("\nvirt_reclaim_collect_success 1\n", text)
        self.assertIn("\nvirt_reclaim_storage_images_allocated_bytes{", text, "cut")
        self.assertTrue(text.endswith("\n"))
        return text

    def test_hostile_names_are_clean(self) -> None:
        self.assertEqual(self.metrics().wait(60), 0)
        text = self.check()
        self.assertEqual(text.count("\nvirt_reclaim_domain_examined{"), len(NAMES))
        self.assertEqual(text.count("\nvirt_reclaim_last_trim_success{"), 2)
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o644)

    def test_before_each_sync(self) -> None:
        self.assertEqual(self.metrics().wait(60), 0)
        old = self.check()
        for sync in (1, 2):  # of the file, of its directory
            killed = self.metrics(LD_PRELOAD=KILLER, VR_KILL_AT_SYNC=str(sync), VR_KILL_IN=str(self.place))
            self.assertEqual(killed.wait(60), -9, sync)
            text = self.check()
            if sync == 1:
                self.assertEqual(text, old)
        left = [path for path in self.place.iterdir() if path != self.file]
        self.assertEqual(len(left), 1, "the first was killed before its rename")
        os.utime(left[0], (1, 1))
        self.assertEqual(self.metrics().wait(60), 0)
        self.assertEqual(list(self.place.iterdir()), [self.file])

    def test_at_any_moment(self) -> None:
        whole = self.run_to_its_end()
        killed = 0
        for i in range(4 * KILLS):
            if killed == KILLS:
                break
            program = self.metrics()
            began = time.monotonic()
            try:
                program.wait(whole * (i % KILLS) / KILLS)
                # It was quicker than the one that was measured: what follows is spread over the time that it took.
                whole = time.monotonic() - began
            except subprocess.TimeoutExpired:
                program.kill()
                killed += program.wait(60) == -9
            self.check()
        self.assertEqual(killed, KILLS)

    def run_to_its_end(self) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        self.assertEqual(self.metrics().wait(60), 0)
        return time.monotonic() - began

    def test_libvirt_away(self) -> None:
        self.assertEqual(self.metrics().wait(60), 0)
        self.uri = f"test://{self.world.directory}/gone.xml"
        self.assertNotEqual(self.metrics().wait(60), 0)
        text = self.file.read_text()
        self.assertEqual(run("promtool", "check", "metrics", text=text).returncode, 0)
        self.assertIn("\nvirt_reclaim_collect_success 0\n", text)
        self.assertNotIn("virt_reclaim_disk", text)


if __name__ == "__main__":
    need("promtool", "virsh", "qemu-system-x86_64")
    PROGRAM, KILLER = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1], verbosity=2)
