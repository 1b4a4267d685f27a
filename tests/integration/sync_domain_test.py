"""`sync --domain` on a guest that writes all the time: consistent copies, then only what was written since, and nothing left
behind by a kill, nor lost by a crash."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import bedpath

from vrtest import Disk, Guest, HostTestCase, Reply, built, main, wait_for
from vrtest.workspace import qemu_processes

MIB = 1 << 20
DOMAIN = "web"
MARK = "user.virt_reclaim.unfinished"
DONE, USAGE, REFUSED = 0, 2, 5

# Numbers that only go up, each on the disk before the next: of one moment, a copy has no gap.
WRITER = """
for dir in /mnt/*; do
  dd if=/dev/urandom of=$dir/base bs=1000000 count=24
done
sync
cat >/writer <<'END'
i=0
while :; do
  i=$((i + 1))
  for dir in /mnt/*; do echo $i >>$dir/numbers; dd if=/dev/urandom of=$dir/churn-$((i % 9)) bs=40000 count=1; done
  sync
done
END
sh /writer >/dev/null 2>&1 &
"""


class SyncDomain(HostTestCase):
    """The methods are one story and run in the order of their names; unittest stops at the first that fails."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        disks = [Disk("one", format="qcow2", size=256 * MIB), Disk("two", format="qcow2", size=256 * MIB),
                 Disk("three", format="raw", size=128 * MIB)]
        cls.guest = Guest(cls.host, DOMAIN, disks=disks)
        cls.guest.start()
        cls.guest.run(WRITER, seconds=400)
        cls.copies = cls.space.path / "copies"
        cls.copies.mkdir()

    def test_1_the_first_copy_is_of_one_moment(self) -> None:
        reply = self.sync("--dry-run")
        self.assertEqual(reply.json["message_type"], "sync-domain-plan")
        self.assertEqual([disk["since"] for disk in reply.json["disks"]], [None] * 3)
        reply = self.sync("--verify")
        self.assertEqual([file["status"] for file in reply.json["files"]], ["done"] * 3, str(reply))
        self.check_copies()
        self.assertEqual(len(self.checkpoints()), 1)
        self.assertFalse(self.has_job())

    def test_2_the_next_run_reads_what_was_written_since(self) -> None:
        time.sleep(2)
        self.guest.pause()  # so that what is dirty stays what it is
        dirty = self.dirty_bytes(*self.checkpoints())
        reply = self.sync()
        self.guest.resume()
        for file, disk in zip(reply.json["files"], self.guest.disks):
            with self.subTest(disk=disk.name):
                self.assertGreater(file["different_bytes"], 0)
                if disk.format == "qcow2":
                    # What is dirty and zero now is not read.
                    self.assertLessEqual(file["read_bytes"], dirty[disk.target])
                    self.assertGreater(file["read_bytes"], dirty[disk.target] // 2)
                    self.assertLess(file["read_bytes"], 20 * MIB, "the base file alone is larger")
        self.check_copies()
        self.assertEqual(len(self.checkpoints()), 1, "each run takes the older checkpoint away")

    def test_3_a_copy_that_somebody_wrote_to_is_looked_at_as_a_whole(self) -> None:
        copy = self.copy_of(self.guest.disks[0])
        with open(copy, "r+b") as file:
            file.seek(200 * MIB)
            file.write(b"not the guest's")
        reply = self.sync()
        self.assertGreater(reply.json["files"][0]["read_bytes"], 20 * MIB)
        self.check_copies()

    def test_4_one_disk(self) -> None:
        other = self.space.path / "other"
        other.mkdir()
        reply = self.reclaim.run("sync", "--domain", f"{DOMAIN}:{self.guest.disks[1].target}", str(other), seconds=300)
        self.assertEqual(reply.status, DONE, str(reply))
        self.assertEqual([path.name for path in other.iterdir()], [f"{DOMAIN}.{self.guest.disks[1].target}.raw"])
        self.assertEqual(len(self.checkpoints()), 2, "one for each directory")
        # The other directory's is not disturbed.
        reply = self.sync()
        self.assertLess(reply.json["files"][0]["read_bytes"], 20 * MIB)
        # To verify is to read all of it, and is no reason to fail.
        reply = self.sync("--verify")
        self.assertGreater(reply.json["files"][0]["read_bytes"], 20 * MIB)
        self.assertEqual([len(file["xxh3"]) for file in reply.json["files"]], [32] * 3)
        self.check_copies()

    def test_5_killed_nothing_is_left_behind(self) -> None:
        before = self.checkpoints()
        with self.reclaim.start("sync", "--max-rate", "2M", "--domain", DOMAIN, str(self.fresh())) as process:
            self.wait_until_copying(process, self.fresh())
            process.kill()
        self.wait_until_cleared(before)
        self.assertEqual(self.checkpoints(), before)
        self.assertEqual(list(self.guest.directory.glob("**/*scratch*")), [])
        reply = self.reclaim.run("sync", "--domain", DOMAIN, str(self.space.path / "fresh"), seconds=300)
        self.assertEqual(reply.status, DONE, str(reply))
        self.check_copies(self.space.path / "fresh")

    def test_6_killed_in_a_run_that_reads_what_was_written_since(self) -> None:
        before = self.checkpoints()
        with self.reclaim.start("sync", "--max-rate", "2M", "--domain", DOMAIN, str(self.copies)) as process:
            # The raw disk is read as a whole, which takes a minute.
            self.wait_until_copying(process, self.copies)
            process.kill()
        self.wait_until_cleared(before)
        self.assertEqual(list(self.guest.directory.glob("**/*scratch*")), [])
        self.sync()
        self.check_copies()
        # And then there is one checkpoint for these copies again, and the next run reads little.
        reply = self.sync()
        self.assertLess(reply.json["files"][0]["read_bytes"], 20 * MIB)
        self.check_copies()
        self.assertLessEqual(len(self.checkpoints()), len(before))

    def test_7_interrupted_it_clears_away_itself(self) -> None:
        shutil.rmtree(self.space.path / "fresh")
        before = self.checkpoints()
        with self.reclaim.start("sync", "--max-rate", "2M", "--domain", DOMAIN, str(self.fresh())) as process:
            self.wait_until_copying(process, self.fresh())
            process.terminate()
            process.communicate(timeout=60)
            self.assertEqual(process.returncode, 130)
        self.assertFalse(self.has_job())
        self.assertLessEqual(set(self.checkpoints()), set(before))

    def test_8_qemu_crashes(self) -> None:
        """What its bitmaps knew is gone with it: the next run looks at everything, and the one after reads little again."""
        self.sync()
        before = self.checkpoints()
        (qemu,) = qemu_processes(self.guest.directory)
        os.kill(qemu, signal.SIGKILL)
        self.host.wait_for_state(DOMAIN, "shut off", seconds=60)
        self.guest.destroy()  # closes its console
        self.guest.start()
        self.assertEqual(self.checkpoints(), before, "libvirt still believes in it")
        reply = self.sync()
        self.assertEqual([file["checkpoint_lost"] for file in reply.json["files"]], [True, True, False], str(reply))
        self.assertGreater(reply.json["files"][0]["read_bytes"], 20 * MIB)
        self.check_copies()
        after = self.checkpoints()
        self.assertEqual(len(after), len(before))
        self.assertNotEqual(after, before)
        reply = self.sync()
        self.assertEqual([file["checkpoint_lost"] for file in reply.json["files"]], [False] * 3, str(reply))
        self.assertLess(reply.json["files"][0]["read_bytes"], 20 * MIB)

    def test_9_refusals(self) -> None:
        self.assertEqual(self.reclaim.run("sync", "--domain", "no-such", str(self.copies)).status, 1)
        self.assertEqual(self.reclaim.run("sync", "--domain", f"{DOMAIN}:vdz", str(self.copies)).status, 1)
        self.assertEqual(self.reclaim.run("sync", "--domain", DOMAIN, "/nonexistent").status, 1)
        self.assertEqual(self.reclaim.run("sync", "--domain", DOMAIN, "a", "b").status, USAGE)
        self.host.destroy(DOMAIN)
        self.assertEqual(self.reclaim.run("sync", "--domain", DOMAIN, str(self.copies)).status, REFUSED)
        for disk in self.guest.disks:
            subprocess.run(["qemu-img", "check", "-q", "-f", disk.format, disk.path], check=disk.format == "qcow2")

    # What the acts are made of.

    def sync(self, *words: str) -> Reply:
        reply = self.reclaim.run("sync", *words, "--domain", DOMAIN, str(self.copies), seconds=300)
        self.assertEqual(reply.status, DONE, str(reply))
        return reply

    def fresh(self) -> Any:
        path = self.space.path / "fresh"
        path.mkdir(exist_ok=True)
        return path

    def wait_until_copying(self, process: subprocess.Popen[str], directory: Path) -> None:
        """Until a copy has its mark, which comes right before the first change, and something in it: the job has begun, and it is the
        copying that is killed. No look at libvirt: the embedded driver is the program's."""

        def is_copying() -> bool:
            self.assertIsNone(process.poll(), "it was to be slow")
            return any(MARK in os.listxattr(copy) and copy.stat().st_blocks > 0 for copy in directory.iterdir())

        wait_for("a copy to be written", is_copying, seconds=120)
        self.assertIsNone(process.poll(), "it was to be slow")

    def wait_until_cleared(self, before: list[str]) -> None:
        """By the watcher of a killed run: no job, and no checkpoint that was not there `before`."""
        deadline = time.monotonic() + 90
        while self.has_job() or not set(self.checkpoints()) <= set(before):
            self.assertLess(time.monotonic(), deadline, f"left: {self.checkpoints()}, job: {self.has_job()}")
            time.sleep(3)  # each look keeps the watcher out of the embedded driver

    def copy_of(self, disk: Disk, directory: Any = None) -> Any:
        return (directory or self.copies) / f"{DOMAIN}.{disk.target}.raw"

    def check_copies(self, directory: Any = None) -> None:
        """Each filesystem replays its journal and is clean then; the numbers in it have no gap, and all disks are of one
        moment: their last numbers differ by what one round of the writer takes."""
        last = []
        for disk in self.guest.disks:
            with self.subTest(disk=disk.name):
                scrap = self.space.path / "scrap.raw"
                shutil.copyfile(self.copy_of(disk, directory), scrap)
                # 1: the journal was replayed. Nothing else is repaired, and nothing else is to be.
                replay = subprocess.run(["e2fsck", "-fy", "-E", "journal_only", scrap], capture_output=True, text=True, check=False)
                self.assertIn(replay.returncode, (0, 1), replay.stdout)
                clean = subprocess.run(["e2fsck", "-fn", scrap], capture_output=True, text=True, check=False)
                self.assertEqual(clean.returncode, 0, clean.stdout)
                numbers = subprocess.run(["debugfs", "-R", "cat numbers", scrap], capture_output=True, text=True, check=True).stdout
                found = [int(number) for number in re.findall(r"^\d+$", numbers, re.M)]
                self.assertEqual(found, list(range(1, len(found) + 1)))
                last.append(len(found))
        self.assertLessEqual(max(last) - min(last), 1, last)

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One program at a time has the embedded driver, and it may be the watcher just now."""
        deadline = time.monotonic() + 60
        while True:
            reply = self.host.virsh(*words, check=False)
            if "acquire pid file" not in reply.stderr or time.monotonic() > deadline:
                return reply
            time.sleep(0.5)

    def checkpoints(self) -> list[str]:
        reply = self.ask("checkpoint-list", "--name", DOMAIN)
        self.assertEqual(reply.returncode, 0, reply.stderr)
        return sorted(reply.stdout.split())

    def dirty_bytes(self, checkpoint: str) -> dict[str, int]:
        """Of each disk, what was written since the checkpoint."""
        reply = self.ask("checkpoint-dumpxml", "--size", DOMAIN, checkpoint)
        self.assertEqual(reply.returncode, 0, reply.stderr)
        disks = re.findall(r"<disk name='(\w+)' checkpoint='bitmap'[^>]* size='(\d+)'", reply.stdout)
        return {target: int(size) for target, size in disks}

    def has_job(self) -> bool:
        reply = self.ask("backup-dumpxml", DOMAIN)
        self.assertNotIn("connect", reply.stderr)
        return reply.returncode == 0


if __name__ == "__main__":
    bedpath.require_bed("e2fsck", "debugfs", "qemu-img")
    (PROGRAM,) = built("virt-reclaim")
    main(one_story=True)
