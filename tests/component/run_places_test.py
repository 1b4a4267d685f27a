#!/usr/bin/env python3
"""`run` as timers call it, as processes: directories of its own that are on a read-only filesystem, two at once, one that is killed.
Of the job that needs no libvirt; with guests: integration/run_test.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from vrtest import allocation, built, main, wait_for  # noqa: E402

MIB = 1 << 20
PIECES = 32
# As root in a mount namespace of its own.
ALONE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount", "--propagation", "private"]
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
DONE, FAILED, REFUSED = 0, 1, 5


class Places(unittest.TestCase):
    def setUp(self) -> None:
        self.place = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="vr-run-")))
        self.state, self.locks, self.backup = self.place / "state", self.place / "locks", self.place / "backup" / "a.raw"
        for directory in (self.state, self.locks, self.backup.parent):
            directory.mkdir()
        self.content = (bytes(MIB) + b"x" * 65536) * PIECES
        self.backup.write_bytes(self.content)
        os.sync()
        self.full = allocation(self.backup)

    def command(self, rate: str = "0") -> list[str | Path]:
        config = self.place / f"config-{rate}.toml"
        config.write_text(f"[[backups]]\ndirectory = '{self.backup.parent}'\n" + (f"max-rate = '{rate}'\n" if rate != "0" else ""))
        return [PROGRAM, "--state-dir", self.state, "--run-dir", self.locks, "run", "--job", "punch", "--config", config]

    def run_it(self, *, read_only: Path | None = None) -> subprocess.CompletedProcess[str]:
        before = [*ALONE, "sh", "-c", READ_ONLY, read_only] if read_only else []
        return subprocess.run(
            [*before, *self.command()], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
        )

    def require_punched(self) -> None:
        self.assertLess(allocation(self.backup), self.full - (PIECES - 1) * MIB)
        self.assertTrue(self.backup.read_bytes() == self.content, "another content")

    def test_a_state_directory_that_is_read_only(self) -> None:
        """What was done is no failure because it could not be written down; that is said."""
        done = self.run_it(read_only=self.state)
        self.assertEqual(done.returncode, DONE, done.stderr)
        self.assertEqual(done.stderr, f"the history cannot be written: mkdir '{self.state}/runs': Read-only file system\n")
        self.assertEqual(list(self.state.iterdir()), [])
        self.require_punched()

    def test_a_run_directory_that_is_read_only(self) -> None:
        """Without a lock nothing is done."""
        done = self.run_it(read_only=self.locks)
        self.assertEqual((done.returncode, done.stdout), (FAILED, ""), done.stderr)
        self.assertIn(f"'{self.locks}/run-punch.lock': Read-only file system", done.stderr)
        self.assertEqual(allocation(self.backup), self.full)

    def test_two_at_once_and_the_first_is_killed(self) -> None:
        with subprocess.Popen(self.command("1M"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            try:
                wait_for("the first hole", lambda: allocation(self.backup) < self.full, seconds=60)
                second = self.run_it()
                self.assertIsNone(first.poll(), "over before the second began")
            finally:
                first.kill()
        self.assertEqual(first.returncode, -signal.SIGKILL)
        self.assertEqual((second.returncode, second.stdout), (REFUSED, ""), second.stderr)
        self.assertIn("another virt-reclaim is working on this job", second.stderr)
        self.assertEqual(list(self.state.iterdir()), [], "of a run that did not end nothing is remembered")
        third = self.run_it()
        self.assertEqual((third.returncode, third.stderr), (DONE, ""), third.stdout)
        self.assertEqual([path.name for path in (self.state / "runs").iterdir()], ["punch.json"])
        self.require_punched()


if __name__ == "__main__":
    (PROGRAM,) = built("virt-reclaim")
    main()
