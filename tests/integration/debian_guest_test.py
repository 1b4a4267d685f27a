"""A real Debian: grub, initramfs-tools, systemd and udev between us and the disk. What a busybox guest cannot get wrong
goes wrong here.
"""

from __future__ import annotations

import time
import unittest
from xml.etree import ElementTree

import bedpath

from vrtest import (
    DebianGuest, EmbedHost, Reply, TimedOut, VirtReclaim, Workspace, agent_path, host_program_path, main, skip_all, wait_for,
)
from vrtest.guest import MIB

DONE, FAILED, DONE_FOR_NOTHING, REFUSED = 0, 1, 4, 5
JUNK = 96 * MIB
# Journals, superblocks, what a booting Debian writes.
DRIFT = 16 * MIB
# Between a shell on the console and the agent's first answer.
AGENT_SECONDS = 60.0
# The initramfs waits 30 s for a root before it gives up.
NO_ROOT_SECONDS = 150.0

WRITE = f"""
set -e
mkdir /srv/files
for i in $(seq 16); do
  head -c $((i * i * 9001)) /dev/urandom >/srv/files/file-$i
  head -c {JUNK // 16} /dev/urandom >/srv/junk-$i
done
sync
rm /srv/junk-*
sync
"""
MANIFEST = "sync; echo 3 >/proc/sys/vm/drop_caches; find /srv /boot /usr/bin /usr/sbin -xdev -type f | sort | xargs sha256sum"

# Made by the guest's mkinitramfs when its disk was made: here, on an emulated CPU, that takes minutes.
INSTALL_INITRAMFS = "cp /usr/lib/test-initrds/{} /boot/initrd.img-$(uname -r) && sync"

# What --fix-guest may change. Of grub.cfg what the kernel is told: the rest depends on where update-grub is run.
CONFIG = """
cat /etc/fstab /etc/default/grub /etc/initramfs-tools/modules /etc/initramfs-tools/conf.d/*
grep -E '^[[:space:]]+linux[[:space:]]' /boot/grub/grub.cfg
"""


def on_virtio_scsi(xml: str) -> str:
    """The definition with its one virtio-blk disk moved, as an administrator would write it."""
    domain = ElementTree.fromstring(xml)
    devices = domain.find("devices")
    assert devices is not None
    disk = next(disk for disk in devices.iter("disk") if disk.find("target[@bus='virtio']") is not None)
    disk.find("target").attrib.update(dev="sda", bus="scsi")
    # Where it was on the PCI bus means nothing on the new one.
    disk.remove(disk.find("address"))
    ElementTree.SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    return ElementTree.tostring(domain, encoding="unicode")


class DebianTest(unittest.TestCase):
    """The methods of each class are one story and run in the order of their names."""

    name = ""
    options: dict[str, object] = {}
    guest: DebianGuest

    @classmethod
    def setUpClass(cls) -> None:
        cls.space = Workspace()
        cls.addClassCleanup(cls.space.close)
        cls.host = EmbedHost(cls.space.path)
        cls.reclaim = VirtReclaim(PROGRAM, cls.host)
        cls.guest = DebianGuest(cls.host, cls.name, agent=AGENT, **cls.options)

    def run_program(self, status: int, *words: str) -> Reply:
        reply = self.reclaim.run(*words)
        self.assertEqual(reply.status, status, f"virt-reclaim {' '.join(words)}: {reply}")
        return reply

    def wait_for_agent(self) -> None:
        begin = time.monotonic()
        try:
            wait_for("the agent", lambda: self.reclaim.run("agent", "status", self.name).status == DONE, seconds=AGENT_SECONDS)
        except TimedOut:
            self.fail(f"{self.reclaim.run('agent', 'status', self.name)}\n--- in the guest\n{self.guest.agent_log()}")
        print(f"the agent answers {time.monotonic() - begin:.1f} s after the shell", flush=True)

    def start(self) -> None:
        begin = time.monotonic()
        self.guest.start()
        print(f"a shell after {time.monotonic() - begin:.1f} s", flush=True)
        self.wait_for_agent()

    def shut_down(self) -> None:
        begin = time.monotonic()
        self.guest.shutdown()
        print(f"off after {time.monotonic() - begin:.1f} s", flush=True)


class Migration(DebianTest):
    """Devices named by path and a resume= are no hindrance as long as the bus stays."""

    name = "web"
    options = {"by_path": True, "resume": True}
    manifest: str

    def test_0_it_boots_from_its_own_disk(self) -> None:
        self.start()
        self.assertIn(" root=/dev/vda1 ", self.guest.run("cat /proc/cmdline").output)
        self.assertIn(" resume=/dev/vda2 ", self.guest.run("cat /proc/cmdline").output)
        self.assertEqual(self.guest.run("findmnt -no SOURCE /").output.strip(), "/dev/vda1")
        self.assertIn("/dev/vda2", self.guest.run("cat /proc/swaps").output)
        self.assertEqual(self.guest.run("cat /proc/1/comm").output.strip(), "systemd")
        # 'degraded' would be a status of its own.
        print(self.guest.run("systemctl is-system-running --wait; systemd-analyze").output, flush=True)
        self.assertEqual(self.guest.run("systemctl --failed --plain --no-legend").output, "")

    def test_1_udev_started_the_agent(self) -> None:
        shown = self.guest.run("systemctl show -p ActiveState,SubState,FragmentPath virt-reclaim-agent.service").output
        self.assertIn("SubState=running", shown)
        self.assertIn("FragmentPath=/lib/systemd/system/virt-reclaim-agent.service", shown.replace("=/usr/lib", "=/lib"))

    def test_2_its_grub_cfg_is_what_update_grub_makes(self) -> None:
        begin = time.monotonic()
        kernel_lines = "grep -E '^[[:space:]]+(linux|initrd|search)' /boot/grub/grub.cfg"
        before = self.guest.run(kernel_lines).output
        self.guest.run("update-grub", seconds=200)
        print(f"update-grub: {time.monotonic() - begin:.1f} s", flush=True)
        self.assertEqual(self.guest.run(kernel_lines).output, before)

    def test_3_report_and_trim_in_vain(self) -> None:
        self.guest.run(WRITE, seconds=300)
        type(self).manifest = self.guest.run(MANIFEST, seconds=300).output
        (domain,) = self.run_program(DONE, "report", self.name).json["domains"]
        (disk,) = domain["disks"]
        self.assertEqual((disk["target"], disk["bus"]), ("vda", "virtio"))
        self.assertIn("machine-too-old", disk["blockers"])
        self.assertAlmostEqual(disk["allocation_bytes"], self.guest.root.allocation(), delta=DRIFT)
        # Not how much: the swap has no filesystem, so all of it counts as in use, which is more than the junk.
        self.assertIsNotNone(disk["reclaimable_bytes"], "the agent was not asked")
        before = self.guest.root.allocation()
        self.run_program(DONE_FOR_NOTHING, "trim", self.name)
        self.assertAlmostEqual(self.guest.root.allocation(), before, delta=DRIFT)

    def test_4_migrated_and_power_cycled_it_frees(self) -> None:
        self.run_program(DONE, "migrate", "apply", self.name)
        self.assertIn("discard='unmap'", self.guest.saved_xml())
        self.shut_down()
        self.start()
        before = self.guest.root.allocation()
        (domain,) = self.run_program(DONE, "trim", self.name).json["domains"]
        (disk,) = domain["disks"]
        freed = before - self.guest.root.allocation()
        print(f"freed {freed / MIB:.0f} MiB", flush=True)
        self.assertGreater(freed, 0.8 * JUNK)
        self.assertAlmostEqual(disk["freed_bytes"], freed, delta=DRIFT)

    def test_5_nothing_is_lost(self) -> None:
        self.assertEqual(self.guest.run(MANIFEST, seconds=300).output, self.manifest)
        self.shut_down()
        self.guest.root.check()


class BusChange(DebianTest):
    """An initramfs with the drivers of yesterday's hardware: what a change to virtio-scsi costs who did not look before."""

    name = "bus"
    options = {"initramfs": "virtio-blk-only"}
    on_blk: str
    on_scsi: str

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.on_blk = cls.guest.saved_xml()
        cls.on_scsi = on_virtio_scsi(cls.on_blk)

    def test_0_unprepared_it_finds_no_root(self) -> None:
        self.host.define(self.on_scsi)
        self.guest.start(wait=False)
        begin = time.monotonic()
        self.guest.wait_for_console("(initramfs)", seconds=NO_ROOT_SECONDS)
        print(f"the initramfs gave up after {time.monotonic() - begin:.1f} s", flush=True)
        self.assertIn("does not exist.  Dropping to a shell!", self.guest.console_text())
        with self.assertRaises(TimedOut):
            self.guest.wait_until_up(5)
        self.assertNotEqual(self.reclaim.run("agent", "status", self.name).status, DONE)
        self.guest.destroy()

    def test_1_back_on_virtio_blk_it_is_as_before(self) -> None:
        self.host.define(self.on_blk)
        self.start()
        self.assertIn(" root=UUID=", self.guest.run("cat /proc/cmdline").output)
        before = self.guest.run("lsinitramfs /boot/initrd.img-$(uname -r)").output
        self.assertIn("virtio_blk.ko", before)
        self.assertNotIn("virtio_scsi.ko", before)

    def test_2_prepared_it_boots_from_virtio_scsi(self) -> None:
        self.guest.run(INSTALL_INITRAMFS.format("prepared"))
        self.assertIn("virtio_scsi.ko", self.guest.run("lsinitramfs /boot/initrd.img-$(uname -r)").output)
        self.shut_down()
        self.host.define(self.on_scsi)
        self.start()
        self.assertEqual(self.guest.run("findmnt -no SOURCE /").output.strip(), "/dev/sda1")
        self.shut_down()
        self.guest.root.check()


class FixedBusChange(DebianTest):
    """The same unprepared guest, and names by path besides: migrate looks first, and --fix-guest puts it right."""

    name = "fixed"
    options = {"by_path": True, "resume": True, "initramfs": "virtio-blk-only"}
    manifest: str
    config: str
    old_xml: str

    def test_0_without_a_fix_it_is_refused(self) -> None:
        self.start()
        self.guest.run(WRITE, seconds=300)
        type(self).manifest = self.guest.run("find /srv -xdev -type f | sort | xargs sha256sum", seconds=300).output
        type(self).config = self.guest.run(CONFIG).output
        type(self).old_xml = before = self.guest.saved_xml()
        (plan,) = self.run_program(REFUSED, "migrate", "apply", "--bus=virtio-scsi", self.name).json["domains"]
        self.assertIn("initramfs-lacks-driver", plan["reasons"])
        self.assertIn("guest-names-disk", plan["reasons"])
        self.assertEqual(self.guest.saved_xml(), before)

    def test_1_the_plan_says_what_would_be_fixed(self) -> None:
        (plan,) = self.run_program(DONE, "migrate", "plan", "--bus=virtio-scsi", "--fix-guest", self.name).json["domains"]
        self.assertEqual(plan["blockers"], [])
        self.assertIn("guest-names-disk", plan["fixes"])
        self.assertIn("initramfs-lacks-driver", plan["fixes"])

    def test_2_fixed_moved_proved(self) -> None:
        begin = time.monotonic()
        reply = self.reclaim.run(
            "migrate", "apply", "--bus=virtio-scsi", "--fix-guest", "--power-cycle=shutdown", self.name, seconds=1000
        )
        print(f"fix, move, boot, verify: {time.monotonic() - begin:.1f} s", flush=True)
        self.assertEqual(reply.status, DONE, str(reply))
        (domain,) = reply.json["domains"]
        self.assertEqual(domain["migration"]["step"], "done")
        self.assertEqual([disk["discards_reach_host"] for disk in domain["probed_disks"]], [True], str(reply))
        self.guest.was_power_cycled()
        self.assertEqual(self.guest.run("findmnt -no SOURCE /").output.strip(), "/dev/sda1")
        self.assertIn("/dev/sda2", self.guest.run("cat /proc/swaps").output)
        self.assertNotEqual(self.guest.run(CONFIG).output, self.config)

    def test_3_and_all_the_way_back(self) -> None:
        begin = time.monotonic()
        reply = self.reclaim.run(
            "migrate", "rollback", "--power-cycle=shutdown", "--fix-guest", self.name, seconds=1000
        )
        print(f"back: {time.monotonic() - begin:.1f} s", flush=True)
        self.assertEqual(reply.status, DONE, str(reply))
        self.guest.was_power_cycled()
        self.assertEqual(self.guest.saved_xml(), self.old_xml)
        self.assertEqual(self.guest.run("findmnt -no SOURCE /").output.strip(), "/dev/vda1")
        self.assertEqual(self.guest.run(CONFIG).output, self.config)
        self.assertNotIn("virtio_scsi.ko", self.guest.run("lsinitramfs /boot/initrd.img-$(uname -r)").output)

    def test_4_nothing_is_lost(self) -> None:
        found = self.guest.run("find /srv -xdev -type f | sort | xargs sha256sum", seconds=300).output
        self.assertEqual(found, self.manifest)
        self.shut_down()
        self.guest.root.check()


class RolledBack(DebianTest):
    """Prepared when it was planned, and no more when it is power-cycled: the guest does not boot, and gets its old disk back."""

    name = "back"
    manifest: str

    def test_0_planned_while_all_was_well(self) -> None:
        self.start()
        self.guest.run(WRITE, seconds=300)
        type(self).manifest = self.guest.run("find /srv -xdev -type f | sort | xargs sha256sum", seconds=300).output
        type(self).on_blk = self.guest.saved_xml()
        self.run_program(DONE, "migrate", "apply", "--bus=virtio-scsi", self.name)
        self.assertIn("bus='scsi'", self.guest.saved_xml())

    def test_1_does_not_boot_and_is_rolled_back(self) -> None:
        self.guest.run(INSTALL_INITRAMFS.format("virtio-blk-only"))
        self.assertNotIn("virtio_scsi.ko", self.guest.run("lsinitramfs /boot/initrd.img-$(uname -r)").output)
        begin = time.monotonic()
        reply = self.reclaim.run(
            "migrate", "apply", "--bus=virtio-scsi", "--power-cycle=shutdown", "--verify-timeout", "60s", self.name,
            seconds=1000,
        )
        print(f"noticed and rolled back after {time.monotonic() - begin:.1f} s", flush=True)
        self.assertEqual(reply.status, FAILED, str(reply))
        self.assertEqual(reply.json["domains"][0]["migration"]["step"], "rolled-back")
        self.guest.was_power_cycled()
        self.assertEqual(self.guest.saved_xml(), self.on_blk)
        self.assertEqual(self.guest.run("findmnt -no SOURCE /").output.strip(), "/dev/vda1")

    def test_2_nothing_is_lost(self) -> None:
        found = self.guest.run("find /srv -xdev -type f | sort | xargs sha256sum", seconds=300).output
        self.assertEqual(found, self.manifest)
        self.shut_down()
        self.guest.root.check()


if __name__ == "__main__":
    bedpath.require_bed("mmdebstrap", "debugfs", "mkswap")
    PROGRAM, AGENT = host_program_path(), agent_path()
    if not PROGRAM or not AGENT:
        skip_all("virt-reclaim or virt-reclaim-agent is not built, or VIRT_RECLAIM_BUILD_DIR does not name the build")
    main(one_story=True)
