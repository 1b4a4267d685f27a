"""Storage of the host that a test needs besides its directory: a filesystem of some kind, one that cannot punch holes, a block device. All
go with the workspace or the processes that use them, however those end. Needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

from .workspace import Workspace

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 2
# linux/loop.h
LOOP_CONFIGURE, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82
LO_FLAGS_AUTOCLEAR = 4
LOOP_CONFIG = struct.Struct("II 232s 64x")  # fd, block size, struct loop_info64, reserved
LOOP_INFO_FLAGS = 52  # offset of lo_flags in struct loop_info64


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount_file(space: Workspace, name: str, kind: str, size: int, *options: str) -> Path:
    """A filesystem in a file, mounted until the workspace goes; options are those of mkfs. A libvirtd that runs already does not see it."""
    file, directory = space.path / f"{name}.{kind}", space.path / name
    with open(file, "wb") as made:
        made.truncate(size)
    subprocess.run([f"mkfs.{kind}", "-q", *options, file], check=True)
    directory.mkdir()
    subprocess.run(["mount", "-o", "loop", file, directory], check=True)
    return directory


def move_to(directory: Path, image: Path) -> Path:
    """The image lies there then, and a symbolic link to it where it was."""
    moved = directory / image.name
    subprocess.run(["cp", "--sparse=always", image, moved], check=True)
    image.unlink()
    image.symlink_to(moved)
    return moved


def mount_without_holes(space: Workspace) -> Path:
    """A ramfs, in a mount namespace that this process gets for its own: nobody but its children has it, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    directory = space.path / "ramfs"
    directory.mkdir()
    _check(libc.unshare(CLONE_NEWNS), "unshare")
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "make mounts private")
    _check(libc.mount(b"ramfs", os.fsencode(directory), b"ramfs", 0, None), "mount a ramfs")
    space.before_close(lambda: _check(libc.umount2(os.fsencode(directory), MNT_DETACH), "unmount"))
    return directory


class LoopDevice:
    """A block device on a file, until the last process that has it open has closed it: here close(), or the end."""

    def __init__(self, file: Path) -> None:
        info = bytearray(232)
        struct.pack_into("I", info, LOOP_INFO_FLAGS, LO_FLAGS_AUTOCLEAR)
        with open(file, "r+b") as image, open("/dev/loop-control", "r+b", buffering=0) as control:
            for _ in range(50):
                self.path = Path(f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}")
                self._device = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(self._device, LOOP_CONFIGURE, LOOP_CONFIG.pack(image.fileno(), 0, bytes(info)))
                    return
                except OSError:  # somebody else was faster
                    os.close(self._device)
                    time.sleep(0.1)
        raise OSError(f"no loop device for '{file}'")

    def close(self) -> None:
        os.close(self._device)
