"""The guest of explain_test.py: one disk for each fault that can lie on the way of a discard, and one without any."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import bedpath  # noqa: F401 - finds vrtest

from vrtest import Disk, Guest, Host, LoopDevice, Workspace, mount_without_holes
from vrtest.guest import MIB, NEW_MACHINE
from vrtest.image import make_image, run_tool

SIZE = 256 * MIB
CDROM, USB = "hdc", "sdz"
# Virtual devices that take no discards, whatever their machine type would say.
MUTE = ("mute", "span2")
NOT_UNMAP = ("ignored", "leg2")
FORMATS = {
    "snap": "qcow2", "vmdk": "vmdk", "overlay": "qcow2", "cluster": "qcow2", "extdata": "qcow2", "block": "qcow2",
    # Below LVM and md: what else lies below these is raw.
    "linear": "qcow2", "leg1": "qcow2",
}

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
for name in luks thin linear span1 span2 leg1 leg2; do
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
lvm vgcreate -q -ff -y spanvg $span1 $span2
lvm lvcreate -q -y -L 200M -T slim/pool --discards nopassdown --poolmetadataspare n
lvm lvcreate -q -y -V 180M -T slim/pool -n data
lvm lvcreate -q -y -L 200M -n data plainvg
lvm lvcreate -q -y -L 400M -n data spanvg
ext4 /dev/mapper/slim-data /mnt/thin
ext4 /dev/mapper/plainvg-data /mnt/linear
ext4 /dev/mapper/spanvg-data /mnt/span

mdadm --create /dev/md0 --run --assume-clean --metadata=1.2 --level=1 --raid-devices=2 $leg1 $leg2
ext4 /dev/md0 /mnt/md

truncate -s 64M /mnt/loop/inner
mkfs.ext4 -q -F /mnt/loop/inner
mkdir -p /mnt/inner
mount -t ext4 -o loop /mnt/loop/inner /mnt/inner
truncate -s 32M /mnt/inner/nested /mnt/loop/left /mnt/loop/right
mkfs.ext4 -q -F /mnt/inner/nested
mkdir -p /mnt/nested
mount -t ext4 -o loop /mnt/inner/nested /mnt/nested
left=$(losetup -f)
losetup $left /mnt/loop/left
right=$(losetup -f)
losetup $right /mnt/loop/right
mdadm --create /dev/md1 --run --assume-clean --metadata=1.2 --level=1 --raid-devices=2 $left $right
ext4 /dev/md1 /mnt/mirror
mount -o remount,ro /mnt/ro
mkdir -p /mnt/squash
for device in /dev/vd?; do
  if [ "$(/usr/sbin/blkid -p -o value -s TYPE $device)" = squashfs ]; then mount -t squashfs $device /mnt/squash; fi
done
mount -o remount,discard /mnt/plain
mount -o remount,nodiscard /mnt/cluster
grep /mnt /proc/mounts
"""


class BlockDisk(Disk):
    """On a block device of the host."""

    def xml(self) -> str:
        return super().xml().replace("type='file'", "type='block'").replace("<source file=", "<source dev=")


class FaultyGuest(Guest):
    def __init__(self, host: Host, space: Workspace, name: str, disks: list[str], agent: Path) -> None:
        self.space = space
        super().__init__(
            host, name, machine=NEW_MACHINE, agent=agent, memory_mib=768,
            guest_options=tuple(word for program in PROGRAMS for word in ("--add", f"usr/sbin/{program}={which(program)}")),
            disks=[
                (BlockDisk if disk == "block" else Disk)(
                    disk, fs="btrfs" if disk == "btrfs" else "ext4", size=SIZE, format=FORMATS.get(disk, "raw"),
                    discard=None if disk in NOT_UNMAP else "unmap",
                )
                for disk in disks
            ],
        )

    def _make_disk(self, disk: Disk) -> None:
        make = getattr(self, f"_make_{disk.name}", super()._make_disk)
        make(disk)

    def _make_snap(self, disk: Disk) -> None:
        super()._make_disk(disk)
        run_tool("qemu-img", "snapshot", "-c", "old", disk.path)

    def _make_overlay(self, disk: Disk) -> None:
        super()._make_disk(disk)
        base = disk.path.with_name("base.qcow2")
        disk.path.rename(base)
        run_tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk.path)

    def _make_thick(self, disk: Disk) -> None:
        super()._make_disk(disk)
        with open(disk.path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, SIZE)

    def _make_squash(self, disk: Disk) -> None:
        tree = self.directory / "tree"
        tree.mkdir()
        (tree / "file").write_bytes(os.urandom(MIB))
        run_tool("mksquashfs", tree, disk.path, "-no-progress", "-quiet")
        os.truncate(disk.path, 2 * MIB)

    def _make_cluster(self, disk: Disk) -> None:
        raw = disk.path.with_suffix(".raw")
        make_image(raw, fs=disk.fs, size=disk.size, image_format="raw", label=disk.name)
        run_tool("tune2fs", "-o", "discard", raw)  # else ext4 does not show 'nodiscard'
        run_tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=2M", raw, disk.path)
        raw.unlink()

    def _make_extdata(self, disk: Disk) -> None:
        data = disk.path.with_suffix(".data")
        options = f"data_file={data},data_file_raw=on"
        run_tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, disk.path, str(disk.size))
        run_tool("mkfs.ext4", "-q", "-F", "-L", disk.name, data)

    def _make_nohole(self, disk: Disk) -> None:
        disk.path = mount_without_holes(self.space) / disk.path.name
        super()._make_disk(disk)

    def _make_block(self, disk: Disk) -> None:
        super()._make_disk(disk)
        os.truncate(disk.path, SIZE + 64 * MIB)
        device = LoopDevice(disk.path)
        self.space.before_close(device.close)
        disk.path = device.path

    def _xml(self, *words: Any) -> str:
        xml = super()._xml(*words)
        overrides = ""
        for name in MUTE:
            target = self.disk(name).target
            xml = re.sub(rf"(<target dev=['\"]{target}['\"][^>]*/>\n)", rf"\1      <alias name='ua-{name}'/>\n", xml)
            overrides += (
                f"    <qemu:device alias='ua-{name}'>\n      <qemu:frontend>\n"
                "        <qemu:property name='discard' type='bool' value='false'/>\n"
                "      </qemu:frontend>\n    </qemu:device>\n"
            )
        usb = self.directory / "usb.raw"
        with open(usb, "wb") as file:
            file.truncate(SIZE)
        # The guest's kernel has no driver for either.
        more = (
            f"    <disk type='file' device='disk'><driver name='qemu' type='raw' discard='unmap'/>"
            f"<source file={quoteattr(str(usb))}/><target dev='{USB}' bus='usb'/></disk>\n"
            f"    <disk type='file' device='cdrom'><target dev='{CDROM}' bus='ide'/><readonly/></disk>\n"
        )
        xml = xml.replace("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ", 1)
        xml = xml.replace("  </devices>\n", f"{more}  </devices>\n")
        return xml.replace("</domain>\n", f"  <qemu:override>\n{overrides}  </qemu:override>\n</domain>\n")


def which(name: str) -> str:
    for directory in (*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"):
        if directory and os.access(os.path.join(directory, name), os.X_OK):
            return os.path.join(directory, name)
    return name
