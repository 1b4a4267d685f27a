"""Disks on SATA, as installers gave them to guests without virtio drivers: they pass discards on where they are, so they stay there,
and so does the old machine. With the kernel of real machines, since the cloud kernel has no AHCI."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import bedpath

from vrtest import Disk, Guest, HostTestCase, Reply, built, main, skip_all

MIB = 1 << 20
JUNK = 64 * MIB
# What else the guest writes between two looks at a disk.
DRIFT = 4 * MIB
DONE, DONE_FOR_NOTHING = 0, 4
DOMAIN = "sata"
# Its virtio-blk would not pass a discard.
MACHINE = "pc-q35-3.1"
FETCH_KERNEL = Path(__file__).resolve().parents[2] / "scripts" / "fetch-kernel"

WRITE = "for dir in /mnt/*; do dd if=/dev/urandom of=$dir/precious bs=1000000 count=1; done"
FILL = f"""
set -e
for dir in /mnt/*; do dd if=/dev/zero of=$dir/junk bs=1M count={JUNK // MIB}; done
sync
rm /mnt/*/junk
sync
"""
MANIFEST = "sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum /mnt/*/precious"


class Sata(HostTestCase):
    """The methods are one story and run in the order of their names."""

    manifest: str

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(
            cls.host, DOMAIN, machine=MACHINE, agent=AGENT, guest_options=("--kernel-root", KERNEL, "--module", "ahci"),
            disks=[
                Disk("ext4", bus="sata", size=512 * MIB), Disk("xfs", fs="xfs", bus="sata", format="qcow2", size=512 * MIB),
                Disk("btrfs", fs="btrfs", bus="sata", size=512 * MIB),
            ],
        )
        cls.guest.start()
        cls.guest.run(WRITE)
        cls.guest.run(FILL, seconds=300)
        cls.manifest = cls.guest.run(MANIFEST).output

    def run_program(self, status: int, *words: str, seconds: float = 120) -> Reply:
        reply = self.reclaim.run(*words, DOMAIN, seconds=seconds)
        self.assertEqual(reply.status, status, f"virt-reclaim {' '.join(words)}: {reply}")
        return reply

    def allocations(self) -> dict[str, int]:
        return {disk.target: disk.allocation() for disk in self.guest.disks}

    def test_1_the_guest_has_ahci_and_nothing_else(self) -> None:
        drivers = self.guest.run("for d in /sys/block/sd*; do basename $(readlink $(dirname $(dirname $(dirname $(dirname "
                                 "$(readlink -f $d/device)))))/driver); done; ls /sys/block | grep -c ^vd || true").output
        self.assertEqual(drivers.split(), ["ahci"] * len(self.guest.disks) + ["0"])

    def test_2_as_found_the_host_gets_nothing(self) -> None:
        before = self.allocations()
        (domain,) = self.run_program(DONE_FOR_NOTHING, "trim").json["domains"]
        for disk in domain["disks"]:
            with self.subTest(disk=disk["target"]):
                self.assertGreater(disk["trimmed_bytes"], JUNK // 2, "the guest believes that it trimmed")
                self.assertEqual(disk["reasons"], ["discard-ignored"])
        for target, allocation in self.allocations().items():
            self.assertAlmostEqual(allocation, before[target], delta=DRIFT)

    def test_3_migrated_where_it_is(self) -> None:
        found = self.guest.saved_xml()
        self.run_program(DONE, "migrate", "apply", "--power-cycle=shutdown", seconds=300)
        self.guest.was_power_cycled()
        migrated = self.guest.live_xml()
        self.assertEqual(re.findall("<target dev='sd.' bus='(.*?)'", migrated), ["sata"] * len(self.guest.disks))
        self.assertIn(f"machine='{MACHINE}'", migrated)
        self.assertEqual(self.guest.saved_xml().replace(" discard='unmap'", ""), found, "nothing but discard changes")

    def test_4_what_was_deleted_comes_back(self) -> None:
        # What the proof of the migration has trimmed is gone already, and not counted here.
        self.guest.run(FILL, seconds=300)
        before = self.allocations()
        (domain,) = self.run_program(DONE, "trim").json["domains"]
        after = self.allocations()
        for disk in domain["disks"]:
            with self.subTest(disk=disk["target"]):
                freed = before[disk["target"]] - after[disk["target"]]
                self.assertGreater(freed, 0.8 * JUNK)
                self.assertAlmostEqual(disk["freed_bytes"], freed, delta=DRIFT)
                self.assertEqual(disk["reasons"], [])

    def test_5_nothing_is_lost(self) -> None:
        self.assertEqual(self.guest.run(MANIFEST).output, self.manifest)
        self.guest.shutdown()
        for disk in self.guest.disks:
            with self.subTest(disk=disk.name):
                disk.check()


if __name__ == "__main__":
    bedpath.require_bed("mkfs.xfs", "mkfs.btrfs", "depmod", "dpkg-deb")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    FETCHED = subprocess.run([FETCH_KERNEL], stdout=subprocess.PIPE, text=True, check=False)
    if FETCHED.returncode == 77:
        skip_all("the kernel of real machines cannot be fetched")
    FETCHED.check_returncode()
    KERNEL = FETCHED.stdout.strip()
    main(one_story=True)
