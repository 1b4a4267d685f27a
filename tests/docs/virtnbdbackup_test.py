#!/usr/bin/env python3
"""What docs/recipes.md says of virtnbdbackup: its commands, as they stand there, on a guest that runs under a libvirtd of our own; what an incremental
backup costs without and with a trim before it; what comes back is what the guest had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

import bedpath  # noqa: E402
from doclib import commands  # noqa: E402

from vrtest import DaemonTestCase, Disk, Guest, allocation, built, main  # noqa: E402
from vrtest.guest import MIB, NEW_MACHINE  # noqa: E402

PAGE = "docs/recipes.md"
BACKUP = Path("srv/backup/nbd/web")
KEPT, JUNK, SMALL = 16 * MIB, 48 * MIB, MIB
# A /srv of ours, and our libvirtd where every program looks for the system's.
PLACES = 'mount -t tmpfs tmpfs /run && mkdir /run/libvirt && mount --bind "$1" /run/libvirt && mount --bind "$2" /srv && exec bash -euo pipefail -c "$3"'


def lines() -> list[str]:
    """Of the recipe: its commands, but for the one that writes a policy, which commands_test.py runs."""
    text = (Path(__file__).resolve().parents[2] / PAGE).read_text()
    recipe = text[text.index("\n## virtnbdbackup\n") :]
    found = [command.text for command in commands(PAGE, recipe[: recipe.index("\n## ", 1)])]
    ours = (["virt-reclaim", "trim"], ["virt-reclaim", "punch"])
    return [line for line in found if line.split()[0].startswith("virtnbd") or line.split()[:2] in ours]


class Recipe(DaemonTestCase):
    """The methods are one story and run in the order of their names."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.trim, cls.full, cls.incremental, cls.restore, cls.punch = lines()
        cls.srv = cls.space.path / "srv"
        (cls.srv / "backup").mkdir(parents=True)
        cls.guest = Guest(
            cls.host, "web", machine=NEW_MACHINE, agent=AGENT, disks=[Disk("data", format="qcow2", discard="unmap", size=256 * MIB)]
        )
        cls.guest.start()
        cls.guest.run(f"dd if=/dev/urandom of=/mnt/data/kept bs=1M count={KEPT // MIB} 2>&1; sync")

    def line(self, text: str) -> str:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", PLACES, "sh", self.host.directory / "sockets", self.srv, text],
            env={**self.host.environment(), "PATH": f"{PROGRAM.parent}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                 "HOME": str(self.space.path), "VIRT_RECLAIM_FREEMAP": str(WORKER)},
            cwd=self.space.path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=300, check=False,
        )
        self.assertEqual(done.returncode, 0, f"{text}\n{done.stdout}")
        return done.stdout

    def stored(self) -> int:
        """Bytes of all backups of the disk so far; kernel and initramfs are beside them."""
        return sum(path.stat().st_size for path in (self.space.path / BACKUP).glob("vda.*.data"))

    def next_backup(self, text: str) -> int:
        before = self.stored()
        self.line(text)
        return self.stored() - before

    def litter(self) -> None:
        """Written, so that it is in a backup, and deleted."""
        self.guest.run(f"dd if=/dev/urandom of=/mnt/data/junk bs=1M count={JUNK // MIB} 2>&1; sync; rm /mnt/data/junk; sync")

    def test_1_a_full_backup_right_after_a_trim(self) -> None:
        self.litter()
        before = self.guest.disk("data").allocation()
        self.line(self.trim)
        self.assertGreater(before - self.guest.disk("data").allocation(), 0.8 * JUNK)
        size = self.next_backup(self.full)
        print(f"full: {size >> 20} MiB")
        self.assertGreater(size, KEPT)
        self.assertLess(size, KEPT + JUNK // 2)

    def test_2_an_incremental_one_has_what_was_written(self) -> None:
        self.guest.run(f"dd if=/dev/urandom of=/mnt/data/small bs=1M count={SMALL // MIB} 2>&1; sync")
        size = self.next_backup(self.incremental)
        print(f"incremental: {size >> 10} KiB")
        self.assertGreater(size, SMALL)
        self.assertLess(size, 8 * MIB)

    def test_3_a_trim_between_is_a_change(self) -> None:
        self.litter()
        self.next_backup(self.incremental)
        self.line(self.trim)
        size = self.next_backup(self.incremental)
        print(f"incremental after a trim of {JUNK >> 20} MiB: {size >> 20} MiB")
        self.assertGreater(size, 0.8 * JUNK)

    def test_4_the_domain_is_named(self) -> None:
        self.assertIn("checkpoints", self.line("virt-reclaim explain web || true"))

    def test_5_what_is_restored_is_what_the_guest_had(self) -> None:
        # It writes no more: else its last words would be in no backup.
        self.guest.run("mount -o remount,ro /mnt/data")
        self.next_backup(self.incremental)
        self.guest.shutdown()
        self.line(self.restore)
        (restored,) = (path for path in (self.srv / "restored").rglob("*") if path.suffix == ".qcow2")
        image = self.guest.disk("data").path
        occupied = allocation(restored)
        self.line(self.punch)
        print(f"restored: {occupied >> 20} MiB, {allocation(restored) >> 20} MiB when punched")
        # The trim between two backups came back as zeroes.
        self.assertGreater(occupied - allocation(restored), 0.8 * JUNK)
        compared = subprocess.run(["qemu-img", "compare", image, restored], capture_output=True, text=True, check=False)
        self.assertEqual(compared.returncode, 0, compared.stdout + compared.stderr)
        self.guest.disk("data").check()

    def test_6_sparsify_leaves_the_chain_alone(self) -> None:
        refused = self.reclaim.run("sparsify", "web")
        self.assertEqual(refused.status, 5, str(refused))
        self.assertEqual(refused.json["targets"][0]["reasons"], ["persistent-bitmaps"], str(refused))


if __name__ == "__main__":
    bedpath.require_bed("libvirtd", "unshare", "virtnbdbackup", "virtnbdrestore")
    PROGRAM, AGENT, WORKER = built("virt-reclaim", "virt-reclaim-agent", "virt-reclaim-freemap")
    main(one_story=True)
