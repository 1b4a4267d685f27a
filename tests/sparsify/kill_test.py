#!/usr/bin/env python3
"""kill_test.py PROGRAM WORKER DUMP [--kills=N]: SIGKILL at N random moments (default 40), raw and qcow2, half of them once work has begun; half of
those of qcow2 kill QEMU's server as well. Content the same, qemu-img check without errors, and the rerun ends the job."""

import os
import pathlib
import random
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Judge, Program, allocated, children, qcow2_errors

import imagelib


def kill_once(judge, program, path, format_, options, at_work, delay, server_too):
    """Whether it was hit before (-1), in the middle of or after its work, left leaks; what the image occupies after the rerun."""
    judge.copy(path, format_, options)
    full = allocated(path)
    process = program.start(path)
    while at_work and process.poll() is None and allocated(path) >= full:
        pass
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
    said = program(path)["targets"][0]["reasons"]
    if leaks != ("leaks-repaired" in said):
        raise AssertionError(f"leaks: {leaks}, and the rerun says {said}")
    judge.check(path, format_)
    left = allocated(path)
    if format_ == "qcow2" and any(qcow2_errors(path)):
        raise AssertionError("the rerun left errors or leaks")
    path.unlink()
    return (after <= left) - (after >= full), leaks, left


def kill_many(programs, work, name, format_, options, kills):
    """What became of it, in words. Each of these has its own image, dice and directory."""
    virt_reclaim, worker, dump = programs
    work = work / name
    work.mkdir()
    program = Program(virt_reclaim, worker, work)
    judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "chequered", size=48 * MIB, megabytes=24), dump, worker)
    dice, path = random.Random(name), work / f"image.{format_}"
    judge.copy(path, format_, options)
    begin = time.monotonic()
    program(path)
    whole = time.monotonic() - begin
    spans = [whole, whole / 4]
    wanted = allocated(path)
    path.unlink()
    middle = leaked = 0
    for i in range(kills):
        # Every second one not before the first byte came free.
        at_work = i % 4 >= 2
        delay = dice.uniform(0, spans[at_work])
        hit, leaks, left = kill_once(judge, program, path, format_, options, at_work, delay, format_ == "qcow2" and i % 2 == 0)
        middle, leaked = middle + (hit == 0), leaked + leaks
        # How long the work takes changes with what else the machine does.
        spans[at_work] *= 1 - hit * 0.15
        if left > wanted * 1.1:
            raise AssertionError(f"after the rerun {left} bytes, {wanted} without a kill")
    left = [name for name in os.listdir(work / "run") if not name.endswith(".lock")]
    if left:
        raise AssertionError(f"left in the run directory: {left}")
    return middle, (f"{kills} kills within {whole:.3f} s, {middle} in the middle of the work, {leaked} with leaks, none after the rerun, "
                    "all files the same, all reruns ended the job, nothing left in the run directory")


def a_killed_server_s_directory_goes(programs, work):
    """Too short a moment to be hit: as mkdtemp leaves it, with a socket in it."""
    virt_reclaim, worker, dump = programs
    work = work / "swept"
    work.mkdir()
    program = Program(virt_reclaim, worker, work)
    judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=48 * MIB, megabytes=8), dump, worker)
    path = judge.copy(work / "image.qcow2", "qcow2")
    program("--dry-run", path)
    left = work / "run" / "nbd-a1B2c3"
    left.mkdir(0o700)
    (left / "socket").touch()
    program("--dry-run", path)
    if left.exists():
        raise AssertionError("what a killed run left is there still")


def main():
    kills = int(next((word.removeprefix("--kills=") for word in sys.argv[4:] if word.startswith("--kills=")), 40))
    imagelib.need("mkfs.ext4", "losetup", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    failed, hits = 0, {"raw": 0, "qcow2": 0}
    with imagelib.work_directory("sparsify-kill.") as work:
        a_killed_server_s_directory_goes(sys.argv[1:4], work)
        # Small clusters: more requests to be killed between. Most of the time goes into waiting for the disk.
        jobs = [(sys.argv[1:4], work, f"{format_}-{part}", format_, options, kills // 2 + (kills % 2) * part)
                for format_, options in (("raw", ""), ("qcow2", "cluster_size=4096")) for part in range(2)]
        for job, result in imagelib.each(kill_many, jobs, at_once=len(jobs)):
            if isinstance(result, BaseException):
                failed += 1
                print(f"{job[2]}: {result}", flush=True)
                continue
            hits[job[3]] += result[0]
            print(f"{job[2]}: {result[1]}", flush=True)
        if not failed and not all(hits.values()):
            failed += 1
            print(f"no kill in the middle of the work: {hits}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
