#!/usr/bin/env python3
"""kill_test.py PROGRAM WORKER DUMP [--kills=N]: SIGKILL at N random moments (default 40), raw and qcow2; half of those of qcow2 kill QEMU's
server as well. Content the same, qemu-img check without errors, and the rerun ends the job."""

import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Judge, Program, allocated, children, qcow2_errors

import imagelib


def kill_once(judge, program, path, format_, options, delay, server_too):
    """Whether it was hit in the middle of its work, left leaks, still has them after the rerun; and what the image occupies then."""
    judge.copy(path, format_, options)
    full = allocated(path)
    process = program.start(path)
    time.sleep(delay)
    servants = children(process.pid)
    process.kill()
    if server_too:
        for pid in servants:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    process.communicate()
    deadline = time.monotonic() + 30
    # What is left ends by itself.
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in servants):
        if time.monotonic() > deadline:
            raise AssertionError("its children outlive it")
        time.sleep(0.01)
    after = allocated(path)
    leaks = False
    if format_ == "qcow2":
        errors, leaks = qcow2_errors(path)
        if errors:
            raise AssertionError("qemu-img check finds errors")
    judge.check(path, format_)
    program(path)
    judge.check(path, format_)
    left = allocated(path)
    kept = any(qcow2_errors(path)) if format_ == "qcow2" else False
    path.unlink()
    return left < after < full, leaks, kept, left


def main():
    virt_reclaim, worker, dump = sys.argv[1:4]
    kills = int(next((word.removeprefix("--kills=") for word in sys.argv[4:] if word.startswith("--kills=")), 40))
    imagelib.need("mkfs.ext4", "losetup", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    work = pathlib.Path(tempfile.mkdtemp(prefix="sparsify-kill."))
    os.environ["TMPDIR"] = tempfile.tempdir = str(work)
    dice = random.Random(6)
    try:
        program = Program(virt_reclaim, worker, work)
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "chequered", size=48 * MIB, megabytes=24), dump, worker)
        # Small clusters: more requests to be killed between.
        for format_, options in (("raw", ""), ("qcow2", "cluster_size=4096")):
            path = work / f"image.{format_}"
            judge.copy(path, format_, options)
            begin = time.monotonic()
            program(path)
            whole = time.monotonic() - begin
            wanted = allocated(path)
            path.unlink()
            middle = leaked = still = 0
            for i in range(kills):
                hit, leaks, kept, left = kill_once(judge, program, path, format_, options, dice.uniform(0, whole), format_ == "qcow2" and i % 2 == 0)
                middle, leaked, still = middle + hit, leaked + leaks, still + kept
                if left > wanted * 1.1:
                    raise AssertionError(f"after the rerun {left} bytes, {wanted} without a kill")
            print(f"{format_}: {kills} kills within {whole:.3f} s, {middle} in the middle of the work, {leaked} with leaks, {still} of them after "
                  f"the rerun, all files the same, all reruns ended the job", flush=True)
        left = [name for name in os.listdir(work / "run") if not name.endswith(".lock")]
        if left:
            print(f"left in the run directory: {left}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
