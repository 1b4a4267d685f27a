"""The story of scripts/quickstart as a test: trim in vain, migrate, power cycle, trim for real, nothing lost.

One guest carries all combinations of filesystem and bus, since booting is what costs time.
"""

from __future__ import annotations

from typing import Any

import bedpath

from vrtest import Disk, Guest, HostTestCase, Reply, built, main

MIB = 1 << 20
JUNK = 96 * MIB
# What other writes of the guest (journals, superblocks) may add to a disk between two looks at it.
DRIFT = 4 * MIB
DOMAIN = "story"

DONE, DONE_FOR_NOTHING = 0, 4

WRITE = f"""
set -e
for dir in /mnt/*; do
  i=0
  while [ $i -lt 16 ]; do
    dd if=/dev/urandom of=$dir/file-$i bs=9001 count=$((i * i))
    dd if=/dev/zero of=$dir/junk-$i bs=1M count={JUNK // 16 // MIB}
    i=$((i + 1))
  done
done
sync
rm /mnt/*/junk-*
sync
"""
MANIFEST = "sync; echo 3 >/proc/sys/vm/drop_caches; find /mnt -type f | sort | xargs sha256sum"


def disks() -> list[Disk]:
    return [
        Disk(f"{fs}-{short}", fs=fs, bus=bus, format="raw" if (fs == "xfs") == (bus == "scsi") else "qcow2")
        for bus, short in (("virtio", "blk"), ("scsi", "scsi"))
        for fs in ("ext4", "xfs", "btrfs")
    ] + [Disk("ext4-ide", fs="ext4", bus="ide", format="qcow2")]


class Story(HostTestCase):
    """The methods are one story and run in the order of their names; unittest stops at the first that fails."""

    before: dict[str, int]
    manifest: str

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(cls.host, DOMAIN, disks=disks(), agent=AGENT)
        cls.guest.start()
        cls.guest.run(WRITE, seconds=400)
        cls.manifest = cls.guest.run(MANIFEST, seconds=300).output

    def test_0_the_agent_answers(self) -> None:
        reply = self.reclaim.run("agent", "status", DOMAIN)
        log = self.guest.run("vr-agent log; dmesg | tail -n 5").output
        self.assertEqual(reply.status, DONE, f"{reply}\n--- in the guest\n{log}")

    def test_1_report_names_what_stands_in_the_way(self) -> None:
        reply = self.run_program(DONE, "report", DOMAIN)
        self.assertEqual(reply.json["schema_version"], 1)
        (domain,) = reply.json["domains"]
        self.assertEqual((domain["name"], domain["state"]), (DOMAIN, "running"))
        found = {disk["target"]: disk for disk in domain["disks"]}
        for disk in self.guest.disks:
            with self.subTest(disk=disk.name):
                shown = found[disk.target]
                self.assertIsNotNone(shown["reclaimable_bytes"], f"the agent was not asked: {reply}")
                self.assertEqual((shown["bus"], shown["format"]), (disk.bus, disk.format))
                self.assertEqual(shown["image"], str(disk.path))
                self.assertEqual(shown["capacity_bytes"], disk.size)
                self.assertAlmostEqual(shown["allocation_bytes"], disk.allocation(), delta=DRIFT)
                # An estimate, and a low one: what statfs does not show (XFS: 64 MiB of log) counts as used.
                self.assertGreaterEqual(shown["reclaimable_bytes"], 0 if disk.fs == "xfs" else 0.25 * JUNK)
                self.assertTrue(shown["blockers"], "nothing passes a discard on, and the report does not say so")
                self.assertEqual("machine-too-old" in shown["blockers"], disk.bus == "virtio")

    def test_2_trim_in_vain_says_so_and_why(self) -> None:
        before = self.allocations()
        reply = self.run_program(DONE_FOR_NOTHING, "trim", DOMAIN)
        filesystems = {one["mount_point"]: one for one in reply.json["domains"][0]["filesystems"]}
        for disk, shown in self.disks_of(reply):
            with self.subTest(disk=disk.name):
                filesystem = filesystems[disk.mount_point]
                # What the guest itself writes meanwhile may make an image grow.
                self.assertLessEqual(shown["freed_bytes"], 0)
                self.assertGreater(shown["freed_bytes"], -DRIFT)
                self.assertIn("discard-ignored", shown["reasons"])
                self.assertEqual("machine-too-old" in shown["reasons"], disk.bus == "virtio")
                if disk.bus != "virtio":
                    self.assertGreater(shown["trimmed_bytes"], JUNK // 2, "the guest believes that it trimmed")
                    self.assertEqual((filesystem["status"], filesystem["obstacle"]), ("done", None))
                else:
                    self.assertEqual(shown["trimmed_bytes"], 0)
                    self.assertEqual((filesystem["status"], filesystem["obstacle"]), ("skipped", "disk-not-supported"))
                self.assertAlmostEqual(disk.allocation(), before[disk.name], delta=DRIFT)

    def test_3_plan_changes_nothing_apply_changes_the_saved_definition_once(self) -> None:
        found = self.guest.saved_xml()
        live = self.guest.live_xml()
        self.run_program(DONE, "migrate", "plan", DOMAIN)
        self.assertEqual(self.guest.saved_xml(), found)
        self.run_program(DONE, "migrate", "apply", DOMAIN)
        migrated = self.guest.saved_xml()
        self.assertEqual(migrated.count("discard='unmap'"), len(self.guest.disks))
        self.assertIn("machine='pc-i440fx-4.0'", migrated)
        self.assertEqual(self.guest.live_xml(), live, "the running machine is not to be touched")
        self.run_program(DONE, "migrate", "apply", DOMAIN)
        self.assertEqual(self.guest.saved_xml(), migrated, "a second run is to change nothing")

    def test_4_after_a_power_cycle_trim_frees_what_was_deleted(self) -> None:
        self.guest.power_cycle()
        before = self.allocations()
        reply = self.run_program(DONE, "trim", DOMAIN)
        for disk, shown in self.disks_of(reply):
            with self.subTest(disk=disk.name):
                freed = before[disk.name] - disk.allocation()
                self.assertGreater(freed, 0.8 * JUNK)
                self.assertAlmostEqual(shown["freed_bytes"], freed, delta=DRIFT)
                self.assertGreater(shown["trimmed_bytes"], 0.8 * JUNK)

    def test_5_report_has_nothing_left_to_say(self) -> None:
        (domain,) = self.run_program(DONE, "report", DOMAIN).json["domains"]
        for disk in domain["disks"]:
            with self.subTest(disk=disk["target"]):
                self.assertEqual(disk["blockers"], [])
                self.assertLess(disk["reclaimable_bytes"], JUNK // 4)

    def test_6_every_file_is_as_before_and_images_and_filesystems_are_clean(self) -> None:
        self.assertEqual(self.guest.run(MANIFEST, seconds=300).output, self.manifest)
        self.guest.shutdown()
        for disk in self.guest.disks:
            with self.subTest(disk=disk.name):
                disk.check()

    # What the acts are made of.

    def run_program(self, status: int, *words: str) -> Reply:
        reply = self.reclaim.run(*words)
        self.assertEqual(reply.status, status, f"virt-reclaim {' '.join(words)}: {reply}")
        return reply

    def allocations(self) -> dict[str, int]:
        return {disk.name: disk.allocation() for disk in self.guest.disks}

    def disks_of(self, reply: Reply) -> list[tuple[Disk, dict[str, Any]]]:
        """Each disk of the guest beside what a trim's reply says of it; both must have the same disks."""
        (domain,) = reply.json["domains"]
        shown = {disk["target"]: disk for disk in domain["disks"]}
        self.assertEqual(sorted(shown), sorted(disk.target for disk in self.guest.disks))
        return [(disk, shown[disk.target]) for disk in self.guest.disks]


if __name__ == "__main__":
    bedpath.require_bed("mkfs.xfs", "mkfs.btrfs")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    main(one_story=True)
