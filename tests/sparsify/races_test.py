#!/usr/bin/env python3
"""races_test.py PROGRAM WORKER DUMP: who else may have the image. In use: refused, with the holder's name, and nothing changes. A QEMU
that starts, a second sparsify and qemu-img at random moments: one of the two waits or gives up, and content is the same. On a block device
it is sparsify that gives up, as soon as a QEMU has it, on whatever node."""

import os
import pathlib
import random
import signal
import stat
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import Case, Judge, Program, allocated, qcow2_errors, run

import imagelib

ROUNDS = 8
STEP = 4 << 20


def qemu(path, format_, driver="file"):
    """A QEMU that has opened the image for writing when it says so, and never runs its guest."""
    return subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-S", "-display", "none", "-nodefaults", "-qmp", "stdio",
         "-blockdev", f"driver={format_},node-name=d,file.driver={driver},file.filename={path},discard=unmap", "-device", "virtio-blk-pci,drive=d"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process):
    """Its status and errors."""
    process.terminate()
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def in_use_is_refused(judge, program, path, format_):
    judge.copy(path, format_)
    before = allocated(path)
    holder = qemu(path, format_)
    if not holder.stdout.readline().startswith('{"QMP"'):
        raise AssertionError(end(holder))
    target = program(path, status=5)["targets"][0]
    text = target["reasons_explained"][0]
    if target["reasons"] != ["image-in-use"] or f"(pid {holder.pid})" not in text["detail"]:
        raise AssertionError(f"not refused by name: {target}")
    end(holder)
    if allocated(path) != before:
        raise AssertionError("refused, and yet something changed")
    if format_ == "raw":
        loop = run("losetup", "-f", "--show", path).stdout.strip()
        target = program(path, status=5)["targets"][0]
        imagelib.detach(loop, path)
        if loop not in target["reasons_explained"][0]["detail"]:
            raise AssertionError(f"the loop device is not named: {target}")
    judge.check(path, format_)


def against(other, judge, program, path, format_, dice, whole):
    """Both at once; returns how often sparsify gave way."""
    gave_way = 0
    for _ in range(ROUNDS):
        judge.copy(path, format_)
        ours = program.start(path)
        time.sleep(dice.uniform(0, whole))
        theirs = other(path, format_)
        out, errors = ours.communicate(timeout=120)
        if ours.returncode not in (0, 5):
            raise AssertionError(f"status {ours.returncode}: {out} {errors}")
        gave_way += ours.returncode == 5
        theirs()
        if format_ == "qcow2" and qcow2_errors(path)[0]:
            raise AssertionError("qemu-img check finds errors")
        judge.check(path, format_)
    return gave_way


def a_domain_that_starts(path, format_):
    process = qemu(path, format_)

    def finish():
        greeting = process.stdout.readline()
        status, errors = end(process)
        # It started. Of a raw file it waited for us at most; of others qemu-storage-daemon may hold locks that it hears of.
        if not greeting.startswith('{"QMP"') and (format_ == "raw" or "lock" not in errors):
            raise AssertionError(f"QEMU: {status} {errors}")

    return finish


def a_second_one(program):
    def start(path, _):
        process = program.start(path)

        def finish():
            out, errors = process.communicate(timeout=120)
            if process.returncode not in (0, 5):
                raise AssertionError(f"the second one: {process.returncode} {out} {errors}")

        return finish

    return start


def qemu_img(path, format_):
    process = subprocess.Popen(["qemu-img", "map", "-f", format_, path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish():
        _, errors = process.communicate(timeout=120)
        if process.returncode != 0 and (format_ == "raw" or "lock" not in errors):
            raise AssertionError(f"qemu-img: {errors}")

    return finish


def races_of(programs, work, format_):
    """A line for each kind of race."""
    virt_reclaim, worker, dump = programs
    work = work / format_
    work.mkdir()
    program = Program(virt_reclaim, worker, work)
    judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "chequered"), dump, worker)
    dice, path = random.Random(format_), work / f"image.{format_}"
    in_use_is_refused(judge, program, path, format_)
    lines = [f"{format_}: in use is refused by the name of the holder"]
    judge.copy(path, format_)
    begin = time.monotonic()
    program(path)
    whole = time.monotonic() - begin
    for name, other in (("a QEMU that starts", a_domain_that_starts), ("a second sparsify", a_second_one(program)), ("qemu-img map", qemu_img)):
        gave_way = against(other, judge, program, path, format_, dice, whole)
        lines.append(f"{format_}: {name}, {ROUNDS} times within {whole:.3f} s: sparsify gave way {gave_way} times, content the same")
    return lines


def has_open(pid, device):
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
        return any(os.readlink(f"/proc/{pid}/fd/{fd}") == device for fd in fds)
    except FileNotFoundError:
        return False


def races_of_device(programs, work):
    """It is stopped when it has the device, and goes on when a QEMU has it, too: as libvirt starts one, in a /dev of its own."""
    virt_reclaim, worker, dump = programs
    work = work / "device"
    work.mkdir()
    program = Program(virt_reclaim, worker, work)
    judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "chequered"), dump, worker)
    dice, path, node = random.Random("device"), work / "image.raw", work / "node"
    judge.copy(path, "raw")
    loop = run("losetup", "-f", "--show", path).stdout.strip()
    gave_way = 0
    try:
        os.mknod(node, stat.S_IFBLK | 0o600, os.stat(loop).st_rdev)
        for _ in range(ROUNDS):
            ours = program.start(loop)
            while ours.poll() is None and not has_open(ours.pid, loop):
                time.sleep(0.0005)
            time.sleep(dice.uniform(0, 0.01))
            ours.send_signal(signal.SIGSTOP)
            theirs = qemu(node, "raw", "host_device")
            greeting = theirs.stdout.readline()
            before = allocated(path)
            ours.send_signal(signal.SIGCONT)
            out, errors = ours.communicate(timeout=120)
            status, qemu_errors = end(theirs)
            if not greeting.startswith('{"QMP"'):
                raise AssertionError(f"QEMU: {status} {qemu_errors}")
            if ours.returncode not in (0, 5):
                raise AssertionError(f"status {ours.returncode}: {out} {errors}")
            gave_way += ours.returncode == 5
            # The step that it was stopped before: a run of a chequered filesystem.
            if ours.returncode == 5 and before - allocated(path) > STEP:
                raise AssertionError(f"{before - allocated(path)} bytes were given back after QEMU had the device")
    finally:
        imagelib.detach(loop, path)
        node.unlink(missing_ok=True)
    judge.check(path, "raw")
    # Unless it was done before it was stopped.
    if gave_way < ROUNDS // 2:
        raise AssertionError(f"{gave_way} times of {ROUNDS}")
    return [f"device: a QEMU that starts, {ROUNDS} times: sparsify gave way {gave_way} times, content the same"]


def races(programs, work, what):
    return races_of_device(programs, work) if what == "device" else races_of(programs, work, what)


def main():
    imagelib.need("mkfs.ext4", "losetup", "qemu-img", "qemu-storage-daemon", "qemu-system-x86_64")
    imagelib.own_mounts()
    failed = 0
    with imagelib.work_directory("sparsify-races.") as work:
        for job, result in imagelib.each(races, [(sys.argv[1:4], work, what) for what in ("raw", "qcow2", "device")]):
            failed += isinstance(result, BaseException)
            print(*([f"{job[2]}: {result!r}"] if isinstance(result, BaseException) else result), sep="\n", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
