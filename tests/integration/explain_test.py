"""Faults on the way of a discard, made in real chains: explain names each one first, and --probe agrees.

One guest carries nearly all of them, a disk each, since booting is what costs time. Every reason code that can be a culprit
is made here, or is on a list with the reason why it cannot be.
"""

from __future__ import annotations

import os
import re
import unittest
from pathlib import Path
from typing import Any

import bedpath

from vrtest import Disk, EmbedHost, Guest, Reply, VirtReclaim, Workspace, agent_path, host_program_path, main, skip_all
from vrtest.guest import MIB, NEW_MACHINE, OLD_MACHINE
from vrtest.image import run_tool

DONE, NOTHING_FREED, REFUSED = 0, 4, 5
SIZE = 256 * MIB

# What can stand behind 'first culprit', and why it is not made here. Each has a unit test on made-up facts.
NOT_MADE_HERE = {
    "machine-unknown": "QEMU has no such machine type; they are those of distributions",
    "bus-drops-discard": "the guest's kernel has no driver of a bus that drops discards; measured in docs/discard-support.md",
    "storage-cannot-punch": "the bed makes no mounts; host_storage_test makes one, of a ramfs",
    "no-medium": "no fault of a chain: there is no image",
    "no-local-image": "never a culprit, only unknown",
    "image-missing": "never a culprit, only unknown; QEMU would not start",
    "image-unreadable": "never a culprit, only unknown",
    "external-data-file": "never a culprit, only unknown",
    "block-device": "never a culprit, only a remark; needs a block device of the host",
    "not-a-disk": "never looked at, unless it is named",
    "discard-not-proved": "stands for faults that nobody knows",
    "unexplained": "stands for faults that nobody knows",
}
# Disk -> what explain has to name, what the layer's verdict is, and what the probe has to say.
EXPECTED: dict[str, tuple[str | None, str | None, bool | None]] = {
    "plain": (None, None, True),
    "luks": ("dm-crypt", "drops", False),
    "thin": ("guest-layer", "drops", False),
    "linear": (None, None, True),
    "leg1": (None, None, True),
    "leg2": ("discard-ignored", "drops", False),
    "loop": ("loop-device", "partly", True),
    "ro": ("read-only", "drops", None),
    "squash": ("filesystem-not-supported", "drops", None),
    "ignored": ("discard-ignored", "drops", False),
    "snap": ("internal-snapshots", "partly", True),
    "overlay": ("overlay", "partly", True),
    "thick": (None, None, None),  # a probe would thin it
    "vmdk": ("image-format", "drops", False),
    "mute": ("guest-not-supported", "drops", False),
}
MADE_ELSEWHERE = {"machine-too-old", "power-cycle-pending"}

PROGRAMS = ("cryptsetup", "dmsetup", "lvm", "mdadm", "mkfs.ext4")
# busybox has no udev for the programs to wait for.
LAYERS = """
set -e
export DM_DISABLE_UDEV=1 MDADM_NO_UDEV=1
for set in dm crypt thin raid loop squashfs; do vr-modprobe $set; done
disk() { grep " /mnt/$1 " /proc/mounts | cut -d ' ' -f 1; }
mkdir -p /run/cryptsetup /run/lvm /run/lock/lvm /run/mdadm /etc/lvm
cat >/etc/lvm/lvm.conf <<END
devices { obtain_device_list_from_udev=0 external_device_info_source="none" use_devicesfile=0 }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
global { thin_check_executable="" use_lvmpolld=0 }
backup { backup=0 archive=0 }
END
for name in luks thin linear leg1 leg2; do
  eval "$name=$(disk $name)"
  umount /mnt/$name
done
ext4() { mkfs.ext4 -q -F "$1"; mkdir -p "$2"; mount -t ext4 "$1" "$2"; }

echo secret >/run/key
cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $luks /run/key
cryptsetup open --key-file /run/key $luks cryptdata
ext4 /dev/mapper/cryptdata /mnt/luks

lvm vgcreate -q -ff -y slim $thin
lvm vgcreate -q -ff -y plainvg $linear
lvm lvcreate -q -y -L 200M -T slim/pool --discards nopassdown --poolmetadataspare n
lvm lvcreate -q -y -V 180M -T slim/pool -n data
lvm lvcreate -q -y -L 200M -n data plainvg
ext4 /dev/mapper/slim-data /mnt/thin
ext4 /dev/mapper/plainvg-data /mnt/linear

mdadm --create /dev/md0 --run --assume-clean --metadata=1.2 --level=1 --raid-devices=2 $leg1 $leg2
ext4 /dev/md0 /mnt/md

truncate -s 64M /mnt/loop/inner
mkfs.ext4 -q -F /mnt/loop/inner
mkdir -p /mnt/inner
mount -t ext4 -o loop /mnt/loop/inner /mnt/inner
mount -o remount,ro /mnt/ro
mkdir -p /mnt/squash
for device in /dev/vd?; do
  if [ "$(/usr/sbin/blkid -p -o value -s TYPE $device)" = squashfs ]; then mount -t squashfs $device /mnt/squash; fi
done
mount -o remount,discard /mnt/plain
grep /mnt /proc/mounts
"""


class ExplainGuest(Guest):
    """With one disk whose virtual device takes no discards, whatever its machine type would say."""

    def _xml(self, *words: Any) -> str:
        xml = super()._xml(*words)
        if not any(disk.name == "mute" for disk in self.disks):
            return xml
        target = self.disk("mute").target
        xml = re.sub(rf"(<target dev='?\"?{target}[^>]*/>\n)", r"\1      <alias name='ua-mute'/>\n", xml)
        override = (
            "  <qemu:override>\n    <qemu:device alias='ua-mute'>\n      <qemu:frontend>\n"
            "        <qemu:property name='discard' type='bool' value='false'/>\n"
            "      </qemu:frontend>\n    </qemu:device>\n  </qemu:override>\n</domain>\n"
        )
        xml = xml.replace("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ", 1)
        return xml.replace("</domain>\n", override)


def explained(reply: Reply) -> dict[str, dict[str, Any]]:
    (domain,) = reply.json["domains"]
    return {disk["target"]: disk for disk in domain["disks"]}


class Layers(unittest.TestCase):
    """The methods are one story and run in the order of their names; unittest stops at the first that fails."""

    found: dict[str, dict[str, Any]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.space = Workspace()
        cls.addClassCleanup(cls.space.close)
        cls.host = EmbedHost(cls.space.path)
        cls.reclaim = VirtReclaim(PROGRAM, cls.host)
        formats = {"snap": "qcow2", "vmdk": "vmdk", "overlay": "qcow2"}
        cls.guest = ExplainGuest(
            cls.host, "deep", machine=NEW_MACHINE, agent=AGENT, memory_mib=768,
            guest_options=tuple(word for name in PROGRAMS for word in ("--add", f"usr/sbin/{name}={which(name)}")),
            disks=[
                Disk(name, size=SIZE, format=formats.get(name, "raw"), discard=None if name in ("ignored", "leg2") else "unmap")
                for name in EXPECTED
            ],
        )
        cls.break_images()
        cls.guest.start()
        cls.guest.run(LAYERS, seconds=400)

    @classmethod
    def break_images(cls) -> None:
        run_tool("qemu-img", "snapshot", "-c", "old", cls.guest.disk("snap").path)
        overlay = cls.guest.disk("overlay").path
        base = overlay.with_name("base.qcow2")
        overlay.rename(base)
        run_tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
        with open(cls.guest.disk("thick").path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)
        squash = cls.guest.disk("squash").path
        squash.unlink()
        (cls.space.path / "tree").mkdir()
        (cls.space.path / "tree" / "file").write_bytes(os.urandom(MIB))
        run_tool("mksquashfs", cls.space.path / "tree", squash, "-no-progress", "-quiet")
        os.truncate(squash, 2 * MIB)

    def explain(self, status: int, *words: str) -> dict[str, dict[str, Any]]:
        reply = self.reclaim.run("explain", *words, seconds=600)
        self.assertEqual(reply.status, status, str(reply))
        return explained(reply)

    def target(self, name: str) -> str:
        return f"deep:{self.guest.disk(name).target}"

    def judge(self, name: str, status: int) -> dict[str, Any]:
        (disk,) = self.explain(status, "--probe", self.target(name)).values()
        return disk

    def test_1_each_fault_is_named_first(self) -> None:
        found = self.explain(NOTHING_FREED, "deep")
        for name, (code, verdict, _) in EXPECTED.items():
            with self.subTest(disk=name):
                shown = found[self.guest.disk(name).target]
                culprit = shown["first_culprit"]
                self.assertEqual(culprit and culprit["code"], code, str(shown))
                self.assertEqual(culprit and culprit["verdict"], verdict, str(shown))
                if code:
                    self.assertIsNotNone(culprit["layer"])
                else:
                    self.assertEqual(shown["verdict"], "ok", str(shown))

    def test_2_the_probe_agrees(self) -> None:
        found = self.explain(NOTHING_FREED, "--probe", "deep")
        for name, (_, _, reaches) in EXPECTED.items():
            with self.subTest(disk=name):
                shown = found[self.guest.disk(name).target]
                self.assertEqual(shown["probe"]["discards_reach_host"], reaches, str(shown))

    def test_3_remarks(self) -> None:
        found = self.explain(NOTHING_FREED, "deep")

        def remarks(name: str) -> list[str]:
            return [code for layer in found[self.guest.disk(name).target]["layers"] for code in layer["remarks"]]

        self.assertIn("thick-image", remarks("thick"))
        plain = found[self.guest.disk("plain").target]["layers"][0]
        self.assertEqual((plain["layer"], plain["name"]), ("filesystem", "/mnt/plain"))
        self.assertIn("mounted with discard", plain["detail"])

    def test_4_report_says_nothing_else(self) -> None:
        found = self.explain(NOTHING_FREED, "deep")
        (domain,) = self.reclaim.run("report", "deep").json["domains"]
        for disk in domain["disks"]:
            with self.subTest(disk=disk["image"]):
                layers = found[disk["target"]]["layers"]
                codes = {code for layer in layers for code in layer["reasons"] + layer["remarks"]}
                self.assertLessEqual(set(disk["blockers"]), codes)

    def test_5_what_it_advises_helps(self) -> None:
        self.guest.run(
            "DM_DISABLE_UDEV=1 cryptsetup refresh --allow-discards --persistent cryptdata --key-file /run/key\n"
            "DM_DISABLE_UDEV=1 lvm lvchange -q --discards passdown slim/pool"
        )
        for name in ("luks", "thin"):
            with self.subTest(disk=name):
                shown = self.judge(name, DONE)
                self.assertIsNone(shown["first_culprit"], str(shown))
                self.assertTrue(shown["probe"]["discards_reach_host"], str(shown))

    def test_6_the_hints_are_commands(self) -> None:
        found = self.explain(NOTHING_FREED, "deep")

        def command(name: str) -> list[str]:
            words = re.search(r"'(virsh [^']*)'", found[self.guest.disk(name).target]["first_culprit"]["fix"])
            assert words
            return words[1].split()[3:]  # without 'virsh --connect URI'

        self.host.virsh(*command("snap"))
        self.host.virsh(*command("overlay"), "--wait")
        self.assertIsNone(self.judge("overlay", DONE)["first_culprit"])

    def test_7_nothing_of_a_key_is_told(self) -> None:
        reply = self.reclaim.run("explain", self.target("luks"))
        table = self.guest.run("dmsetup table --showkeys cryptdata").output
        key = table.split()[4]
        self.assertNotIn(key, reply.stdout)

    def test_8_every_culprit_is_made_here_or_listed(self) -> None:
        source = (Path(__file__).parents[2] / "host" / "model" / "reason.h").read_text()
        groups = re.search(r"// Where on its way a discard is lost\.(.*?)kRewriteRefused", source, re.S)
        assert groups
        names = set(re.findall(r"\bk([A-Z]\w+),", groups[1]))
        table = (Path(__file__).parents[2] / "host" / "model" / "reason.cc").read_text()
        codes = {code for name, code in re.findall(r"\{Reason::k(\w+),\s*\"([a-z0-9-]+)\"", table) if name in names}
        made = {code for code, _, _ in EXPECTED.values() if code} | MADE_ELSEWHERE
        self.assertEqual(codes - made - set(NOT_MADE_HERE), set())


class Definition(unittest.TestCase):
    """What the definition says, now and at the next start. One story as well."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.space = Workspace()
        cls.addClassCleanup(cls.space.close)
        cls.host = EmbedHost(cls.space.path)
        cls.reclaim = VirtReclaim(PROGRAM, cls.host)
        cls.guest = Guest(
            cls.host, "old", machine=OLD_MACHINE, agent=AGENT,
            disks=[Disk("blk", size=SIZE, discard="unmap"), Disk("scsi", size=SIZE, bus="scsi")],
        )
        cls.guest.start()

    def culprits(self, status: int, *words: str) -> dict[str, str | None]:
        reply = self.reclaim.run("explain", *words, "old", seconds=300)
        self.assertEqual(reply.status, status, str(reply))
        found = explained(reply)
        return {
            disk.name: (found[disk.target]["first_culprit"] or {}).get("code") for disk in self.guest.disks
        }

    def test_1_old_machine_type(self) -> None:
        reply = self.reclaim.run("explain", "--probe", "old", seconds=300)
        self.assertEqual(reply.status, NOTHING_FREED, str(reply))
        for disk, code in zip(self.guest.disks, ("machine-too-old", "discard-ignored"), strict=True):
            shown = explained(reply)[disk.target]
            self.assertEqual(shown["first_culprit"]["code"], code, str(shown))
            self.assertEqual(shown["probe"]["discards_reach_host"], False, str(shown))

    def test_2_a_power_cycle_is_pending(self) -> None:
        apply = self.reclaim.run("migrate", "apply", "old")
        self.assertEqual(apply.status, DONE, str(apply))
        self.assertEqual(self.culprits(NOTHING_FREED), {"blk": "power-cycle-pending", "scsi": "power-cycle-pending"})

    def test_3_after_it_all_is_well(self) -> None:
        self.guest.power_cycle()
        self.assertEqual(self.culprits(DONE, "--probe"), {"blk": None, "scsi": None})

    def test_4_a_definition_that_will_be_worse(self) -> None:
        self.host.define(self.guest.saved_xml().replace("discard='unmap'", "discard='ignore'"))
        self.assertEqual(self.culprits(DONE), {"blk": None, "scsi": None})
        reply = self.reclaim.run("explain", "old")
        remarks = {code for disk in explained(reply).values() for layer in disk["layers"] for code in layer["remarks"]}
        self.assertIn("definition-pending", remarks)

    def test_5_off(self) -> None:
        self.guest.shutdown()
        self.assertEqual(self.culprits(NOTHING_FREED), {"blk": "discard-ignored", "scsi": "discard-ignored"})
        self.assertEqual(self.reclaim.run("explain", "--probe", "old").status, REFUSED)


def which(name: str) -> str:
    for directory in (*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"):
        if directory and os.access(os.path.join(directory, name), os.X_OK):
            return os.path.join(directory, name)
    return name


if __name__ == "__main__":
    bedpath.require_bed(*PROGRAMS, "mksquashfs")
    PROGRAM, AGENT = host_program_path(), agent_path()
    if not PROGRAM or not AGENT:
        skip_all("virt-reclaim or virt-reclaim-agent is not built, or VIRT_RECLAIM_BUILD_DIR does not name the build")
    main(one_story=True)
