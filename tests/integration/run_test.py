"""What timers call, on real guests: one that runs, one that is off, a backup, all on one small storage. libvirtd goes and comes back in the
middle; a run is killed in each of its jobs; the storage fills up, and the guest that it pauses runs on after an emergency, which trims another."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
from time import monotonic
from typing import Any

import bedpath

from vrtest import (
    DaemonHost, Disk, EmbedHost, Guest, Host, HostTestCase, VirtReclaim, allocation, built, domain_xml, main, mount_file, move_to, wait_for,
)
from vrtest.guest import MIB, NEW_MACHINE
from vrtest.programs import find_program

DONE, SOME_FAILED = 0, 3
STORAGE = 1536 * MIB
WEB, OLD, DB = "web", "old", "db"
JUNK = 96 * MIB
# What the emergency finds: freed by sparsify and by punch. --resume wants 256 MiB of room.
DELETED = 256 * MIB
ZEROES = 256 * MIB
# Beyond what the storage has left.
TOO_MUCH = 64 * MIB
DRIFT = 8 * MIB
KILLS = 5
FILL = f"dd if=/dev/zero of=/mnt/data/junk bs=1M count={JUNK // MIB} 2>&1; sync; rm /mnt/data/junk; sync"


def call(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{words}: {done.stdout}{done.stderr}")


class Story:
    """The methods are one story and run in the order of their names. What kind of libvirt it is the subclass says."""

    environment = {"VIRT_RECLAIM_FREEMAP": str(find_program("virt-reclaim-freemap"))}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.backup = cls.storage / "backups" / "a.raw"
        cls.backup.parent.mkdir()
        cls.old = cls.storage / "old.raw"
        cls.config = cls.space.path / "config.toml"
        cls.policy()
        cls.guest = Guest(cls.host, WEB, machine=NEW_MACHINE, agent=AGENT, disks=[Disk("data", discard="unmap", size=2048 * MIB)])
        move_to(cls.storage, cls.guest.disk("data").path)
        cls.make_old(16 * MIB)
        cls.host.define(domain_xml(OLD, ("raw", cls.old), discard="unmap"))
        cls.guest.start()

    @classmethod
    def make_storage(cls) -> None:
        cls.storage = mount_file(cls.space, "storage", "ext4", STORAGE, "-m", "0")

    @classmethod
    def make_old(cls, deleted: int) -> None:
        """The image of a guest that is off: one file kept, one deleted, without a mount."""
        content = cls.space.path / f"content-{deleted}"
        content.mkdir(exist_ok=True)
        (content / "kept").write_bytes(os.urandom(4 * MIB))
        (content / "deleted").write_bytes(os.urandom(MIB) * (deleted // MIB))
        cls.kept = hashlib.sha256((content / "kept").read_bytes()).hexdigest()
        cls.old.unlink(missing_ok=True)
        with open(cls.old, "wb") as file:
            file.truncate(512 * MIB)
        call("mkfs.ext4", "-q", "-d", content, cls.old)
        call("debugfs", "-w", "-R", "rm deleted", cls.old)

    @classmethod
    def policy(cls, defaults: str = "", backups: str = "") -> None:
        cls.config.write_text(f'[defaults]\n{defaults}\n[[backups]]\ndirectory = "{cls.backup.parent}"\n{backups}\n')

    def make_backup(self, zeroes: int) -> None:
        self.backup.write_bytes(b"x" * MIB + bytes(zeroes))

    @staticmethod
    def by_job(reply_json: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {item["job"]: item for item in reply_json["items"]}

    def run_policy(self, *words: str, status: int = DONE) -> dict[str, dict[str, Any]]:
        reply = self.reclaim.run("run", "--config", str(self.config), *words, seconds=400)
        self.assertEqual(reply.status, status, str(reply))
        return self.by_job(reply.json)

    def room(self) -> int:
        space = os.statvfs(self.storage)
        return space.f_bavail * space.f_frsize

    def allocations(self) -> dict[str, int]:
        paths = {"trim": self.guest.disk("data").path, "sparsify": self.old, "punch": self.backup}
        return {job: allocation(path) for job, path in paths.items()}

    def trims_in_the_guest(self) -> bool:
        return int(self.guest.run("cat /proc/$(vr-agent pid)/task/*/children 2>/dev/null | wc -w").output) > 0

    def test_1_one_run_does_what_is_to_be_done(self) -> None:
        self.guest.run(FILL)
        self.make_backup(ZEROES // 4)
        before = self.allocations()
        items = self.run_policy()
        after = self.allocations()
        self.assertEqual({job: (item["name"], item["status"]) for job, item in items.items()}, {
            "trim": (WEB, "done"), "sparsify": (OLD, "done"), "punch": (str(self.backup), "done"),
        })
        for job, least in (("trim", 0.8 * JUNK), ("sparsify", 15 * MIB), ("punch", ZEROES // 4)):
            with self.subTest(job):
                self.assertGreaterEqual(items[job]["freed_bytes"], least, items[job])
                self.assertAlmostEqual(items[job]["freed_bytes"], before[job] - after[job], delta=DRIFT)

    def test_2_a_second_run_has_nothing_to_do(self) -> None:
        for job, item in self.run_policy().items():
            self.assertEqual(item["status"], "done", item)
            self.assertLess(abs(item["freed_bytes"] or 0), DRIFT, f"{job}: {item}")

    def test_4_a_full_storage_pauses_a_guest_and_an_emergency_frees_it(self) -> None:
        self.policy()
        self.make_old(DELETED)
        self.make_backup(ZEROES)
        # Not on the full storage, where the first of its writes would pause it, too: it comes last.
        other = Guest(self.host, DB, machine=NEW_MACHINE, agent=AGENT, disks=[Disk("data", discard="unmap", size=512 * MIB)])
        other.start()
        other.run(FILL)
        junk = other.disk("data").allocation()
        much = (self.room() + TOO_MUCH) // MIB
        self.assertLess(much, 1800, "the guest's disk is too small for this story")
        self.guest.run(f"(dd if=/dev/zero of=/mnt/data/much bs=1M count={much}; sync; echo ok >/run/written) >/dev/null 2>&1 &")
        self.host.wait_for_state(WEB, "paused", seconds=180)
        self.assertLess(self.room(), TOO_MUCH)
        plan = self.run_policy("--emergency", "--resume", "-n")
        self.assertEqual(plan["resume"]["name"], WEB, plan)
        items = self.run_policy("--emergency", "--resume")
        # Of a dict the order is that of the run.
        self.assertEqual(list(items), ["sparsify", "punch", "trim", "resume"])
        self.assertEqual(items["trim"]["name"], DB)
        self.assertGreater(junk - other.disk("data").allocation(), 0.8 * JUNK)
        print(f"{type(self).__name__}: {self.room() // MIB} MiB of room after the emergency")
        self.assertEqual({job: item["status"] for job, item in items.items()}, {"sparsify": "done", "punch": "done", "trim": "done", "resume": "done"}, items)
        self.assertGreater(items["sparsify"]["freed_bytes"], 0.9 * DELETED)
        # A block less when the map of the file's extents takes one.
        self.assertGreater(items["punch"]["freed_bytes"], 0.99 * ZEROES)
        wait_for("the guest to write the rest", lambda: self.guest.run("cat /run/written 2>/dev/null; true").output.strip() == "ok", seconds=120)
        self.assertEqual(self.host.state(WEB), "running")
        self.assertEqual(int(self.guest.run("stat -c %s /mnt/data/much").output), much * MIB)

    def test_5_nothing_is_lost(self) -> None:
        self.guest.shutdown()
        self.guest.disk("data").check()
        call("e2fsck", "-fn", self.old)
        dumped = self.space.path / "dumped"
        call("debugfs", "-R", f"dump kept {dumped}", self.old)
        self.assertEqual(hashlib.sha256(dumped.read_bytes()).hexdigest(), self.kept)
        content = self.backup.read_bytes()
        self.assertEqual((len(content), content[:MIB], content[MIB:].count(0)), (MIB + ZEROES, b"x" * MIB, ZEROES))


class Embedded(Story, HostTestCase):
    @classmethod
    def make_host(cls) -> Host:
        cls.make_storage()
        return EmbedHost(cls.space.path)


class Libvirtd(Story, HostTestCase):
    host: DaemonHost

    @classmethod
    def make_host(cls) -> Host:
        # First: a libvirtd has the mounts of when it began.
        cls.make_storage()
        return DaemonHost(cls.space, lasting=True)

    def test_3_libvirtd_goes_and_comes_back_in_the_middle(self) -> None:
        self.guest.run(FILL)
        self.make_backup(ZEROES // 4)
        before = self.guest.disk("data").allocation()
        # So slow that there is a middle.
        self.policy('max-rate = "32M"')
        program = self.reclaim.start("run", "--config", str(self.config))
        wait_for("a trim that runs", self.trims_in_the_guest, seconds=30)
        self.host.kill()
        self.host.start()
        output, errors = program.communicate(timeout=120)
        self.assertEqual(program.returncode, SOME_FAILED, f"{output}\n{errors}")
        items = self.by_job(json.loads(output))
        self.assertEqual(items["trim"]["status"], "failed", items)
        self.assertTrue(items["trim"]["error"])
        print(f"cut off: {items['trim']['error']}; sparsify: {items['sparsify'].get('error') or items['sparsify']['reasons']}")
        # Whether an image is in use libvirt has to say; what a backup is it has not.
        self.assertNotEqual(items["sparsify"]["status"], "done", items)
        self.assertEqual(items["punch"]["status"], "done", items)
        self.assertEqual(self.host.state(WEB), "running")
        # The next one makes up for it.
        self.policy()
        items = self.run_policy()
        self.assertEqual({job: item["status"] for job, item in items.items()}, {"trim": "done", "sparsify": "done", "punch": "done"}, items)
        self.assertGreater(before - self.guest.disk("data").allocation(), 0.8 * JUNK)

    def kill_in(self, job: str, synced: str, time: int) -> None:
        """SIGKILL right before it syncs, for the n-th time, a file whose path has `synced` in it: what it did is done, and nobody was told."""
        killed = VirtReclaim(
            PROGRAM, self.host, **self.environment, LD_PRELOAD=str(KILLER), VR_KILL_AT_SYNC=str(time), VR_KILL_IN=synced
        )
        reply = killed.run("run", "--job", job, "--config", str(self.config), seconds=400)
        self.assertEqual((reply.status, reply.stdout), (-signal.SIGKILL, ""), str(reply))

    def make_something_to_do(self) -> dict[str, int]:
        """What each job's files occupy then."""
        self.guest.run(FILL)
        self.make_old(DELETED)
        self.make_backup(ZEROES // 4)
        return self.allocations()

    def require_a_run_that_is_done(self, before: dict[str, int]) -> None:
        items = self.run_policy()
        self.assertEqual({job: item["status"] for job, item in items.items()}, {"trim": "done", "sparsify": "done", "punch": "done"}, items)
        after = self.allocations()
        for job, least in (("trim", 0.8 * JUNK), ("sparsify", 0.9 * DELETED), ("punch", 0.99 * ZEROES / 4)):
            self.assertGreater(before[job] - after[job], least, job)
        self.assertEqual(self.host.state(WEB), "running")

    def test_3_killed_in_each_job_the_next_run_makes_up_for_it(self) -> None:
        self.policy()
        # An image is synced before it is read, too.
        for job, synced, time in (("trim", "/history/", 1), ("sparsify", str(self.old), 2), ("punch", "/runs/", 1)):
            with self.subTest(job):
                before = self.make_something_to_do()
                self.kill_in(job, synced, time)
                self.require_a_run_that_is_done(before)

    def test_3_killed_while_the_guest_trims(self) -> None:
        before = self.make_something_to_do()
        # So slow that there is a middle.
        self.policy('max-rate = "32M"')
        program = self.reclaim.start("run", "--job", "trim", "--config", str(self.config))
        wait_for("a trim that runs", self.trims_in_the_guest, seconds=30)
        program.kill()
        program.communicate(timeout=30)
        self.assertEqual(program.returncode, -signal.SIGKILL)
        self.policy()
        self.require_a_run_that_is_done(before)

    def test_3_killed_at_random_moments(self) -> None:
        """One after the other: each goes on after the one before, and the last makes up for all."""
        before = self.make_something_to_do()
        # So slow that a trim takes some seconds.
        self.policy('max-rate = "256M"')
        dice = random.Random(8)
        most = 6.0  # seconds
        killed = 0
        for _ in range(2 * KILLS):
            if killed == KILLS:
                break
            program = self.reclaim.start("run", "--config", str(self.config))
            begin = monotonic()
            try:
                program.communicate(timeout=dice.uniform(0, most))
            except subprocess.TimeoutExpired:
                program.kill()
                program.communicate(timeout=30)
                killed += 1
            else:
                # It ended before: the next moments are within one that long.
                most = min(most, monotonic() - begin)
                before = self.make_something_to_do()
            reply = self.reclaim.run("metrics", "--textfile", str(self.space.path / "x.prom"))
            self.assertEqual(reply.status, DONE, str(reply))
            self.assertIn("virt_reclaim_collect_success 1\n", (self.space.path / "x.prom").read_text())
        print(f"killed {killed} of {KILLS} times")
        self.assertGreater(killed, 0)
        self.policy()
        self.require_a_run_that_is_done(before)

    def test_3_killed_in_the_middle_of_a_backup(self) -> None:
        self.make_something_to_do()
        # One run of zeroes would become one hole, at its end.
        self.backup.write_bytes((bytes(MIB) + b"x" * 65536) * 64)
        os.sync()
        before = self.allocations()
        # So slow that there is a middle.
        self.policy(backups='max-rate = "8M"')
        program = self.reclaim.start("run", "--job", "punch", "--config", str(self.config))
        wait_for("the first holes", lambda: allocation(self.backup) < before["punch"], seconds=60)
        program.kill()
        program.communicate(timeout=30)
        self.assertEqual(program.returncode, -signal.SIGKILL)
        self.policy()
        self.require_a_run_that_is_done(before)


if __name__ == "__main__":
    bedpath.require_bed("libvirtd", "unshare", "mkfs.ext4", "debugfs")
    PROGRAM, AGENT, KILLER, _ = built("virt-reclaim", "virt-reclaim-agent", "libkill_at_sync.so", "virt-reclaim-freemap")
    main(one_story=True)
