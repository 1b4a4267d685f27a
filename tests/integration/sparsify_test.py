"""sparsify of domains: all disks together, by libvirt's word about who is off, saved, or stands on whose image."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bedpath

sys.path.insert(0, str(Path(__file__).parents[1] / "freemap"))
import imagelib
import lvm_test

from vrtest import HostTestCase, built, domain_xml, main
from vrtest.guest import MIB
from vrtest.programs import find_program

DONE, REFUSED = 0, 5


class Sparsify(HostTestCase):
    """The methods are one story and run in the order of their names."""

    environment = {"VIRT_RECLAIM_FREEMAP": str(find_program("virt-reclaim-freemap"))}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.raw = cls.disk("a")
        cls.qcow2 = cls.space.path / "b.qcow2"
        cls.call("qemu-img", "convert", "-f", "raw", "-O", "qcow2", cls.disk("b"), cls.qcow2)
        cls.host.define(domain_xml("web", ("raw", cls.raw), ("qcow2", cls.qcow2)))

    @staticmethod
    def call(*words: object) -> None:
        subprocess.run([str(word) for word in words], check=True, capture_output=True)

    @classmethod
    def disk(cls, name: str) -> Path:
        """An ext4 from which 24 of 32 MiB are deleted, without a mount."""
        path, content = cls.space.path / f"{name}.raw", cls.space.path / f"{name}.content"
        content.mkdir()
        for i in range(8):
            (content / f"file{i}").write_bytes(os.urandom(4 * MIB))
        with open(path, "wb") as file:
            file.truncate(128 * MIB)
        cls.call("mkfs.ext4", "-q", "-d", content, path)
        commands = cls.space.path / "commands"
        commands.write_text("".join(f"rm file{i}\n" for i in range(2, 8)))
        cls.call("debugfs", "-w", "-f", commands, path)
        return path

    @staticmethod
    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def refused(self, reason: str, *targets: object) -> None:
        before = [self.sha256(path) for path in (self.raw, self.qcow2)]
        reply = self.reclaim.run("sparsify", *map(str, targets))
        self.assertEqual(reply.status, REFUSED, reply)
        self.assertEqual(reply.json["targets"][0]["reasons"], [reason])
        self.assertEqual([self.sha256(path) for path in (self.raw, self.qcow2)], before)

    def test_1_running_is_refused_by_name_and_by_file(self) -> None:
        self.host.virsh("start", "web")
        self.refused("running", "web")
        self.refused("running", self.raw)
        self.host.virsh("suspend", "web")
        self.refused("paused", "web")
        # libvirt 9.0 kills it right after an open and says that it does not run.
        self.host.virsh("destroy", "web", check=False)
        self.assertEqual(self.host.virsh("domstate", "web").stdout.strip(), "shut off")

    def test_2_saved_is_refused(self) -> None:
        saved = self.host.root / "lib" / "qemu" / "save" / "web.save"
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.write_bytes(b"")
        self.refused("managed-save", "web")
        self.refused("managed-save", self.qcow2)
        saved.unlink()

    def test_3_images_that_others_stand_on(self) -> None:
        overlay = self.space.path / "clone.qcow2"
        self.call("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.qcow2, "-F", "qcow2", overlay)
        self.host.define(domain_xml("clone", ("qcow2", overlay)))
        self.refused("image-backs-others", "web")
        self.refused("image-backs-others", self.qcow2)
        self.refused("overlay", "clone")
        # What it stands on cannot be read any more: any image may be its base.
        overlay.write_bytes(b"no qcow2 image")
        self.refused("image-refused", self.qcow2)
        self.host.virsh("undefine", "clone")

    def test_4_all_disks_of_a_stopped_domain(self) -> None:
        planned = self.reclaim.run("sparsify", "--dry-run", "web").json
        before = [path.stat().st_blocks * 512 for path in (self.raw, self.qcow2)]
        digests = [self.sha256(path) for path in (self.raw, self.qcow2)]
        (reported,) = self.reclaim.run("report", "--exact", "web").json["domains"]
        self.assertEqual([self.sha256(path) for path in (self.raw, self.qcow2)], digests)
        for disk in reported["disks"]:
            self.assertEqual(disk["reclaimable_from"], "free-map")
        promised = sum(disk["reclaimable_bytes"] for disk in reported["disks"])
        self.assertEqual(promised, planned["total"]["reclaimable_bytes"])
        reply = self.reclaim.run("sparsify", "web")
        self.assertEqual(reply.status, DONE, reply)
        target = reply.json["targets"][0]
        self.assertEqual(reply.json["total"]["given_back_bytes"], planned["total"]["reclaimable_bytes"])
        for disk, path, old in zip(target["disks"], (self.raw, self.qcow2), before, strict=True):
            self.assertEqual(disk["freed_bytes"], old - path.stat().st_blocks * 512)
            self.assertGreater(disk["freed_bytes"], 23 * MIB)
        self.call("e2fsck", "-fn", self.raw)
        self.call("qemu-img", "check", self.qcow2)
        for i in range(2):
            self.call("debugfs", "-R", f"dump file{i} {self.space.path / 'dumped'}", self.raw)
            self.assertEqual(self.sha256(self.space.path / "dumped"), self.sha256(self.space.path / "a.content" / f"file{i}"))

    def test_5_all_that_are_off(self) -> None:
        reply = self.reclaim.run("sparsify", "--all-off")
        self.assertEqual(reply.status, DONE, reply)
        self.assertEqual([target["name"] for target in reply.json["targets"]], ["web"])
        self.assertIn("nothing-reclaimable", reply.json["targets"][0]["reasons"])

    def test_6_a_volume_group_over_two_disks(self) -> None:
        """Only together are they a group; one is raw, the other qcow2."""
        work = self.space.path / "group"
        work.mkdir()
        imagelib.own_mounts()
        group = lvm_test.Group(work, [96 * MIB, 96 * MIB]).create("lvcreate -an -Zn -Wn -n root -L 140M vg")
        files = lvm_test.LvmTest.put(SimpleNamespace(directory=work), group, "root", *lvm_test.LvmTest.EXT4)
        first, second = group.disks
        qcow2 = work / "second.qcow2"
        self.call("qemu-img", "convert", "-f", "raw", "-O", "qcow2", second, qcow2)
        self.host.define(domain_xml("group", ("raw", first), ("qcow2", qcow2)))
        alone = self.reclaim.run("sparsify", "--dry-run", "--no-libvirt", str(qcow2))
        self.assertEqual(alone.json["total"]["reclaimable_bytes"], 0, alone)
        self.call("sync", first, qcow2)  # what they occupy is not settled before
        before = [path.stat().st_blocks * 512 for path in (first, qcow2)]
        reply = self.reclaim.run("sparsify", "group")
        self.assertEqual(reply.status, DONE, reply)
        for disk, path, old in zip(reply.json["targets"][0]["disks"], (first, qcow2), before, strict=True):
            self.assertEqual(disk["freed_bytes"], old - path.stat().st_blocks * 512)
        self.assertGreater(reply.json["total"]["freed_bytes"], 4 * MIB)
        self.call("qemu-img", "check", qcow2)
        self.call("qemu-img", "convert", "-f", "qcow2", "-O", "raw", qcow2, second)
        group.copy("root", work / "volume", into=False)
        self.call("e2fsck", "-fn", work / "volume")
        with imagelib.Mounted(work / "volume", "ext4", "ro") as directory:
            self.assertEqual(imagelib.hashes(directory), files)


if __name__ == "__main__":
    bedpath.require_bed()
    (PROGRAM,) = built("virt-reclaim")
    main(one_story=True)
