"""The host of the documents: /etc, /srv and /var/lib of its own, seen by nobody else, with two domains that are off, and a btrfs for backups.
What a page does there is gone before the next one."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from vrtest import EmbedHost, Workspace, skip_all  # noqa: E402
from vrtest.programs import find_program  # noqa: E402
from vrtest.storage import CLONE_NEWNS, MNT_DETACH, MS_PRIVATE, MS_REC, LoopDevice  # noqa: E402

MIB = 1 << 20
MS_BIND = 0x1000
IMAGES = Path("/var/lib/libvirt/images")
BACKUP = Path("/srv/backup")
# Directories that are others here, and where those lie.
BOUND = {"/etc": "etc", "/srv": "srv", "/var/lib": "lib"}
FORMATS = {"web": "qcow2", "db": "raw"}
DOMAIN = """<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{image}'/><target dev='vda' bus='scsi'/></disk>
    <controller type='scsi' model='virtio-scsi'/>
  </devices>
</domain>
"""  # Not virtio-blk: then a kernel of at least 5.0 would have to be known of a guest that is off.
# There is no D-Bus here that snapper could be asked over.
# Another machine: the same programs, and a /srv/backup of its own.
SSH = """#!/bin/sh
shift
exec unshare --mount sh -c 'mount --bind "$0" /srv/backup && exec "$@"' {remote} "$@"
"""
SNAPPER = '#!/bin/sh\nexec /usr/bin/snapper --no-dbus "$@"\n'


def require(*programs: str) -> None:
    if os.geteuid() != 0:
        skip_all("needs root: it mounts, and makes images for libvirt")
    for program in programs:
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            skip_all(f"'{program}' is not installed: scripts/install-packages run test")


def call(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def _mount_points() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [line.split(" ")[4].replace("\\040", " ") for line in lines]


class Sandbox:
    def __init__(self, space: Workspace) -> None:
        self.space = space
        self._bind = ctypes.CDLL(None, use_errno=True)
        self._devices: list[LoopDevice] = []
        self._remote = space.path / "remote"
        self._remote.mkdir()
        self._own_mounts()
        space.before_close(self._close_mounts)
        self.host = EmbedHost(space.path)
        self._make_images()
        programs = space.path / "bin"
        programs.mkdir()
        for name in ("virt-reclaim", "virt-reclaim-xml", "virt-reclaim-agent"):
            found = find_program(name)
            assert found, f"'{name}' is not in the build"
            (programs / name).symlink_to(found)
        (programs / "snapper").write_text(SNAPPER)
        (programs / "snapper").chmod(0o755)
        (programs / "ssh").write_text(SSH.format(remote=self._remote))
        (programs / "ssh").chmod(0o755)
        (space.path / "home").mkdir()
        self.environment = {
            "PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(space.path / "home"),
            "LC_ALL": "C.UTF-8",
            "LIBVIRT_DEFAULT_URI": self.host.uri,
            "LIBVIRT_LOG_OUTPUTS": self.host.environment()["LIBVIRT_LOG_OUTPUTS"],
            "VIRT_RECLAIM_RUN_DIR": str(space.path / "run"),
            "VIRT_RECLAIM_FREEMAP": str(find_program("virt-reclaim-freemap")),
            # What is asked at a terminal otherwise.
            "BORG_PASSPHRASE": "secret",
            "RESTIC_PASSWORD": "secret",
        }

    def _mount(self, what: Path, where: Path) -> None:
        if self._bind.mount(os.fsencode(what), os.fsencode(where), None, MS_BIND, None) != 0:
            raise OSError(ctypes.get_errno(), f"bind '{where}'")

    def _own_mounts(self) -> None:
        if self._bind.unshare(CLONE_NEWNS) != 0 or self._bind.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
            raise OSError(ctypes.get_errno(), "no mounts of one's own")
        # Copies of the mounts of other tests would keep their devices busy after they have let go of them.
        for point in reversed(_mount_points()):
            if point.startswith(("/tmp/", "/var/tmp/", f"{self.space.path.parent}/")):
                self._bind.umount2(os.fsencode(point), MNT_DETACH)
        call("cp", "-a", "/etc", self.space.path / "etc")
        for where, name in BOUND.items():
            (self.space.path / name).mkdir(exist_ok=True)
            self._mount(self.space.path / name, Path(where))

    def _close_mounts(self) -> None:
        self._unmount_backup()
        for where in BOUND:
            self._bind.umount2(where.encode(), MNT_DETACH)

    def _unmount_backup(self) -> None:
        for place in (BACKUP, self._remote) if self._devices else ():
            call("umount", "--recursive", place)
        while self._devices:
            self._devices.pop().close()

    def _make_images(self) -> None:
        """An ext4 from which 24 of 32 MiB are deleted, without a mount; raw and qcow2."""
        content, commands = self.space.path / "content", self.space.path / "commands"
        content.mkdir()
        for i in range(8):
            (content / f"file{i}").write_bytes(os.urandom(4 * MIB))
        raw = self.space.path / "db.image"
        with open(raw, "wb") as file:
            file.truncate(64 * MIB)
        call("mkfs.ext4", "-q", "-d", content, raw)
        commands.write_text("".join(f"rm file{i}\n" for i in range(2, 8)))
        call("debugfs", "-w", "-f", commands, raw)
        call("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, self.space.path / "web.image")

    def reset(self, page: str) -> Path:
        """As a page finds it; returns the directory its commands begin in."""
        self._forget()
        for path in (IMAGES, Path("/var/lib/prometheus/node-exporter"), Path("/etc/virt-reclaim/conf.d"), BACKUP):
            path.mkdir(parents=True)
        source = Path(__file__).resolve().parents[2]
        shutil.copy(source / "packaging/config/config.toml", "/etc/virt-reclaim/config.toml")
        for name, form in FORMATS.items():
            image = IMAGES / f"{name}.{form}"
            call("cp", "--sparse=always", self.space.path / f"{name}.image", image)
            self.host.define(DOMAIN.format(name=name, format=form, image=image))
        self._mount_backup()
        directory = self.space.path / page.replace("/", "-")
        directory.mkdir()
        return directory

    def _mount_btrfs(self, name: str, place: Path) -> None:
        file = self.space.path / f"{name}.btrfs"
        with open(file, "wb") as image:
            image.truncate(512 * MIB)
        call("mkfs.btrfs", "-q", file)
        device = LoopDevice(file)
        call("mount", "-t", "btrfs", device.path, place)
        self._devices.append(device)

    def _mount_backup(self) -> None:
        """With a copy of an image that somebody made without holes, and a snapshot that the other machine has, too."""
        self._mount_btrfs("backup", BACKUP)
        self._mount_btrfs("remote", self._remote)
        for name in ("vms", "now"):
            call("btrfs", "subvolume", "create", BACKUP / name)
        snapshot = BACKUP / "2026-11-21"
        call("btrfs", "subvolume", "snapshot", "-r", BACKUP / "now", snapshot)
        call("sh", "-c", 'btrfs send -q "$0" | btrfs receive -q "$1"', snapshot, self._remote)
        (BACKUP / "old").mkdir()
        call("cp", "--sparse=never", self.space.path / "db.image", BACKUP / "old" / "db.raw")

    def _forget(self) -> None:
        for where, name in BOUND.items():  # Never what is the machine's.
            assert os.path.samefile(where, self.space.path / name), f"'{where}' is not the sandbox's"
        for name in self.host.virsh("list", "--all", "--name").stdout.split():
            self.host.virsh("undefine", name)
        self._unmount_backup()
        for directory in (Path("/var/lib"), Path("/srv"), Path("/etc/virt-reclaim"), self.space.path / "run"):
            for entry in directory.iterdir() if directory.exists() else ():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.rmtree("/etc/virt-reclaim", ignore_errors=True)

    def run(self, text: str, directory: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=directory, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=120, check=False,
        )
