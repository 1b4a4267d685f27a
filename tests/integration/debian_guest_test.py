"""A real Debian: grub, initramfs-tools, systemd and udev between us and the disk. What a busybox guest cannot get wrong
goes wrong here.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import bedpath

from vrtest import DebianGuest, HostTestCase, Reply, TimedOut, built, main, wait_for
from vrtest.debian_guest import INSTALLED_UNIT
from vrtest.guest import AGENT_PORT, MIB

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
DONE, FAILED, DONE_FOR_NOTHING, REFUSED = 0, 1, 4, 5
JUNK = 96 * MIB
# Journals, superblocks, what a booting Debian writes.
DRIFT = 16 * MIB
# Between a shell on the console and the agent's first answer.
AGENT_SECONDS = 60.0
# The initramfs waits 30 s for a root before it gives up.
NO_ROOT_SECONDS = 150.0
# With --verify-timeout 60s: as long for a sign of life, and the old guest's boot (docs/testing.md).
ROLLED_BACK_SECONDS = 60.0 * 5
# Some megabytes in pieces that an emulated CPU reads byte by byte.
INSTALL_SECONDS = 400.0
# With everything a migration does in a guest: an initramfs made by an emulated CPU takes minutes.
MIGRATE_SECONDS = 1000.0

WRITE = f"""
set -e
mkdir /srv/files
for i in $(seq 16); do
  head -c $((i * i * 9001)) /dev/urandom >/srv/files/file-$i
  dd if=/dev/zero of=/srv/junk-$i bs=1M count={JUNK // 16 // MIB}
done
sync
rm /srv/junk-*
sync
"""
# What --fix-guest makes anew is compared on its own: the initramfs, and CONFIG.
MANIFEST = """
sync; echo 3 >/proc/sys/vm/drop_caches
find /srv /boot /usr/sbin -xdev -type f ! -name grub.cfg ! -name 'initrd.img-*' | sort | xargs sha256sum
"""
# What --fix-guest may change. Of grub.cfg what the kernel is told: the rest depends on where update-grub is run. What it is at first,
# made where the disk was made, is what update-grub makes in the guest: a rollback runs that (test_12).
CONFIG = """
cat /etc/fstab /etc/default/grub /etc/initramfs-tools/modules /etc/initramfs-tools/conf.d/*
grep -E '^[[:space:]]+linux[[:space:]]' /boot/grub/grub.cfg
"""
INITRAMFS = "lsinitramfs /boot/initrd.img-$(uname -r)"
# As somebody leaves it who has prepared the guest by hand. The initramfs was made when the guest's disk was made: here, on an
# emulated CPU, that takes minutes.
NAMING = "/etc/fstab /etc/default/grub /boot/grub/grub.cfg /etc/initramfs-tools/conf.d/resume"
PREPARE = f"""
set -e
tar -cPf /root/by-path.tar {NAMING}
sed -i "s,/dev/vda1,UUID=$(blkid -s UUID -o value /dev/vda1),; s,/dev/vda2,UUID=$(blkid -s UUID -o value /dev/vda2)," {NAMING}
sed -i s/^GRUB_DISABLE_LINUX_UUID=true/GRUB_DISABLE_LINUX_UUID=false/ /etc/default/grub
cp /usr/lib/test-initrds/prepared /boot/initrd.img-$(uname -r)
sync
"""
BY_PATH_AGAIN = "tar -xPf /root/by-path.tar && rm /root/by-path.tar && sync"
BREAK_INITRAMFS = "cp /usr/lib/test-initrds/virtio-blk-only /boot/initrd.img-$(uname -r) && sync"
# As an update that is installed while the guest shuts down: nobody can be asked any more.
BREAK_AT_SHUTDOWN = """
set -e
cp /usr/lib/test-initrds/prepared /boot/initrd.img-$(uname -r)
mkdir -p /run/systemd/system
cat >/run/systemd/system/late-update.service <<END
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/cp /usr/lib/test-initrds/virtio-blk-only /boot/initrd.img-$(uname -r)
END
systemctl start late-update.service
sync
"""
# What is made on the new bus may have nothing for the old one.
EMPTY_INITRAMFS = """
set -e
mv /boot/initrd.img-$(uname -r) /root/
cd $(mktemp -d)
touch init
echo init | cpio -o -H newc | gzip >/boot/initrd.img-$(uname -r)
"""
GOOD_INITRAMFS = "mv /root/initrd.img-$(uname -r) /boot/ && sync"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
IS_BROKEN = "cmp /usr/lib/test-initrds/virtio-blk-only /boot/initrd.img-$(uname -r)"
CHANNEL = f"<channel type='unix'><target type='virtio' name='{AGENT_PORT}'/></channel>"
AGENT_STATE = "systemctl show --property=Result,ActiveState --value virt-reclaim-agent.service | xargs"


class OneGuest(HostTestCase):
    """Each boot of it takes an emulated CPU a minute, so one guest lives through everything, in the order of the names. It is
    the worst there is: names by path, a resume=, and an initramfs with the drivers of yesterday's hardware.
    """

    name = "web"
    manifest: str
    config: str
    old_xml: str
    kept_xml: str

    environment = {"VIRT_RECLAIM_AGENT_FILES": str(PACKAGING)}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = DebianGuest(cls.host, cls.name, agent=AGENT, by_path=True, resume=True, initramfs="virtio-blk-only")
        cls.old_xml = cls.guest.saved_xml()

    def run_program(self, status: int, *words: str, seconds: float = 180) -> Reply:
        begin = time.monotonic()
        reply = self.reclaim.run(*words, seconds=seconds)
        print(f"virt-reclaim {' '.join(words)}: {time.monotonic() - begin:.1f} s", flush=True)
        self.assertEqual(reply.status, status, f"virt-reclaim {' '.join(words)}: {reply}")
        return reply

    def run_in_guest(self, script: str, *, seconds: float = 300) -> str:
        return self.guest.run(script, seconds=seconds).output

    def require_on(self, device: str) -> None:
        """It came back, by somebody else's hand, with its root on this partition."""
        self.guest.was_power_cycled()
        self.assertEqual(self.run_in_guest("findmnt -no SOURCE /").strip(), device)
        self.assertIn(f"{device[:-1]}2", self.run_in_guest("cat /proc/swaps"))

    def require_only_virtio_blk(self) -> None:
        modules = self.run_in_guest(INITRAMFS)
        self.assertIn("virtio_blk.ko", modules)
        self.assertNotIn("virtio_scsi.ko", modules)

    # As it is.

    def test_00_it_boots_from_its_own_disk(self) -> None:
        begin = time.monotonic()
        self.guest.start()
        print(f"a shell after {time.monotonic() - begin:.1f} s", flush=True)
        command_line = self.run_in_guest("cat /proc/cmdline")
        self.assertIn(" root=/dev/vda1 ", command_line)
        self.assertIn(" resume=/dev/vda2 ", command_line)
        self.assertEqual(self.run_in_guest("findmnt -no SOURCE /").strip(), "/dev/vda1")
        self.assertIn("/dev/vda2", self.run_in_guest("cat /proc/swaps"))
        self.assertEqual(self.run_in_guest("cat /proc/1/comm").strip(), "systemd")

    def test_01_udev_started_the_agent(self) -> None:
        try:
            wait_for("the agent", lambda: self.reclaim.run("agent", "status", self.name).status == DONE, seconds=AGENT_SECONDS)
        except TimedOut:
            self.fail(f"{self.reclaim.run('agent', 'status', self.name)}\n--- in the guest\n{self.guest.agent_log()}")
        shown = self.run_in_guest("systemctl show -p ActiveState,SubState,FragmentPath virt-reclaim-agent.service")
        self.assertIn("SubState=running", shown)
        self.assertIn("FragmentPath=/lib/systemd/system/virt-reclaim-agent.service", shown.replace("=/usr/lib", "=/lib"))
        # 'degraded' would be a status of its own.
        print(self.run_in_guest("systemctl is-system-running --wait; systemd-analyze"), flush=True)
        self.assertEqual(self.run_in_guest("systemctl --failed --plain --no-legend"), "")

    def test_02_report_and_trim_in_vain(self) -> None:
        self.run_in_guest(WRITE)
        type(self).manifest = self.run_in_guest(MANIFEST)
        type(self).config = self.run_in_guest(CONFIG)
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

    # To another bus: migrate looks first.

    def test_03_without_a_fix_another_bus_is_refused(self) -> None:
        self.require_only_virtio_blk()
        (plan,) = self.run_program(REFUSED, "migrate", "apply", "--bus=virtio-scsi", self.name).json["domains"]
        self.assertIn("initramfs-lacks-driver", plan["reasons"])
        self.assertIn("guest-names-disk", plan["reasons"])
        self.assertEqual(self.guest.saved_xml(), self.old_xml)

    def test_04_the_plan_says_what_would_be_fixed(self) -> None:
        (plan,) = self.run_program(DONE, "migrate", "plan", "--bus=virtio-scsi", "--fix-guest", self.name).json["domains"]
        self.assertEqual(plan["blockers"], [])
        self.assertIn("guest-names-disk", plan["fixes"])
        self.assertIn("initramfs-lacks-driver", plan["fixes"])
        self.assertEqual(self.run_in_guest(CONFIG), self.config)

    def test_05_names_by_path_are_no_hindrance_as_long_as_the_bus_stays(self) -> None:
        self.run_program(DONE, "migrate", "apply", self.name)
        type(self).kept_xml = self.guest.saved_xml()
        self.assertIn("discard='unmap'", self.kept_xml)
        self.assertIn("bus='virtio'", self.kept_xml)
        self.assertEqual(self.run_in_guest(CONFIG), self.config)

    # Prepared when it was planned, and no more when it is power-cycled.

    def test_06_planned_while_all_was_well_and_refused_when_it_is_no_more(self) -> None:
        self.run_in_guest(PREPARE)
        self.run_program(DONE, "migrate", "apply", "--bus=virtio-scsi", self.name)
        self.assertIn("bus='scsi'", self.guest.saved_xml())
        self.assertIn("virtio_scsi.ko", self.run_in_guest(INITRAMFS))
        self.run_in_guest(BREAK_INITRAMFS)
        pending, boot = self.guest.saved_xml(), self.run_in_guest(BOOT_ID)
        (domain,) = self.run_program(REFUSED, "migrate", "apply", "--power-cycle=shutdown", self.name).json["domains"]
        self.assertIn("initramfs-lacks-driver", domain["reasons"])
        self.assertEqual(self.guest.saved_xml(), pending)
        self.assertEqual(self.run_in_guest(BOOT_ID), boot)

    def test_07_it_finds_no_root_and_is_rolled_back(self) -> None:
        """Broken after it was looked at, while it shuts down."""
        self.run_in_guest(BREAK_AT_SHUTDOWN)
        begin, shown = time.monotonic(), len(self.guest.console_text())
        apply = self.reclaim.start(
            "migrate", "apply", "--bus=virtio-scsi", "--power-cycle=shutdown", "--verify-timeout", "60s", self.name
        )
        try:
            self.guest.wait_for_console("(initramfs)", after=shown, seconds=NO_ROOT_SECONDS)
            print(f"the initramfs gave up after {time.monotonic() - begin:.1f} s", flush=True)
            self.assertIn("does not exist.  Dropping to a shell!", self.guest.console_text()[shown:])
            with self.assertRaises(TimedOut):
                self.guest.wait_until_up(5)
            stdout, stderr = apply.communicate(timeout=MIGRATE_SECONDS)
        finally:
            apply.kill()
        seconds = time.monotonic() - begin
        print(f"noticed and rolled back after {seconds:.1f} s", flush=True)
        self.assertLess(seconds, ROLLED_BACK_SECONDS)
        reply = Reply(apply.returncode, stdout, stderr)
        self.assertEqual(reply.status, FAILED, str(reply))
        (domain,) = reply.json["domains"]
        self.assertEqual(domain["migration"]["step"], "rolled-back")
        # No agent answered there.
        self.assertIn("did not come back as it was", domain["error"])
        self.assertEqual(self.guest.saved_xml(), self.kept_xml)

    def test_08_back_on_virtio_blk_it_is_as_before(self) -> None:
        self.require_on("/dev/vda1")
        self.assertIn(" root=UUID=", self.run_in_guest("cat /proc/cmdline"))
        self.assertEqual(self.run_in_guest(IS_BROKEN), "")
        self.assertEqual(self.run_in_guest(MANIFEST), self.manifest)

    # That power cycle has put what test_05 changed into force.

    def test_09_migrated_and_power_cycled_it_frees(self) -> None:
        self.assertIn("discard='unmap'", self.guest.live_xml())
        before = self.guest.root.allocation()
        (domain,) = self.run_program(DONE, "trim", self.name).json["domains"]
        (disk,) = domain["disks"]
        freed = before - self.guest.root.allocation()
        print(f"freed {freed / MIB:.0f} MiB", flush=True)
        self.assertGreater(freed, 0.8 * JUNK)
        self.assertAlmostEqual(disk["freed_bytes"], freed, delta=DRIFT)

    # To another bus, and back.

    def test_10_names_by_path_again(self) -> None:
        self.run_in_guest(BY_PATH_AGAIN)
        self.assertEqual(self.run_in_guest(CONFIG), self.config)

    def test_11_fixed_moved_proved(self) -> None:
        reply = self.run_program(
            DONE, "migrate", "apply", "--bus=virtio-scsi", "--fix-guest", "--power-cycle=shutdown", self.name,
            seconds=MIGRATE_SECONDS,
        )
        (domain,) = reply.json["domains"]
        self.assertEqual(domain["migration"]["step"], "done")
        self.assertEqual([disk["discards_reach_host"] for disk in domain["probed_disks"]], [True], str(reply))
        self.require_on("/dev/sda1")
        self.assertIn("virtio_scsi.ko", self.run_in_guest(INITRAMFS))
        self.assertNotEqual(self.run_in_guest(CONFIG), self.config)
        self.run_in_guest(f"dd if=/dev/zero of=/srv/junk bs=1M count={JUNK // MIB} && sync && rm /srv/junk && sync")
        before = self.guest.root.allocation()
        self.run_program(DONE, "trim", self.name)
        self.assertGreater(before - self.guest.root.allocation(), 0.8 * JUNK)

    def test_12_a_way_back_on_which_it_would_not_boot_is_not_taken(self) -> None:
        self.run_in_guest(EMPTY_INITRAMFS)
        boot = self.run_in_guest(BOOT_ID)
        (domain,) = self.run_program(FAILED, "migrate", "rollback", "--power-cycle=shutdown", self.name).json["domains"]
        self.assertIn("initramfs-lacks-driver (virtio_blk for kernel ", domain["error"])
        self.assertEqual(domain["migration"]["step"], "done")
        self.run_in_guest(GOOD_INITRAMFS)
        self.assertEqual(self.run_in_guest(BOOT_ID), boot)

    def test_12_and_all_the_way_back(self) -> None:
        self.run_program(
            DONE, "migrate", "rollback", "--power-cycle=shutdown", "--fix-guest", self.name, seconds=MIGRATE_SECONDS
        )
        self.require_on("/dev/vda1")
        self.assertEqual(self.guest.saved_xml(), self.kept_xml)
        self.assertEqual(self.run_in_guest(CONFIG), self.config)
        self.assertNotIn("virtio_scsi.ko", self.run_in_guest(INITRAMFS))

    def test_13_nothing_is_lost(self) -> None:
        self.assertEqual(self.run_in_guest(MANIFEST), self.manifest)

    def test_14_an_agent_that_is_missing_is_installed_by_qemu_guest_agent(self) -> None:
        self.guest.remove_agent()
        self.assertNotEqual(self.reclaim.run("agent", "status", self.name).status, DONE)
        (domain,) = self.run_program(
            DONE, "agent", "install", f"--agent-binary={AGENT}", self.name, seconds=INSTALL_SECONDS
        ).json["domains"]
        self.assertEqual((domain["port"], domain["starts"]), ({"definition": "there", "running": "there"}, True), domain)
        self.assertEqual(self.guest.agent_unit(), INSTALLED_UNIT)
        self.assertEqual(self.run_in_guest("systemctl --failed --plain --no-legend"), "")
        (again,) = self.run_program(DONE, "agent", "install", f"--agent-binary={AGENT}", self.name).json["domains"]
        self.assertEqual((again["files"], again["starts"]), ([], False), again)
        self.run_program(DONE, "trim", "--way=agent", self.name)

    def change_port(self, how: str, channel: str) -> None:
        path = self.space.path / "channel.xml"
        path.write_text(channel)
        self.host.virsh(how, self.name, path, "--live")

    def test_15_the_agent_comes_and_goes_with_its_port(self) -> None:
        channels = re.findall(r"<channel .*?</channel>", self.guest.live_xml(), re.S)
        (channel,) = (each for each in channels if f"'{AGENT_PORT}'" in each)
        self.assertEqual(self.run_in_guest(AGENT_STATE).strip(), "success active")
        self.change_port("detach-device", channel)
        # Stopped, by its port that is gone (BindsTo); not failed, and not started again.
        wait_for(
            "the agent's end", lambda: self.run_in_guest(AGENT_STATE).strip() == "success inactive", seconds=AGENT_SECONDS
        )
        self.assertEqual(self.run_in_guest("systemctl --failed --plain --no-legend"), "")
        self.change_port("attach-device", CHANNEL)
        wait_for("the agent", lambda: self.reclaim.run("agent", "status", self.name).status == DONE, seconds=AGENT_SECONDS)
        self.assertEqual(self.run_in_guest(AGENT_STATE).strip(), "success active")

    def test_16_its_filesystem_is_whole(self) -> None:
        self.guest.shutdown()
        self.guest.root.check()


if __name__ == "__main__":
    bedpath.require_bed("mmdebstrap", "debugfs", "mkswap")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    main(one_story=True)
