"""What make-guest and make-debian-guest share."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path


class Problem(Exception):
    """Something the caller can put right; the text says what."""


def require_program(name: str, group: str = "run") -> Path:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        raise Problem(f"'{name}' is not installed: run 'scripts/install-packages {group}'")
    return Path(found)


def without_debug_info(program: Path) -> bytes:
    """A development build carries debug information many times its size, all of which the guest would have to keep."""
    strip = shutil.which("strip")
    if strip:
        with tempfile.NamedTemporaryFile() as stripped:
            done = subprocess.run(
                [strip, "--strip-debug", "-o", stripped.name, program], capture_output=True, check=False
            )
            if done.returncode == 0:
                return Path(stripped.name).read_bytes()
    return program.read_bytes()


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "virt-reclaim"
