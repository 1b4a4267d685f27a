"""What is trimmed in a guest, how much comes back, and what is said of the rest: a disk for each kind of filesystem and mount.

One guest carries all of them, since booting is what costs time. Last: a host that is killed in the middle, and the next run;
another guest that fills the storage meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

import bedpath

from vrtest import Disk, Guest, HostTestCase, built, main, wait_for
from vrtest.guest import NEW_MACHINE

MIB = 1 << 20
JUNK = 64 * MIB
# What filesystems write for themselves meanwhile.
SLACK = 8 * MIB
DONE, DONE_FOR_NOTHING = 0, 4
DOMAIN = "matrix"
# The link notices a host that has gone after 2 s of silence; then the piece under way has 0.4 s.
LEASE_SECONDS = 4.0
PAUSE_SECONDS = 3
LARGE_JUNK = 600 * MIB
FILL_LARGE = f"dd if=/dev/zero of=/mnt/ext4/junk bs=1M count={LARGE_JUNK // MIB}; sync; rm /mnt/ext4/junk; sync"
# Of another guest, meanwhile.
OTHERS = 128 * MIB

# Disk -> whether its junk comes back, and which reasons are given when not.
EXPECTED: dict[str, tuple[bool, list[str]]] = {
    "ext4": (True, []),
    "xfs": (True, []),
    "btrfs": (True, []),
    "lvm": (True, []),
    "twice": (True, []),
    "ro": (False, ["read-only"]),
    # Its junk lies in a filesystem in a file on it.
    "outer": (False, ["nothing-reclaimable"]),
    "full": (False, ["nothing-reclaimable"]),
}
# Of which the guest's kernel tells no map, or none that is of a disk.
NO_MAP = {"btrfs", "lvm"}
# Where no filesystem is trimmed of itself, and the agent's word for why.
SKIPPED = {"/mnt/ro": "read-only", "/mnt/inner": "loop"}
SIZES = {"ext4": 1024 * MIB, "full": 96 * MIB}

# busybox has no udev for LVM to wait for.
LAYERS = """
set -e
export DM_DISABLE_UDEV=1
for set in dm loop; do vr-modprobe $set; done
disk() { grep " /mnt/$1 " /proc/mounts | cut -d ' ' -f 1; }
mkdir -p /run/lvm /run/lock/lvm /etc/lvm
cat >/etc/lvm/lvm.conf <<END
devices { obtain_device_list_from_udev=0 external_device_info_source="none" use_devicesfile=0 }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
global { use_lvmpolld=0 }
backup { backup=0 archive=0 }
END
device=$(disk lvm)
umount /mnt/lvm
lvm vgcreate -q -ff -y group $device
lvm lvcreate -q -y -l 100%FREE -n data group
mkfs.ext4 -q -F /dev/mapper/group-data
mount -t ext4 /dev/mapper/group-data /mnt/lvm

mkdir -p /mnt/again /mnt/bound /mnt/inner
mount -t ext4 $(disk twice) /mnt/again
mount -o bind /mnt/twice /mnt/bound

truncate -s 128M /mnt/outer/file
mkfs.ext4 -q -F /mnt/outer/file
mount -t ext4 -o loop /mnt/outer/file /mnt/inner
"""
FILL = f"""
for name in ext4 xfs btrfs lvm twice ro inner; do dd if=/dev/zero of=/mnt/$name/junk bs=1M count={JUNK // MIB}; done
dd if=/dev/zero of=/mnt/full/junk bs=1M count={SIZES['full'] // MIB} && exit 1
sync
for name in ext4 xfs btrfs lvm twice ro inner; do rm /mnt/$name/junk; done
sync
mount -o remount,ro /mnt/ro
# ext4 keeps a fiftieth even from root.
[ "$(stat -f -c %f /mnt/full)" -lt "$(($(stat -f -c %b /mnt/full) / 20))" ]
"""


class Matrix(HostTestCase):
    """The methods are one story and run in the order of their names."""

    domain: dict[str, Any]
    # Of the last trim, and what each image had grown by since the one before: btrfs writes its trees anew with each commit, and
    # the old ones come free with the junk.
    freed: dict[str, int]
    grown: dict[str, int]
    empty: dict[str, int]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(
            cls.host, DOMAIN, machine=NEW_MACHINE, agent=AGENT,
            guest_options=tuple(word for name in TOOLS for word in ("--add", f"usr/sbin/{name}={which(name)}")),
            disks=[
                Disk(name, fs=name if name in ("xfs", "btrfs") else "ext4", discard="unmap", size=SIZES.get(name, 512 * MIB))
                for name in EXPECTED
            ],
        )
        cls.guest.start()
        cls.guest.run(LAYERS, seconds=300)
        cls.guest.run("sync")
        cls.domain, cls.freed, cls.grown, cls.empty = {}, {}, {}, cls.allocations()
        cls.guest.run(FILL, seconds=300)

    @classmethod
    def allocations(cls) -> dict[str, int]:
        return {disk.name: disk.allocation() for disk in cls.guest.disks}

    def trim(self, *words: str, status: int = DONE) -> dict[str, Any]:
        before = self.allocations()
        reply = self.reclaim.run("trim", DOMAIN, *words, seconds=300)
        self.assertEqual(reply.status, status, str(reply))
        (domain,) = reply.json["domains"]
        after = self.allocations()
        self.freed.update({name: before[name] - after[name] for name in after})
        self.grown.update({name: before[name] - self.empty[name] for name in after})
        self.empty.update(after)
        return domain

    def shown(self, domain: dict[str, Any], name: str) -> dict[str, Any]:
        (disk,) = (disk for disk in domain["disks"] if disk["target"] == self.guest.disk(name).target)
        return disk

    def expect_reasons(self, domain: dict[str, Any], name: str, reasons: list[str]) -> None:
        shown = self.shown(domain, name)
        # Of a disk that had nothing to give some KiB may come back: then there is nothing to explain.
        self.assertEqual(shown["reasons"], [] if shown["freed_bytes"] > 0 else reasons, str(shown))

    def test_1_the_right_bytes_come_back_of_each_disk(self) -> None:
        reply = self.reclaim.run("report", "--exact", DOMAIN)
        self.assertEqual(reply.status, DONE, str(reply))
        (expected,) = reply.json["domains"]
        self.domain.update(self.trim("--pause", "0"))
        for name, (comes_back, _) in EXPECTED.items():
            with self.subTest(disk=name):
                freed = self.freed[name]
                promised = self.shown(expected, name)
                self.assertEqual(promised["reclaimable_from"], "statfs" if name in NO_MAP else "free-map")
                if name not in NO_MAP and name != "ro":
                    print(f"{name}: {promised['reclaimable_bytes']} bytes promised, {freed} freed")
                    self.assertLess(abs(promised["reclaimable_bytes"] - freed), 2 * MIB)
                self.assertEqual(self.shown(self.domain, name)["freed_bytes"], freed, "measured in the same way")
                if comes_back:
                    self.assertGreater(freed, JUNK - SLACK)
                    self.assertLess(freed, self.grown[name] + SLACK)
                    if name != "btrfs":
                        self.assertLess(freed, JUNK + SLACK)
                else:
                    self.assertLess(abs(freed), SLACK)
        self.assertEqual(self.domain["freed_bytes"], sum(self.freed.values()))

    def test_2_the_right_reasons_are_given(self) -> None:
        for name, (_, reasons) in EXPECTED.items():
            with self.subTest(disk=name):
                self.expect_reasons(self.domain, name, reasons)
                self.assertIsNotNone(self.shown(self.domain, name)["trimmed_bytes"])

    def test_3_each_filesystem_is_trimmed_once_or_skipped_with_its_obstacle(self) -> None:
        filesystems = {one["mount_point"]: one for one in self.domain["filesystems"]}
        self.assertEqual(len(filesystems), len(self.domain["filesystems"]))
        self.assertEqual(set(filesystems), {f"/mnt/{name}" for name in EXPECTED} | {"/mnt/inner"})
        for mount_point, one in filesystems.items():
            with self.subTest(mount_point=mount_point):
                obstacle = SKIPPED.get(mount_point)
                self.assertEqual(one["status"], "skipped" if obstacle else "done", str(one))
                self.assertEqual(one["obstacle"], obstacle, str(one))

    def test_4_a_second_run_has_nothing_to_do_and_is_no_alarm(self) -> None:
        writable = [name for name in EXPECTED if name != "ro"]
        domain = self.trim("--pause", "0", *(word for name in writable for word in ("--mount-point", f"/mnt/{name}")))
        for name in writable:
            with self.subTest(disk=name):
                self.expect_reasons(domain, name, ["nothing-reclaimable"])
                self.assertLess(abs(self.freed[name]), SLACK + max(self.grown[name], 0))
        trimmed = {one["mount_point"]: one["trimmed_bytes"] for one in domain["filesystems"]}
        # ext4 remembers; XFS says all of its free space each time, btrfs what is free in its chunks.
        self.assertLess(trimmed["/mnt/lvm"], SLACK)
        self.assertGreater(trimmed["/mnt/xfs"], 256 * MIB)
        self.assertGreater(trimmed["/mnt/btrfs"], 0)

    def test_5_what_a_read_only_filesystem_keeps_is_one(self) -> None:
        # 64 MiB that the guest calls free, and that are not to be had.
        domain = self.trim("--pause", "0", status=DONE_FOR_NOTHING)
        for name in EXPECTED:
            with self.subTest(disk=name):
                self.expect_reasons(domain, name, ["read-only"] if name == "ro" else ["nothing-reclaimable"])

    def test_6_a_filesystem_of_two_names_is_trimmed_once(self) -> None:
        domain = self.trim("--mount-point", "/mnt/again", "--mount-point", "/mnt/twice", "--mount-point", "/mnt/bound")
        (one,) = domain["filesystems"]
        self.assertEqual(one["status"], "done")

    def test_7_a_filesystem_in_a_file_comes_back_by_two_trims(self) -> None:
        domain = self.trim("--mount-point", "/mnt/inner", "--pause", "0")
        (one,) = domain["filesystems"]
        self.assertEqual(one["status"], "done", str(one))
        self.assertGreater(one["trimmed_bytes"], JUNK - SLACK)
        self.assertLess(self.freed["outer"], SLACK)
        self.guest.run("sync")
        self.trim("--mount-point", "/mnt/outer", "--pause", "0")
        self.assertGreater(self.freed["outer"], JUNK - SLACK)

    def test_8_the_guest_of_a_killed_host_stops_at_its_piece_and_the_next_run_goes_on(self) -> None:
        disk = self.guest.disk("ext4")
        empty = disk.allocation()
        self.guest.run(FILL_LARGE, seconds=300)
        full = disk.allocation()
        self.assertGreater(full - empty, LARGE_JUNK - SLACK)
        # Pieces of 128 MiB, so that there are five and more with a pause after each.
        program = self.reclaim.start(
            "trim", DOMAIN, "--mount-point", "/mnt/ext4", "--chunk", "128MiB", "--pause", f"{PAUSE_SECONDS}s"
        )
        try:
            wait_for("the first bytes", lambda: disk.allocation() < full - SLACK, seconds=60, pause=0.02)
        finally:
            program.kill()
            program.communicate()
        killed = time.monotonic()
        wait_for("the end of the trim in the guest", lambda: not self.guest.is_trimming(), seconds=30)
        seconds = time.monotonic() - killed
        print(f"the guest of a killed host stopped after {seconds:.1f} s")
        self.assertLess(seconds, LEASE_SECONDS)
        stopped = disk.allocation()
        # A piece is at most a block group, and a second one may have been under way.
        self.assertGreater(stopped - empty, LARGE_JUNK - 2 * 128 * MIB - SLACK, "it went on after its piece")
        time.sleep(2 * PAUSE_SECONDS)
        self.assertEqual(disk.allocation(), stopped, "somebody still trims")

        self.trim("--mount-point", "/mnt/ext4")
        self.assertGreater(self.freed["ext4"], stopped - empty - SLACK)
        self.assertLess(disk.allocation() - empty, SLACK)

    def test_9_what_others_write_to_the_same_storage_is_not_counted(self) -> None:
        disk = self.guest.disk("ext4")
        self.guest.run(FILL_LARGE, seconds=300)
        full = disk.allocation()
        program = self.reclaim.start("trim", DOMAIN, "--mount-point", "/mnt/ext4", "--chunk", "128MiB", "--pause", "1s")
        try:
            wait_for("the first bytes", lambda: disk.allocation() < full - SLACK, seconds=60, pause=0.02)
            with open(disk.path.with_name("others.raw"), "wb") as image:
                image.write(os.urandom(OTHERS))
                image.flush()
                os.fsync(image.fileno())
            self.assertIsNone(program.poll(), "the trim was over too soon")
            output, errors = program.communicate(timeout=300)
        finally:
            if program.poll() is None:
                program.kill()
                program.communicate()
        self.assertEqual(program.returncode, DONE, errors)
        (domain,) = json.loads(output)["domains"]
        freed = full - disk.allocation()
        self.assertGreater(freed, LARGE_JUNK - SLACK)
        self.assertLess(abs(self.shown(domain, "ext4")["freed_bytes"] - freed), MIB)
        self.assertLess(abs(domain["freed_bytes"] - freed), SLACK)


TOOLS = ("lvm", "mkfs.ext4")


def which(name: str) -> str:
    return shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") or ""


if __name__ == "__main__":
    bedpath.require_bed("mkfs.xfs", "mkfs.btrfs", *TOOLS)
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    main(one_story=True)
