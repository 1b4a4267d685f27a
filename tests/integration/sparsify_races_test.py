"""sparsify of a domain that is off, and others who want its images, under a libvirtd: a start of the domain, another sparsify, qemu-img. It is made
to stand still in the middle of its work, so that nothing hangs on the time; whoever comes then waits or is refused, and nothing is lost."""

from __future__ import annotations

import mmap
import struct
import subprocess
import sys
from pathlib import Path

import bedpath

sys.path.insert(0, str(Path(__file__).parents[1] / "sparsify"))
from sparsifylib import Case, Judge, allocated, qcow2_errors

import imagelib

from vrtest import DaemonHost, DaemonTestCase, Reply, VirtReclaim, built, domain_xml, main, wait_for
from vrtest.guest import MIB
from vrtest.programs import find_program

DONE, REFUSED = 0, 5
SECONDS = 120
# So many holes or trims are through when it stands still.
MADE_BEFORE = 5
FORMATS = ("raw", "qcow2")
PATTERN, LENGTH = 0x5A, 64 << 10


class Held:
    """A sparsify that stands still: in the middle of its work, or while its worker reads the free map."""

    def __init__(self, space: Path, host: DaemonHost, domain: str, *, reading: bool) -> None:
        words = space / "held"
        words.write_bytes(bytes(16))
        more = {}
        if reading:
            worker = space / "worker"
            worker.write_text(f'#!/bin/sh\nVR_HOLD={words} LD_PRELOAD={HOLD_AT_READ} exec {WORKER} "$@"\n')
            worker.chmod(0o700)
        else:
            worker, more = WORKER, {"LD_PRELOAD": str(HOLD_AT_FREE), "VR_HOLD": str(words), "VR_HOLD_AT": str(MADE_BEFORE + 1)}
        with open(words, "r+b") as file:
            self._words = mmap.mmap(file.fileno(), 16)
        self._process = VirtReclaim(PROGRAM, host, VIRT_RECLAIM_FREEMAP=str(worker), **more).start("sparsify", domain)

    def __enter__(self) -> Held:
        try:
            wait_for("sparsify to stand still", self._stands_still, seconds=SECONDS)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """So that nothing stays, however the test ended."""
        self._go_on()
        self._process.kill()
        self._process.communicate()
        self._words.close()

    def _stands_still(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"sparsify ended: {self._process.communicate()}")
        return struct.unpack_from("=I", self._words, 0)[0] == 1

    def _go_on(self) -> None:
        struct.pack_into("=I", self._words, 4, 1)

    def end(self) -> Reply:
        self._go_on()
        out, errors = self._process.communicate(timeout=SECONDS)
        return Reply(self._process.returncode, out, errors)


class Races(DaemonTestCase):
    environment = {"VIRT_RECLAIM_FREEMAP": str(find_program("virt-reclaim-freemap"))}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # Some hundred free runs.
        case = Case("ext4", "mkfs.ext4 -q", "chequered", size=64 * MIB, megabytes=24)
        cls.judge = Judge(cls.space.path, case, str(DUMP), str(WORKER))
        longest = max(cls.judge.runs, key=lambda run: run[1])
        cls.free = -(-longest[0] // LENGTH) * LENGTH
        assert cls.free + LENGTH <= sum(longest), "no room for a write"
        for format_ in FORMATS:
            cls.host.define(domain_xml(format_, (format_, cls.path(format_))))

    @classmethod
    def path(cls, format_: str) -> Path:
        return cls.space.path / f"image.{format_}"

    def image(self, format_: str) -> Path:
        """The image of the domain that is called like its format, anew."""
        self.addCleanup(self.host.destroy, format_)
        path = self.path(format_)
        path.unlink(missing_ok=True)
        self.judge.copy(path, format_, "cluster_size=4096" if format_ == "qcow2" else "")  # many trims
        self.full = allocated(path)
        return path

    def held(self, domain: str, *, reading: bool = False) -> Held:
        return Held(self.space.path, self.host, domain, reading=reading)

    def begin(self, *words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(word) for word in words], env=self.host.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def start(self, domain: str) -> subprocess.Popen[str]:
        return self.begin("virsh", "-q", "-c", self.host.uri, "start", domain)

    def wait_until_it_waits(self, opener: subprocess.Popen[str], path: Path) -> None:
        """Until the kernel says that somebody waits in open(2) for our lease."""
        inode = f":{path.stat().st_ino}"

        def waits() -> bool:
            if opener.poll() is not None:
                raise AssertionError(f"it did not wait: {opener.communicate()}")
            locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
            return any(words[1:3] == ["LEASE", "BREAKING"] and any(word.endswith(inode) for word in words) for words in locks)

        wait_for("somebody to wait for the image", waits, seconds=SECONDS)

    def succeeds(self, process: subprocess.Popen[str]) -> None:
        _, errors = process.communicate(timeout=SECONDS)
        self.assertEqual(process.returncode, 0, errors)

    def fails_at_the_lock(self, process: subprocess.Popen[str]) -> None:
        _, errors = process.communicate(timeout=SECONDS)
        self.assertNotEqual(process.returncode, 0)
        self.assertIn("lock", errors)

    def gave_way(self, reply: Reply) -> None:
        """After a part of its work, and it says so."""
        self.assertEqual(reply.status, REFUSED, reply)
        target = reply.json["targets"][0]
        self.assertEqual(target["reasons"], ["image-in-use"])
        self.assertIn("only a part was done", target["reasons_explained"][0]["detail"])
        disk = target["disks"][0]
        self.assertTrue(0 < disk["given_back_bytes"] < disk["reclaimable_bytes"], disk)

    def whole(self, path: Path, format_: str) -> None:
        """Every file, and every byte that was in use."""
        if format_ == "qcow2":
            self.assertEqual(qcow2_errors(path), (False, False))
        self.judge.check(path, format_)

    def ends_the_job(self, path: Path, format_: str) -> None:
        """The domain is off again: what was not done, or nothing any more, is done by the next run."""
        reply = self.reclaim.run("sparsify", format_)
        self.assertEqual(reply.status, DONE, reply)
        self.assertLess(allocated(path), self.full - MIB)
        self.whole(path, format_)
        again = self.reclaim.run("sparsify", format_)
        self.assertEqual((again.status, again.json["targets"][0]["reasons"]), (DONE, ["nothing-reclaimable"]), again)

    def written(self, path: Path) -> bool:
        """Whether the test's own write lies there (raw)."""
        with open(path, "rb") as file:
            file.seek(self.free)
            return file.read(LENGTH) == bytes([PATTERN]) * LENGTH

    def test_a_start_waits_for_a_raw_image_and_sparsify_gives_way(self) -> None:
        path = self.image("raw")
        with self.held("raw") as ours:
            start = self.start("raw")
            self.wait_until_it_waits(start, path)
            self.gave_way(ours.end())
            self.succeeds(start)
        self.assertEqual(self.host.state("raw"), "running")
        self.whole(path, "raw")
        self.host.destroy("raw")
        self.assertLess(allocated(path), self.full)
        self.ends_the_job(path, "raw")

    def test_a_start_is_refused_by_the_locks_of_qcow2_and_works_afterwards(self) -> None:
        path = self.image("qcow2")
        with self.held("qcow2") as ours:
            self.fails_at_the_lock(self.start("qcow2"))
            self.assertEqual(self.host.state("qcow2"), "shut off")
            reply = ours.end()
            self.assertEqual(reply.status, DONE, reply)
        self.assertLess(allocated(path), self.full - MIB)
        self.whole(path, "qcow2")
        self.succeeds(self.start("qcow2"))
        self.assertEqual(self.host.state("qcow2"), "running")
        self.host.destroy("qcow2")
        self.ends_the_job(path, "qcow2")

    def test_a_start_while_the_map_is_read_is_noticed(self) -> None:
        path = self.image("raw")
        before = imagelib.holes(path)
        with self.held("raw", reading=True) as ours:
            self.succeeds(self.start("raw"))  # nothing is held yet
            reply = ours.end()
        self.assertEqual(reply.status, REFUSED, reply)
        self.assertEqual(reply.json["targets"][0]["reasons"], ["image-in-use"])
        self.assertEqual(self.host.state("raw"), "running")
        # Not what it occupies: libvirt notes its owner in an attribute.
        self.assertEqual(imagelib.holes(path), before)
        self.host.destroy("raw")
        self.whole(path, "raw")
        self.ends_the_job(path, "raw")

    def test_a_guest_that_wrote_and_stopped_while_the_map_was_read_is_noticed(self) -> None:
        """What was free is in use by then, and nobody has the image any more: its times tell."""
        path = self.image("raw")
        with self.held("raw", reading=True) as ours:
            self.succeeds(self.start("raw"))
            self.host.virsh(
                "qemu-monitor-command", "raw", "--hmp",
                f'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P {PATTERN} {self.free} {LENGTH}"',
            )
            self.host.destroy("raw")
            self.assertTrue(self.written(path), "the guest's write is not there: nothing is shown")
            before = imagelib.holes(path)
            reply = ours.end()
        self.assertEqual(reply.status, REFUSED, reply)
        self.assertIn("was written meanwhile", reply.json["targets"][0]["reasons_explained"][0]["detail"])
        self.assertTrue(self.written(path), "what was written meanwhile is lost")
        self.assertEqual(imagelib.holes(path), before)
        self.whole(path, "raw")

    def test_a_second_sparsify_is_refused(self) -> None:
        """Also one that knows nothing of our lock files."""
        others = [self.reclaim, VirtReclaim(PROGRAM, self.host, **self.environment, VIRT_RECLAIM_RUN_DIR=str(self.space.path / "other-run"))]
        for format_ in FORMATS:
            path = self.image(format_)
            with self.subTest(format_), self.held(format_) as ours:
                before = allocated(path)
                for other in others:
                    for words in ((format_,), (path,), ("--dry-run", format_)):
                        reply = other.run("sparsify", *map(str, words))
                        self.assertEqual(reply.status, REFUSED, reply)
                        self.assertEqual(reply.json["targets"][0]["reasons"], ["image-in-use"])
                self.assertEqual(allocated(path), before)
                reply = ours.end()
                self.assertEqual(reply.status, DONE, reply)
            self.ends_the_job(path, format_)

    def test_qemu_img_is_refused_by_the_locks_of_qcow2(self) -> None:
        path = self.image("qcow2")
        with self.held("qcow2") as ours:
            self.fails_at_the_lock(self.begin("qemu-img", "resize", "-f", "qcow2", path, "+64M"))
            self.fails_at_the_lock(self.begin("qemu-img", "snapshot", "-c", "meanwhile", path))
            self.fails_at_the_lock(self.begin("qemu-io", "-f", "qcow2", "-c", f"write -P {PATTERN} {self.free} {LENGTH}", path))
            reply = ours.end()
        self.assertEqual(reply.status, DONE, reply)
        self.ends_the_job(path, "qcow2")

    def test_a_writer_of_a_raw_image_waits_and_sparsify_gives_way(self) -> None:
        path = self.image("raw")
        with self.held("raw") as ours:
            writer = self.begin("qemu-io", "-f", "raw", "-c", f"write -P {PATTERN} {self.free} {LENGTH}", path)
            self.wait_until_it_waits(writer, path)
            self.gave_way(ours.end())
            self.succeeds(writer)
        self.assertTrue(self.written(path), "what was written meanwhile is lost")
        self.whole(path, "raw")
        self.ends_the_job(path, "raw")


if __name__ == "__main__":
    bedpath.require_bed("libvirtd", "unshare")
    imagelib.need("mkfs.ext4", "e2fsck", "losetup", "qemu-io", "qemu-storage-daemon")
    PROGRAM, WORKER, DUMP = built("virt-reclaim", "virt-reclaim-freemap", "freemap_dump")
    HOLD_AT_FREE, HOLD_AT_READ = built("libhold_at_free.so", "libhold_at_read.so")
    imagelib.own_mounts()
    main()
