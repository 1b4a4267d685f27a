"""scripts/quickstart itself, as somebody runs it: told to the end, begun again and interrupted, and where something is missing.

It is given programs that are built; that a fresh clone can be built is shown by every build. What its story is worth is
shown by story_test.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import bedpath

from vrtest import Reply, built, main
from vrtest.programs import build_dir
from vrtest.workspace import qemu_processes

ROOT = Path(__file__).resolve().parents[2]
MAKE_PICTURE = ROOT / "scripts" / "make-picture"
DONE, FAILED, INTERRUPTED = 0, 1, 130
NOBODY = 65534
STORY_SECONDS = 600.0
# What is promised of the story, and how much longer it may take here: other tests have their share of two processors.
PROMISED_SECONDS, SLACK = 180, 2
# For a refusal before anything is made, and for the clean-up after Ctrl-C.
SOON_SECONDS = 30.0
# What Debian has and a machine that tests virt-reclaim hardly.
STRANGE_PACKAGES = ("cowsay", "hello", "sl")


class Quickstart(unittest.TestCase):
    def setUp(self) -> None:
        # A short name: libvirt makes paths of sockets below it.
        self.place = Path(tempfile.mkdtemp(prefix="q", dir=os.environ.get("TMPDIR") or "/var/tmp"))
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)

    def command(self, source: Path = ROOT, programs: Path | None = None) -> list[str]:
        return [str(source / "scripts" / "quickstart"), "--build-dir", str(programs or build_dir())]

    def run_quickstart(
        self, *before: str, source: Path = ROOT, programs: Path | None = None, seconds: float = SOON_SECONDS
    ) -> Reply:
        done = subprocess.run(
            [*before, *self.command(source, programs)], env=self.environment(), capture_output=True, text=True, timeout=seconds,
            check=False, stdin=subprocess.DEVNULL, cwd="/",
        )
        return Reply(done.returncode, done.stdout, done.stderr)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.place)}

    def require_nothing_left(self) -> None:
        self.assertEqual(qemu_processes(self.place), [])
        self.assertEqual(list(self.place.iterdir()), [])

    def require_refusal(self, reply: Reply, *words: str) -> None:
        """One line that says what is missing, and nothing of the story."""
        self.assertEqual(reply.status, FAILED, str(reply))
        said = [line for line in reply.stderr.splitlines() if not line.startswith("install-packages: installing ")]
        self.assertEqual(len(said), 1, str(reply))
        for word in words:
            self.assertIn(word, said[0])
        self.assertNotIn("virtual machine with old settings", reply.stdout)

    def require_story(self, reply: Reply) -> None:
        self.assertEqual(reply.status, DONE, str(reply))
        self.assertIn("exit status 4: done, but the host got nothing back", reply.stdout)
        self.assertEqual(reply.stdout.count("e2fsck -fn: clean"), 2, str(reply))
        seconds = re.search(r"All done in (\d+) s", reply.stdout)
        assert seconds, str(reply)
        print(f"the story took {seconds[1]} s")
        self.assertLessEqual(int(seconds[1]), PROMISED_SECONDS * SLACK)
        self.require_nothing_left()

    def require_example(self, reply: Reply) -> None:
        """What README.md shows."""
        with tempfile.NamedTemporaryFile("w") as told:
            told.write(reply.stdout + reply.stderr)
            told.flush()
            compared = subprocess.run([MAKE_PICTURE, "--compare", told.name], stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(compared.returncode, 0, compared.stderr)

    # With a network is how test_2 begins, and each build of a clone.
    def test_1_told_to_the_end_without_a_network(self) -> None:
        # In a /tmp and with a cache of its own, so that what is left there is its own, too.
        cache = Path(tempfile.mkdtemp(prefix="h", dir=self.place.parent))
        self.addCleanup(shutil.rmtree, cache, ignore_errors=True)
        own = not any(path.is_relative_to("/tmp") for path in (ROOT, self.place, build_dir() or ROOT))
        before = f'{"mount -t tmpfs tmpfs /tmp" if own else ":"} && "$0" "$@"; status=$?; ls -A /tmp >{cache}/tmp; exit $status'
        reply = self.run_quickstart(
            "unshare", "--net", "--mount", "env", f"XDG_CACHE_HOME={cache}/cache", "sh", "-c", before, seconds=STORY_SECONDS
        )
        self.require_story(reply)
        self.require_example(reply)
        if own:
            self.assertEqual((cache / "tmp").read_text(), "")
        # What --help says that stays.
        self.assertEqual([path.name for path in (cache / "cache").iterdir()], ["virt-reclaim"])

    def test_2_interrupted_in_the_middle_nothing_stays(self) -> None:
        with subprocess.Popen(
            self.command(), env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, process_group=0,
        ) as program:
            assert program.stdout
            overdue = time.monotonic() + STORY_SECONDS
            for line in program.stdout:
                if "guest: ready" in line or time.monotonic() > overdue:
                    break
            self.assertTrue(qemu_processes(self.place), "its guest was to run")
            # As a terminal does it: to all of its programs.
            os.killpg(program.pid, signal.SIGINT)
            begin = time.monotonic()
            _, stderr = program.communicate(timeout=SOON_SECONDS)
            self.assertLess(time.monotonic() - begin, SOON_SECONDS)
        self.assertEqual(program.returncode, INTERRUPTED, stderr)
        self.assertIn("interrupted; the machine and its files are removed", stderr)
        self.require_nothing_left()

    def test_3_who_is_not_root_is_told_so(self) -> None:
        # The tree may lie in somebody's home.
        shutil.copytree(ROOT / "scripts", self.place / "scripts")
        self.place.chmod(0o755)
        reply = self.run_quickstart(
            "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", source=self.place, programs=self.place
        )
        self.require_refusal(reply, "root", "sudo scripts/quickstart")

    def test_4_a_small_place_is_named_with_what_is_needed(self) -> None:
        mount = 'mount -t tmpfs -o size=64m tmpfs "$TMPDIR" && exec "$0" "$@"'
        reply = self.run_quickstart("unshare", "--mount", "sh", "-c", mount)
        self.require_refusal(reply, str(self.place), "2048 MiB", "TMPDIR")
        self.require_nothing_left()

    def test_5_without_a_network_a_missing_package_is_told(self) -> None:
        installed = subprocess.run(["dpkg-query", "-W", "-f", "${Package}\n"], capture_output=True, text=True, check=True).stdout
        strange = next(name for name in STRANGE_PACKAGES if name not in installed.split())
        shutil.copytree(ROOT / "scripts", self.place / "scripts")
        packages = self.place / "scripts" / "packages.txt"
        packages.write_text(packages.read_text().replace("[run]\n", f"[run]\n{strange}\n"))
        reply = self.run_quickstart("unshare", "--net", source=self.place, seconds=STORY_SECONDS)
        self.require_refusal(reply, "mirror cannot be reached", "check the network")

    def test_6_a_clone_can_be_built_as_it_configures_it(self) -> None:
        done = self.build_half('exec "$REAL_CMAKE" "$@" -- -n', ":")
        # Every file is there that building would take; what would be built is not.
        self.assertNotIn("the build failed", done.stderr)
        self.assertIn("no virt-reclaim and virt-reclaim-agent", done.stderr)
        self.require_nothing_left()

    def test_7_interrupted_while_it_configures(self) -> None:
        done = self.build_half(":", "kill -INT 0; exec sleep 60")
        self.assertEqual(done.returncode, INTERRUPTED, done.stderr)
        self.assertIn("interrupted; packages and the build directory stay", done.stderr)
        self.require_nothing_left()

    def test_8_a_disk_that_gets_full_on_the_way(self) -> None:
        image, inner = self.place / "image", self.place / "disk"
        inner.mkdir()
        with open(image, "wb") as file:
            file.truncate(3 << 30)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", image], check=True, stdin=subprocess.DEVNULL)
        mount = f'mount -o loop {image} {inner} && rmdir {inner}/lost+found && exec "$0" "$@"'
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", mount, *self.command()], env={**os.environ, "TMPDIR": str(inner)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as program:
            assert program.stdout
            for line in program.stdout:
                if "guest: " in line:
                    break
            seen_from_here = Path(f"/proc/{program.pid}/root{inner}")
            with open(seen_from_here / "rest", "wb") as rest:
                # All but a little that the guest may still write until it is looked at again.
                os.posix_fallocate(rest.fileno(), 0, shutil.disk_usage(seen_from_here).free - (1 << 20))
            _, stderr = program.communicate(timeout=STORY_SECONDS)
        self.assertEqual(program.returncode, FAILED, stderr)
        self.assertIn(f"the disk below '{inner}", stderr)
        self.assertIn("is full: free some space, or set TMPDIR", stderr)
        self.assertEqual(qemu_processes(self.place), [])

    def build_half(self, build: str, configure: str) -> subprocess.CompletedProcess[str]:
        """A copy of the tree, with a cmake that does these instead of building or before it configures."""
        copy = Path(tempfile.mkdtemp(prefix="c", dir=self.place.parent))
        self.addCleanup(shutil.rmtree, copy, ignore_errors=True)
        shutil.copytree(ROOT, copy / "tree", ignore=shutil.ignore_patterns("build", ".git", "__pycache__"), symlinks=True)
        (copy / "bin").mkdir()
        stand_in = copy / "bin" / "cmake"
        stand_in.write_text(f'#!/bin/sh\nif [ "$1" = --build ]; then\n{build}\nfi\n{configure}\nexec "$REAL_CMAKE" "$@"\n')
        stand_in.chmod(0o755)
        environment = {**self.environment(), "REAL_CMAKE": shutil.which("cmake") or "", "PATH": f"{copy}/bin:{os.environ['PATH']}"}
        return subprocess.run(
            # Who runs the tests in the background ignores SIGINT, and so would all that they start.
            ["env", "--default-signal=INT", str(copy / "tree" / "scripts" / "quickstart")], env=environment, capture_output=True,
            text=True, timeout=STORY_SECONDS, check=False, stdin=subprocess.DEVNULL, cwd="/", process_group=0,
        )


if __name__ == "__main__":
    bedpath.require_bed("unshare", "setpriv", "mke2fs")
    built("virt-reclaim", "virt-reclaim-agent")
    main()
