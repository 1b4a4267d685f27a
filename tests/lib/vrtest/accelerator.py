"""KVM or emulation? A /dev/kvm that opens proves nothing: nested KVM may run a few instructions and hang every kernel.

So two guests that end by themselves are run under a clock. The first, a boot sector that leaves QEMU by its debug exit, takes
0.2 s where KVM works and tells most broken ones in the second it is given. The second is the kernel the real guest will
run: without a root it panics, and reboots out of QEMU.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SECTOR_SECONDS = 1.0
KERNEL_SECONDS = 15.0

# mov al, 0x10; out 0xf4, al; hlt; jmp $-1. The value written comes out of QEMU as exit status 2 * value + 1.
_SECTOR_CODE = bytes.fromhex("b010e6f4f4ebfd")
_SECTOR_STATUS = 0x10 * 2 + 1


@dataclass(frozen=True)
class Accelerator:
    domain_type: str  # libvirt's <domain type=...>
    sentence: str  # one line for the user


def _ends(expected: int, seconds: float, *arguments: str) -> bool:
    command = [
        "qemu-system-x86_64", "-accel", "kvm", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", *arguments,
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == expected


def choose_accelerator(kernel: Path) -> Accelerator:
    emulated = "the guest is emulated (slower, all else the same)"
    if not os.path.exists("/dev/kvm"):
        return Accelerator("qemu", f"no KVM on this machine: {emulated}")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator("qemu", f"/dev/kvm is not ours to use: {emulated}")
    begin = time.monotonic()
    with tempfile.NamedTemporaryFile(prefix="vr-sector-") as sector:
        sector.write(_SECTOR_CODE.ljust(510, b"\0") + b"\x55\xaa")
        sector.flush()
        works = _ends(
            _SECTOR_STATUS, SECTOR_SECONDS, "-drive", f"file={sector.name},format=raw,if=floppy,readonly=on"
        ) and _ends(0, KERNEL_SECONDS, "-kernel", str(kernel), "-append", "panic=-1 quiet")
    seconds = time.monotonic() - begin
    if not works:
        return Accelerator("qemu", f"/dev/kvm is there but a test guest hung in it ({seconds:.1f} s): {emulated}")
    return Accelerator("kvm", f"KVM works (test guest: {seconds:.1f} s)")
