#!/usr/bin/env python3
"""`run` is killed anywhere, as timers call it, in each of its jobs: right before each of its writes and syncs, and at random moments of
all the time that it takes. Nothing is lost, the metrics that are made next can be read, and the next run does what is left. Of a domain
that is off and of a backup; with a guest that runs: integration/run_test.py; in every step of a made-up host: unit/commands_run_test.cc."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from vrtest import HostTestCase, Reply, VirtReclaim, allocation, built, domain_xml, main, skip_all  # noqa: E402

MIB = 1 << 20
DELETED = 16 * MIB
PIECES = 8  # of a MiB of zeroes each, with something between them
KILLS = 16  # at random moments of each job
MOST_STEPS = 200
PROGRAMS = ("mkfs.ext4", "debugfs", "e2fsck", "promtool", "virsh", "qemu-system-x86_64")


def call(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{words}: {done.stdout}{done.stderr}")


class Killed(HostTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.environment = {"VIRT_RECLAIM_FREEMAP": str(WORKER)}
        super().setUpClass()
        cls.old, cls.backup = cls.space.path / "images" / "old.raw", cls.space.path / "backups" / "a.raw"
        cls.metrics, cls.config = cls.space.path / "x.prom", cls.space.path / "config.toml"
        for path in (cls.old, cls.backup):
            path.parent.mkdir()
        cls.config.write_text(f"[[backups]]\ndirectory = '{cls.backup.parent}'\nidle = false\n")
        cls.zeroes = (bytes(MIB) + b"x" * 65536) * PIECES
        cls.make_image()
        cls.prepare()
        cls.host.define(domain_xml("old", ("raw", cls.old), discard="unmap"))

    @classmethod
    def make_image(cls) -> None:
        """Of a guest that was shut down: one file kept, one deleted."""
        content, cls.image = cls.space.path / "content", cls.space.path / "old.image"
        content.mkdir()
        (content / "kept").write_bytes(os.urandom(MIB))
        (content / "deleted").write_bytes(os.urandom(DELETED))
        cls.kept = hashlib.sha256((content / "kept").read_bytes()).hexdigest()
        with open(cls.image, "wb") as file:
            file.truncate(64 * MIB)
        call("mkfs.ext4", "-q", "-d", content, cls.image)
        call("debugfs", "-w", "-R", "rm deleted", cls.image)

    @classmethod
    def prepare(cls) -> None:
        call("cp", "--sparse=always", cls.image, cls.old)
        with open(cls.backup, "wb") as file:
            file.write(cls.zeroes)
        for path in (cls.old, cls.backup):
            with open(path, "r+b") as file:
                os.fsync(file.fileno())

    def words(self, job: str) -> tuple[str, ...]:
        return ("run", "--job", job, "--config", str(self.config))

    def killed_before_step(self, job: str, step: int) -> Reply:
        places = ":".join(f"/{name}/" for name in ("state", "images", "backups"))
        reclaim = VirtReclaim(
            PROGRAM, self.host, **self.environment, LD_PRELOAD=str(KILLER), VR_KILL_AT_SYNC=str(step), VR_KILL_IN=places, VR_KILL_AT_WRITE=places,
        )
        return reclaim.run(*self.words(job))

    def require_nothing_lost(self) -> None:
        call("e2fsck", "-fn", self.old)
        dumped = self.space.path / "dumped"
        call("debugfs", "-R", f"dump kept {dumped}", self.old)
        self.assertEqual(hashlib.sha256(dumped.read_bytes()).hexdigest(), self.kept)
        self.assertTrue(self.backup.read_bytes() == self.zeroes, "the backup has another content")

    def require_metrics(self) -> None:
        made = self.reclaim.run("metrics", "--textfile", str(self.metrics))
        self.assertEqual(made.status, 0, str(made))
        text = self.metrics.read_text()
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        self.assertEqual((checked.returncode, checked.stdout + checked.stderr), (0, ""))
        self.assertIn("\nvirt_reclaim_collect_success 1\n", text)

    def require_next_run(self, job: str) -> None:
        self.require_nothing_lost()
        self.require_metrics()
        reply = self.reclaim.run(*self.words(job))
        self.assertEqual((reply.status, reply.stderr), (0, ""), str(reply))
        if job == "sparsify":
            self.assertLess(allocation(self.old), 8 * MIB)
        if job == "punch":
            self.assertLess(allocation(self.backup), 2 * MIB)
        self.require_nothing_lost()
        self.require_metrics()
        self.assertIn(f'virt_reclaim_run_success{{run="{job}"}} 1\n', self.metrics.read_text())

    def test_before_each_write_and_sync(self) -> None:
        for job in ("trim", "sparsify", "punch"):
            for step in range(1, MOST_STEPS):
                self.prepare()
                reply = self.killed_before_step(job, step)
                if reply.status == 0:
                    break
                self.assertEqual((reply.status, reply.stdout), (-signal.SIGKILL, ""), f"{job}: {step}: {reply}")
                with self.subTest(job=job, step=step):
                    self.require_next_run(job)
            self.assertEqual(reply.status, 0, f"{job}: it does not end")
            # Of what is remembered of a run at least: the file, its sync, that of its directory.
            self.assertGreater(step, 3, job)
            print(f"{job}: killed before each of {step - 1} writes and syncs")

    def test_at_random_moments(self) -> None:
        for job in ("sparsify", "punch"):
            dice = random.Random(job)
            self.prepare()
            began = time.monotonic()
            self.require_next_run(job)
            whole = (time.monotonic() - began) / 2
            killed = 0
            for _ in range(4 * KILLS):
                if killed == KILLS:
                    break
                self.prepare()
                delay = dice.uniform(0, whole)
                with self.reclaim.start(*self.words(job)) as program:
                    try:
                        program.communicate(timeout=delay)
                        whole *= 0.85
                    except subprocess.TimeoutExpired:
                        program.kill()
                        program.communicate()
                        killed += 1
                with self.subTest(job=job, delay=delay):
                    self.require_next_run(job)
            self.assertEqual(killed, KILLS, f"{job}: it was nearly always quicker")
            print(f"{job}: killed {killed} times within {whole:.3f} s")


if __name__ == "__main__":
    PROGRAM, WORKER, KILLER = built("virt-reclaim", "virt-reclaim-freemap", "libkill_at_sync.so")
    if os.geteuid() != 0:
        skip_all("needs root: libvirt's driver and the images belong to it")
    for name in PROGRAMS:
        if not shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            skip_all(f"'{name}' is not installed: scripts/install-packages run test")
    main()
