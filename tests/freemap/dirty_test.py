#!/usr/bin/env python3
"""dirty_test.py DUMP WORKER: what must be refused is refused, for the right reason, and what only looks odd is not.

Copies of mounted, frozen and crashed filesystems, states noted in superblocks, unknown features, cut images, contents that are
ambiguous or nobody's. A refused filesystem has no free run at all.
"""

import os
import pathlib
import re
import shutil
import struct
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import dirtylib
import foreignlib
from imagelib import MIB, Mounted, attach, fill, hashes, run, scribble

class DirtyTest(dirtylib.DirtyTest):
    def while_mounted(self, type_, refusal, reason, frozen=False):
        with Mounted(self.image, type_) as directory:
            fill(directory, "few", 1, 12)
            if frozen:
                run("fsfreeze", "-f", directory)
            try:
                copy = self.copy_now()
            finally:
                if frozen:
                    run("fsfreeze", "-u", directory)
        if refusal:
            self.refused(refusal, reason, copy)
        self.accepted()
        return copy

    def test_ext4_mounted(self):
        self.make("mkfs.ext4 -q")
        self.while_mounted("ext4", "dirty-journal", "journal")

    def test_ext3_mounted(self):
        self.make("mkfs.ext3 -q")
        self.while_mounted("ext4", "dirty-journal", "journal")

    def test_ext2_mounted(self):
        self.make("mkfs.ext2 -q")
        self.while_mounted("ext2", "state", "not cleanly unmounted")

    def test_ext4_without_journal_mounted(self):
        self.make("mkfs.ext4 -q -O ^has_journal")
        self.while_mounted("ext4", "state", "not cleanly unmounted")

    def test_ext4_mmp_mounted(self):
        self.make("mkfs.ext4 -q -O mmp,^has_journal")
        self.while_mounted("ext4", "state", "")

    def test_ext4_mmp_in_use_and_else_clean(self):
        self.make("mkfs.ext4 -q -O mmp,^metadata_csum")
        self.accepted()
        at = self.image.read_bytes().index(b"PMM\0")
        for sequence in (b"\1\0\0\0", b"PMMM", b"PMM\xfe"):  # in use, being checked by e2fsck, unknown
            self.write(at + 4, sequence)
            self.refused("state", "MMP")

    def test_ext4_frozen_is_clean_and_its_map_is_right(self):
        """fsfreeze empties the journal and takes the flag away; what is free then is free."""
        self.make("mkfs.ext4 -q")
        copy = self.while_mounted("ext4", None, "", frozen=True)
        found = self.accepted(copy)
        with Mounted(copy, "ext4", "ro") as directory:
            before = hashes(directory)
        with open(copy, "r+b") as file:
            for _, offset, length in found[0].runs:
                scribble(file.fileno(), offset, length)
        run("e2fsck", "-fn", copy)
        with Mounted(copy, "ext4", "ro") as directory:
            self.assertEqual(hashes(directory), before)

    def test_ext4_states(self):
        for value, refusal, reason in (
            ("state 3", "state", "errors"), ("state 0", "state", "not cleanly"), ("state 5", "state", "orphans"),
            ("last_orphan 12", "state", "orphan"), ("feature_incompat 0x12c2", "unknown", "incompatible features 0x1000"),
            ("feature_incompat 0x2c6", "dirty-journal", "journal"), ("feature_ro_compat 0x46b", "none", ""),
            ("feature_ro_compat 0x4046b", "unknown", "features 0x40000"), ("feature_ro_compat 0x44eb", "unknown", "features"),
            ("feature_ro_compat 0x1046b", "state", "orphan"),
            ("feature_compat 0x4003c", "unknown", "compatible features 0x40000"),
        ):
            with self.subTest(value):
                self.make("mkfs.ext4 -q")
                run("debugfs", "-w", "-R", f"set_super_value {value}", self.image)
                if refusal == "none":
                    self.accepted()
                else:
                    self.refused(refusal, reason)

    def test_ext4_superblock_checksum(self):
        self.make("mkfs.ext4 -q")
        self.write(1024 + 0x78, b"label")
        self.refused("damaged", "checksum")

    def test_external_journal(self):
        self.make("mke2fs -q -O journal_dev")
        self.refused("unknown")

    @unittest.skipUnless(shutil.which("mkfs.f2fs"), "no mkfs.f2fs, which libguestfs's packages bring")
    def test_f2fs_is_never_known_to_be_at_rest(self):
        self.make("mkfs.f2fs -q -f")
        self.refused("dirty-journal", "cannot be told")
        flags = 512 * 4096 + 132  # of the checkpoint
        for value, refusal, reason in ((0x184, "dirty-journal", "not unmounted"), (0x18D, "state", "notes errors")):
            self.write(flags, struct.pack("<I", value))
            self.refused(refusal, reason)

    def test_cut_images(self):
        for mkfs, size in (("mkfs.ext4 -q", 64 * MIB), ("mkfs.xfs -q", 300 * MIB), ("mkfs.btrfs -q", 128 * MIB)):
            with self.subTest(mkfs):
                self.make(mkfs, size)
                os.truncate(self.image, size - 4096)
                self.refused("state", "larger than what holds it")

    def test_grown_image_keeps_what_is_behind(self):
        self.make("mkfs.ext4 -q")
        os.truncate(self.image, 128 * MIB)
        found = self.accepted()
        self.assertLessEqual(max(offset + length for _, offset, length in found[0].runs), 64 * MIB)

    def test_strict(self):
        for mkfs, size, refusal in (("mkfs.ext4 -q", 64, "none"), ("mkfs.ext3 -q", 64, "unchecked"), ("mkfs.xfs -q", 300, "none"),
                                    ("mkfs.ext4 -q -O ^metadata_csum", 64, "unchecked"), ("mkfs.xfs -q -m crc=0,finobt=0,reflink=0,rmapbt=0", 300, "unchecked")):
            with self.subTest(mkfs):
                self.make(mkfs, size * MIB)
                self.assertEqual(self.dump(self.image, options=["--strict"])[0].refusal, refusal)

    def test_xfs_mounted(self):
        self.make("mkfs.xfs -q", 300 * MIB)
        self.while_mounted("xfs", "dirty-journal", "log")

    def test_xfs_frozen(self):
        self.make("mkfs.xfs -q", 300 * MIB)
        self.while_mounted("xfs", "dirty-journal", "log", frozen=True)

    def test_xfs_log_of_many_rounds(self):
        """A small log, written round after round: its end moves, and its last record goes around the end of the ring."""
        self.make("mkfs.xfs -q --unsupported -l size=6m", 300 * MIB)
        for number in range(45):
            with Mounted(self.image, "xfs") as directory:
                for i in range(600 + number * 13):
                    (directory / f"dir{number}.{i}").mkdir()
                    (directory / f"dir{number}.{i}" / "file").write_bytes(bytes(100))
                run("sync", "-f", directory)
                dirty = self.copy_now()
            self.refused("dirty-journal", "log", dirty)
            self.accepted()
        log = int(re.search(r"daddr: (\d+)", run("xfs_logprint", "-t", self.image).stdout)[1]) * 512
        with open(self.image, "rb") as file:
            file.seek(log)
            magic_or_cycle, cycle = struct.unpack(">II", file.read(8))
        self.assertGreaterEqual(cycle if magic_or_cycle == 0xFEEDBABE else magic_or_cycle, 3)

    def test_xfs_states(self):
        for field, value, refusal, reason in (
            ("features_incompat", "0x1b", "state", "xfs_repair"), ("features_incompat", "0x10b", "unknown", "features 0x100"),
            ("features_ro_compat", "0x8f", "unknown", "0x80"),
            ("features_log_incompat", "1", "dirty-journal", ""), ("inprogress", "1", "state", "mkfs"),
        ):
            with self.subTest(field=field, value=value):
                self.make("mkfs.xfs -q", 300 * MIB)
                run("xfs_db", "-x", "-c", "sb 0", "-c", f"write -d {field} {value}", self.image)
                self.refused(refusal, reason)

    def test_xfs_external_log(self):
        log = self.directory / "log"
        with open(log, "wb") as file:
            file.truncate(64 * MIB)
        self.make(f"mkfs.xfs -q -l logdev={log}", 300 * MIB)
        self.refused("unknown", "another device")

    def test_btrfs_log_tree(self):
        """Blocks of a log tree are in no extent tree: freed, the filesystem could not be mounted any more."""
        self.make("mkfs.btrfs -q", 128 * MIB)
        with Mounted(self.image, "btrfs") as directory:
            fill(directory, "few", 1, 8)
            copy = dirtylib.with_log_tree(directory, self.copy_now)
        self.refused("dirty-journal", "log tree", copy)
        self.accepted()

    def test_btrfs_mounted_carries_no_mark_and_keeps_what_was_committed(self):
        self.make("mkfs.btrfs -q", 128 * MIB)
        with Mounted(self.image, "btrfs") as directory:
            fill(directory, "chequered", 1, 8)
            run("btrfs", "filesystem", "sync", directory)
            before = hashes(directory)
            copy = self.copy_now()
        with open(copy, "r+b") as file:
            for _, offset, length in self.accepted(copy)[0].runs:
                scribble(file.fileno(), offset, length)
        run("btrfs", "check", "--check-data-csum", copy)
        with Mounted(copy, "btrfs", "ro") as directory:
            self.assertEqual(hashes(directory), before)

    def test_btrfs_not_read(self):
        self.make("mkfs.btrfs -q --csum xxhash", 128 * MIB)
        self.refused("unknown", "checksums")
        self.make("mkfs.btrfs -q", 128 * MIB)
        run("btrfstune", "-S", "1", self.image)
        self.refused("state", "seed")
        other = self.directory / "other"
        with open(other, "wb") as file:
            file.truncate(128 * MIB)
        run("mkfs.btrfs", "-q", "-f", "-d", "single", self.image, other)
        self.assertEqual([(fs.refusal, fs.runs) for fs in self.dump(self.image, other)], [("unknown", [])] * 2)

    def test_swap(self):
        self.make("mkswap")
        self.refused("not-asked")
        self.refused("unchecked", options=["--take-swap", "--strict"])
        found = self.accepted(options=["--take-swap"])
        self.assertEqual(found[0].runs, [(0, 4096, 64 * MIB - 4096)])

    def test_hibernated(self):
        """What a sleeping kernel has in memory may be newer than any disk of its machine."""
        root = self.directory / "root"
        with open(root, "wb") as file:
            file.truncate(64 * MIB)
        run("mkfs.ext4", "-q", root)
        for magic in (b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"):
            with self.subTest(magic):
                self.make("mkswap")
                self.write(4086, magic)
                found = self.dump(root, self.image, options=["--take-swap"])
                self.assertEqual([fs.refusal for fs in found], ["state", "state"])
                self.assertEqual([fs.runs for fs in found], [[], []])
        self.assertEqual(self.dump(root)[0].refusal, "none")

    def test_more_than_one_signature(self):
        self.make("mkfs.ext4 -q")
        other = self.directory / "other"
        with open(other, "wb") as file:
            file.truncate(256 * MIB)
        run("mkfs.btrfs", "-q", other)
        self.write(65536, other.read_bytes()[65536 : 65536 + 4096])
        self.refused("state", "more than one signature")

    def test_nobodys(self):
        with open(self.image, "wb") as file:
            file.truncate(8 * MIB)
        self.refused("unknown")
        self.write(0, os.urandom(8 * MIB))
        self.refused("unknown")
        self.write(0, bytes(8 * MIB))
        self.write(0, b"LUKS\xba\xbe\0\1aes" + bytes(1000))
        self.refused("unknown", "crypto_LUKS")
        os.truncate(self.image, 100)
        self.refused("unknown")
        os.truncate(self.image, 0)
        self.assertEqual(self.dump(self.image)[0].runs, [])

    def test_what_is_foreign(self):
        """Alone it has no reader; over an ext4, as of a leg of a mirror or of a disk's former use, nothing of that is free either."""
        for name, type_, writes in foreignlib.foreign(64 * MIB):
            with self.subTest(name):
                with open(self.image, "wb") as file:
                    file.truncate(64 * MIB)
                for offset, data in writes:
                    self.write(offset, data)
                self.refused("unknown", f"no reader for {type_}")
                self.make("mkfs.ext4 -q")
                self.accepted()
                for offset, data in writes:
                    self.write(offset, data)
                (found,) = self.dump(self.image)
                self.assertIn(found.refusal, ("unknown", "state"), found)
                self.assertIn(found.reason, (f"no reader for {type_}", "more than one signature: not clear what it is"))
                self.assertEqual((found.runs, found.free), ([], 0))

    def test_partitions_of_all_kinds(self):
        """Two partitions with filesystems, one of LUKS, one that is empty: gaps and tables stay."""
        with open(self.image, "wb") as file:
            file.truncate(128 * MIB)
        run("sfdisk", "-q", self.image, input="label: gpt\n2048,65536\n67584,65536\n133120,20480\n153600,20480\n")
        for start in (2048, 67584):
            loop = attach(self.image, start * 512, 32 * MIB)
            run("mkfs.ext4", "-q", loop)
            run("losetup", "-d", loop)
        self.write(133120 * 512, b"LUKS\xba\xbe\0\1aes")
        found = self.dump(self.image)
        self.assertEqual([(fs.place, fs.refusal) for fs in found],
                         [("partition 1", "none"), ("partition 2", "none"), ("partition 3", "unknown"), ("partition 4", "unknown")])
        for fs in found[:2]:
            for _, offset, length in fs.runs:
                self.assertTrue(fs.offset <= offset and offset + length <= fs.offset + 32 * MIB)
        self.write(128 * MIB - 512 + 20, b"x")  # the second GPT
        self.refused("damaged", "GPT")

    def test_block_device(self):
        self.make("mkfs.ext4 -q")
        loop = attach(self.image)
        try:
            self.assertEqual(self.accepted(loop)[0].runs, self.accepted()[0].runs)
        finally:
            run("losetup", "-d", loop)

    def test_ext4_states_beside_unknown_features(self):
        """What is not known goes to another engine: a state must be told before it."""
        for values, refusal, reason in (
            (["feature_incompat 0x12c6"], "dirty-journal", "journal"), (["state 3", "feature_incompat 0x12c2"], "state", "errors"),
            (["state 0", "feature_ro_compat 0x4046b"], "state", "not cleanly"), (["feature_compat 0x4003c", "last_orphan 12"], "state", "orphan"),
            (["feature_ro_compat 0x5046b"], "state", "orphan"),
        ):
            with self.subTest(values):
                self.make("mkfs.ext4 -q")
                commands = self.directory / "commands"
                commands.write_text("".join(f"set_super_value {value}\n" for value in values))
                run("debugfs", "-w", "-f", commands, self.image)
                self.refused(refusal, reason)
        self.make("mkfs.ext4 -q -O mmp")
        run("debugfs", "-w", "-R", "set_super_value feature_incompat 0x13c2", self.image)
        self.refused("unknown", "incompatible features 0x1000")
        self.write(self.image.read_bytes().index(b"PMM\0") + 4, b"\1\0\0\0")
        self.refused("state", "MMP")

    def test_xfs_log_beside_unknown_features(self):
        self.make("mkfs.xfs -q", 300 * MIB)
        copy = self.while_mounted("xfs", "dirty-journal", "log")
        for field, value, reason in (("features_incompat", "0x10b", "features 0x100"), ("features_ro_compat", "0x8f", "0x80")):
            with self.subTest(field):
                for image, refusal, why in ((self.image, "unknown", reason), (copy, "dirty-journal", "log")):
                    changed = self.directory / "changed"
                    run("cp", "--sparse=always", image, changed)
                    run("xfs_db", "-x", "-c", "sb 0", "-c", f"write -d {field} {value}", changed)
                    self.refused(refusal, why, changed)

    def test_btrfs_log_tree_beside_other_checksums(self):
        self.make("mkfs.btrfs -q --csum xxhash", 128 * MIB)
        with Mounted(self.image, "btrfs") as directory:
            copy = dirtylib.with_log_tree(directory, self.copy_now)
        self.refused("dirty-journal", "log tree", copy)
        self.refused("unknown", "checksums")

    def test_a_partition_table_inside_a_partition(self):
        """Alone nobody's; beside a filesystem it is not clear which of them holds."""
        self.make("mkfs.ext4 -q")
        run("sfdisk", "-q", "--force", self.image, input="label: dos\n2048,4096\n")
        table = self.image.read_bytes()[:512]
        for type_, refusal in (("ext4", "state"), (None, "unknown")):
            with self.subTest(type_):
                whole = self.directory / "whole"
                with open(whole, "wb") as file:
                    file.truncate(128 * MIB)
                run("sfdisk", "-q", whole, input="label: gpt\n2048,131072\n")
                inner = self.image.read_bytes() if type_ else table
                self.write(MIB, inner, whole)
                found = self.dump(whole)
                self.assertEqual([(fs.refusal, fs.runs) for fs in found], [(refusal, [])], found)
                self.assertIn("partition table", found[0].reason)

    def test_min_bytes(self):
        self.make("mkfs.ext4 -q")
        with Mounted(self.image, "ext4") as directory:
            fill(directory, "chequered", 1, 8)
        all_runs = self.accepted()[0]
        long_runs = self.accepted(options=["--min-bytes=65536"])[0]
        self.assertEqual(long_runs.runs, [r for r in all_runs.runs if r[2] >= 65536])
        self.assertEqual((long_runs.free, all_runs.dropped), (all_runs.free, 0))
        self.assertEqual(long_runs.dropped, sum(r[2] for r in all_runs.runs if r[2] < 65536))


if __name__ == "__main__":
    dirtylib.main("mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "sfdisk", "losetup", "debugfs", "xfs_db", "fsfreeze")
