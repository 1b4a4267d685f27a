#!/usr/bin/env python3
"""sandbox_test.py PROGRAM WORKER DUMP HOLD_AT_READ: virt-reclaim-freemap, as sparsify really starts it, is locked in before it reads the first byte of
an image: what the kernel says of the process while it stands still there. What the cage keeps it from is freemap_sandbox_test.cc's."""

import ctypes
import mmap
import os
import pathlib
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Judge, Program

import imagelib

NOBODY, FILTER, MIB_384 = 65534, 2, 384 * MIB
LANDLOCK_CREATE_RULESET, VERSION = 444, 1


def landlock_version():
    return ctypes.CDLL(None, use_errno=True).syscall(LANDLOCK_CREATE_RULESET, None, 0, VERSION)


def field(status, name):
    return next(line.split(":", 1)[1].split() for line in status.splitlines() if line.startswith(name + ":"))


def judge_process(pid, image):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    for name in ("Uid", "Gid"):
        if field(status, name) != [str(NOBODY)] * 4:
            raise AssertionError(f"{name} {field(status, name)}")
    if field(status, "Groups"):
        raise AssertionError(f"groups {field(status, 'Groups')}")
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        if int(field(status, name)[0], 16) != 0:
            raise AssertionError(f"{name} {field(status, name)}")
    for name, wanted in (("Seccomp", FILTER), ("NoNewPrivs", 1), ("Threads", 1)):
        if field(status, name) != [str(wanted)]:
            raise AssertionError(f"{name} {field(status, name)}, not {wanted}")
    limits = {line[:26].strip(): line[26:].split()[:2] for line in pathlib.Path(f"/proc/{pid}/limits").read_text().splitlines()}
    for name, wanted in (("Max address space", MIB_384), ("Max cpu time", 60), ("Max file size", 6 * MIB), ("Max core file size", 0),
                         ("Max processes", 0), ("Max open files", 0), ("Max locked memory", 0)):
        if limits[name] != [str(wanted)] * 2:
            raise AssertionError(f"{name}: {limits[name]}, not {wanted}")
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        place = os.readlink(link)
        if place == str(image):
            flags = next(line for line in pathlib.Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().splitlines() if line.startswith("flags"))
            if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                raise AssertionError(f"it could write to the image: {flags}")
        elif place != "/dev/null" and not place.startswith(("pipe:", "/memfd:")):
            raise AssertionError(f"it has {place} open")


def main():
    virt_reclaim, worker, dump, hold = sys.argv[1:5]
    imagelib.need("mkfs.ext4", "losetup", "qemu-img")
    imagelib.own_mounts()
    with imagelib.work_directory("sparsify-sandbox.") as work:
        program = Program(virt_reclaim, worker, work)
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=48 * MIB, megabytes=16), dump, worker)
        path, shared, wrapper = judge.copy(work / "image"), work / "shared", work / "worker"
        shared.write_bytes(bytes(4096))
        # The same process becomes the real worker: what is preloaded only notes and waits.
        wrapper.write_text(f'#!/bin/sh\nVR_HOLD={shared} LD_PRELOAD={hold} exec {worker} "$@"\n')
        wrapper.chmod(0o700)
        program.environment["VIRT_RECLAIM_FREEMAP"] = str(wrapper)
        process = program.start("--dry-run", path)
        with open(shared, "r+b") as file, mmap.mmap(file.fileno(), 16) as words:
            deadline = time.monotonic() + 60
            while struct.unpack_from("=I", words, 0)[0] == 0:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise AssertionError(f"it never read: {process.communicate()}")
                time.sleep(0.01)
            try:
                (pid,) = [int(child) for child in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
                judge_process(pid, path)
                calls, locked = struct.unpack_from("=II", words, 8)
                if (calls, locked) != ((1, 1) if landlock_version() > 0 else (0, 0)):
                    raise AssertionError(f"landlock {landlock_version()}: asked {calls} times, {locked} with success")
            finally:
                struct.pack_into("=I", words, 4, 1)
        out, err = process.communicate(timeout=60)
        if process.returncode != 0 or '"reclaimable_bytes": 0' in out.split('"targets"')[0]:
            raise AssertionError(f"status {process.returncode}: {out} {err}")
        print(f"the worker as it is started: seccomp filter, no new privileges, nobody, limits; landlock {landlock_version()}")


if __name__ == "__main__":
    main()
