"""Disk images on the host: made, measured and checked. No loop devices: nothing can be left behind."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from pathlib import Path

MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-L"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-L"],
    "btrfs": ["mkfs.btrfs", "-q", "-f", "-L"],
}
# Each only looks, and exits with 0 only when there is nothing to complain about.
FSCK = {
    "ext4": ["e2fsck", "-fn"],
    "xfs": ["xfs_repair", "-n", "-f"],
    "btrfs": ["btrfs", "check", "--readonly"],
}
SBIN = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}


class ImageProblem(Exception):
    pass


def run_tool(*command: str | Path) -> str:
    result = subprocess.run(
        [str(word) for word in command], env=SBIN, capture_output=True, text=True, errors="replace", check=False,
        stdin=subprocess.DEVNULL,
    )
    if result.returncode != 0:
        output = (result.stdout + result.stderr).strip()
        raise ImageProblem(f"'{' '.join(map(str, command))}' exited with {result.returncode}: {output[-2000:]}")
    return result.stdout


def make_image(path: Path, *, fs: str, size: int, image_format: str, label: str) -> None:
    """A sparse image with one filesystem on the whole disk."""
    raw = path if image_format == "raw" else path.with_name(f".{path.name}.raw")
    try:
        with open(raw, "wb") as file:
            file.truncate(size)
        run_tool(*MKFS[fs], label, raw)
        if raw != path:
            run_tool("qemu-img", "convert", "-f", "raw", "-O", image_format, raw, path)
    finally:
        if raw != path:
            raw.unlink(missing_ok=True)


def allocation(path: Path) -> int:
    """Bytes the file occupies on the host; libvirt's 'allocation'."""
    return os.stat(path).st_blocks * 512


def check_image(path: Path, image_format: str) -> None:
    """qemu-img check; a raw image has no structure of its own to check."""
    if image_format != "raw":
        run_tool("qemu-img", "check", "-q", "-f", image_format, path)


def fsck(path: Path, *, fs: str, image_format: str, start: int = 0) -> None:
    """Checks the filesystem in the image of a guest that is off. Read-only; other formats by way of a sparse raw copy.
    start: where a partition begins, for ext4 only."""
    if image_format == "raw":
        run_tool(*FSCK[fs], f"{path}?offset={start}" if start else path)
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fsck-") as directory:
        raw = Path(directory) / "copy.raw"
        run_tool("qemu-img", "convert", "-f", image_format, "-O", "raw", path, raw)
        fsck(raw, fs=fs, image_format="raw", start=start)


def new_uuid() -> str:
    return str(uuid.uuid4())
