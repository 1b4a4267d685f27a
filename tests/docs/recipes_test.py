#!/usr/bin/env python3
"""What docs/recipes.md says of borg, restic, snapshots and btrfs, besides that its commands work (commands_test.py)."""

from __future__ import annotations

import time
import unittest
from pathlib import Path

from sandbox import BACKUP, IMAGES, MIB, Sandbox, require

from vrtest import Workspace, main

IMAGE = IMAGES / "db.raw"
SYNC = f"virt-reclaim sync {IMAGE} "


def allocation(path: Path) -> int:
    return path.stat().st_blocks * 512


class Recipes(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.space = Workspace()
        cls.addClassCleanup(cls.space.close)
        cls.sandbox = Sandbox(cls.space)

    def setUp(self) -> None:
        self.directory = self.sandbox.reset(self.id())

    def run_all(self, *lines: str) -> str:
        output = ""
        for line in lines:
            done = self.sandbox.run(line, self.directory)
            self.assertEqual(done.returncode, 0, f"{line}\n{done.stdout}")
            output = done.stdout
        return output

    def test_borg(self) -> None:
        """It passes over a copy that `sync` left alone; after a punch on ext4 it reads it again, unless it looks at mtime."""
        copy = Path("/srv/vms/db.raw")

        def backup(name: str, *options: str) -> str:
            # It never trusts the youngest file of a backup.
            time.sleep(1.1)
            Path("/srv/vms/youngest").touch()
            words = f"borg create --list --sparse --chunker-params=fixed,4194304 {' '.join(options)} /srv/borg::{name} /srv/vms"
            return next(line[0] for line in self.run_all(words).splitlines() if line.endswith("db.raw"))

        self.run_all("mkdir /srv/vms", "borg init --encryption=repokey /srv/borg", SYNC + str(copy))
        self.assertEqual(backup("1"), "A")
        self.run_all(SYNC + str(copy))
        self.assertEqual(backup("2"), "U")
        with open(copy, "r+b") as file:
            file.seek(50 * MIB)
            file.write(bytes(2 * MIB))
        by_mtime = "--files-cache=mtime,size,inode"
        self.assertEqual([backup("3", by_mtime), backup("4", by_mtime)], ["M", "U"])
        before = allocation(copy)
        self.run_all(f"virt-reclaim punch {copy}")
        self.assertEqual(before - allocation(copy), 2 * MIB)
        self.assertEqual([backup("5", by_mtime), backup("6")], ["U", "M"])
        self.run_all("mkdir /srv/out && cd /srv/out && borg extract --sparse /srv/borg::6", "virt-reclaim punch -r /srv/out")
        self.assertLessEqual(allocation(Path("/srv/out/srv/vms/db.raw")), allocation(copy) + MIB)
        self.run_all(f"cmp /srv/out/srv/vms/db.raw {copy}")

    def test_restic(self) -> None:
        """A changed ctime alone makes it read, and not with --ignore-ctime; what it restores has no holes until it is punched."""
        copy = Path("/srv/vms/db.raw")
        restored = Path("/srv/out/srv/vms/db.raw")

        def backup(*options: str) -> str:
            output = self.run_all(f"restic -r /srv/restic backup -v -v {' '.join(options)} /srv/vms")
            return next(line.split()[0] for line in output.splitlines() if "/db.raw" in line)

        self.run_all("mkdir /srv/vms", "restic -r /srv/restic init", SYNC + str(copy))
        self.assertEqual([backup(), backup()], ["new", "unchanged"])
        copy.chmod(0o600)
        self.assertEqual(backup(), "modified")
        copy.chmod(0o644)
        self.assertEqual(backup("--ignore-ctime"), "unchanged")
        self.run_all("restic -r /srv/restic restore latest --target /srv/out")
        self.assertEqual(allocation(restored), restored.stat().st_size)
        self.run_all("virt-reclaim punch -r /srv/out", f"cmp {restored} {copy}")
        self.assertLessEqual(allocation(restored), allocation(copy) + MIB)

    def test_snapshots(self) -> None:
        """After a snapshot the next `sync` costs what changed, and no more."""
        copy = BACKUP / "vms" / "db.raw"
        create = "snapper -c vms create --description nightly"
        self.run_all(f"snapper -c vms create-config {BACKUP}/vms", SYNC + str(copy), create)
        with open(IMAGE, "r+b") as file:
            file.seek(2 * MIB)
            file.write(b"x" * MIB)
        output = self.run_all(SYNC + str(copy), f"cmp {IMAGE} {copy}", f"sync && btrfs filesystem du --raw {copy}")
        exclusive = int(output.splitlines()[-1].split()[1])
        self.assertGreaterEqual(exclusive, MIB)
        self.assertLessEqual(exclusive, 2 * MIB)

    def test_fat_copy_on_btrfs(self) -> None:
        """`punch` frees what is zero; `sparsify`, which takes it for preallocated before, makes more holes; another `punch` gets btrfs to let go."""
        copy = BACKUP / "old" / "db.raw"

        def used() -> int:
            return int(self.run_all(f"sync && df --output=used --block-size=1 {BACKUP}").split()[-1])

        before = used()
        refused = self.sandbox.run(f"virt-reclaim sparsify --no-libvirt {copy}", self.directory)
        self.assertEqual((refused.returncode, "thick-image" in refused.stdout), (5, True), refused.stdout)
        mtime = copy.stat().st_mtime_ns
        self.run_all(f"virt-reclaim punch {copy}")
        self.assertEqual(copy.stat().st_mtime_ns, mtime)
        self.assertGreater(before - used(), 30 * MIB)
        self.sandbox.run(f"virt-reclaim sparsify --no-libvirt {copy}", self.directory)
        self.run_all(f"virt-reclaim punch {copy}")
        self.assertGreater(before - used(), 54 * MIB)
        self.run_all(f"e2fsck -fn {copy}")


if __name__ == "__main__":
    require("virsh", "qemu-img", "borg", "restic", "snapper", "btrfs", "e2fsck")
    main()
