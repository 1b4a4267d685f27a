"""Lets the tests of this directory import vrtest, and says where they cannot run at all."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from vrtest import skip_all  # noqa: E402


def require_bed(*programs: str) -> None:
    if os.geteuid() != 0:
        skip_all("needs root: QEMU and the images belong to it")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for program in ("virsh", "qemu-system-x86_64", "qemu-img", "busybox", *programs):
        if not shutil.which(program, path=path):
            skip_all(f"'{program}' is not installed: scripts/install-packages run test")
    if not list(Path("/boot").glob("vmlinuz-*-cloud-*")):
        skip_all("no cloud kernel in /boot: scripts/install-packages run")
