#!/usr/bin/env python3
"""copy_stop_test.py PROGRAM WORKER DUMP: SIGINT and SIGTERM while qemu-img writes a copy (--output, the drop-in's, compressed or not).

In this test's own mounts qemu-img is one that copies a MiB a second, and only once some of the copy is on the disk comes the signal. Then qemu-img is
gone before its parent, no file of the run is left, what had the name of the copy is as it was, and the next run makes the whole copy.
"""

import pathlib
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from copy_kill_test import Copying, names, ways
from sparsifylib import MIB, Case, Judge, Program, allocated, children

import imagelib

QEMU_IMG = "/usr/bin/qemu-img"
SLOWED = """#!/bin/sh
case "$1 $*" in
  "convert "*/overlay.qcow2*) shift; exec {real} convert -r 1M "$@" ;;
esac
exec {real} "$@"
"""


class SlowedQemuImg:
    """with SlowedQemuImg(work): of what a program started meanwhile copies out of an overlay"""

    def __init__(self, work):
        real, self.script = work / "qemu-img-itself", work / "qemu-img"
        shutil.copy(QEMU_IMG, real)
        self.script.write_text(SLOWED.format(real=real))
        self.script.chmod(0o755)

    def __enter__(self):
        imagelib.run("mount", "--bind", self.script, QEMU_IMG)

    def __exit__(self, *_):
        imagelib.run("umount", QEMU_IMG)


def words_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []  # it has ended


def converting(process, place):
    """The process that copies, once some of the copy is there."""
    deadline = time.monotonic() + 60
    while True:
        written = sum(allocated(path) for path in place.glob(".virt-reclaim-copy-*/image"))
        for pid in children(process.pid):
            if b"-r" in words_of(pid) and written >= MIB // 4:
                return pid
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"never seen while it copied: {process.poll()} {names(place)}")
        time.sleep(0.005)


def said_so(way, number, status, out, err):
    """As the contract of the verb says, or as virt-sparsify does."""
    if way.name == "--output":
        return status == 130 and '"status": "cancelled"' in out
    told = "virt-sparsify: Exiting on signal SIGTERM\n" if number == signal.SIGTERM else "virt-sparsify: error: quit (^C) at user request\n"
    return status == 1 and err.startswith(told) and "Copy to destination and make sparse" in out and "completed" not in out


def stopped(way, number, source, place, old):
    target = place / "copy"
    if old:
        target.write_text("what was there")
    process = way.start(source, target)
    copier = converting(process, place)
    process.send_signal(number)
    # Not after it: who sees us end may take the disk away.
    process.wait(timeout=60)
    if pathlib.Path(f"/proc/{copier}").exists():
        raise AssertionError("qemu-img outlives its parent")
    out, err = process.communicate(timeout=60)
    if not said_so(way, number, process.returncode, out, err):
        raise AssertionError(f"status {process.returncode}: {out} {err}")
    if names(place) != (["copy"] if old else []) or (old and target.read_text() != "what was there"):
        raise AssertionError(f"left in the place of the copy: {names(place)}")
    target.unlink(missing_ok=True)


def stopped_each_way(way, judge, formats, work, program):
    source_format, target_format = formats
    source, place = judge.copy(work / "source", source_format), work / "place"
    before = source.read_bytes()
    with SlowedQemuImg(work):
        for number in (signal.SIGINT, signal.SIGTERM):
            for old in (False, True) if way.name == "drop-in" else (False,):  # --output never replaces
                try:
                    stopped(way, number, source, place, old)
                    left = names(way.temporary) + [name for name in names(program.run_directory) if not name.endswith(".lock")]
                    if left:
                        raise AssertionError(f"left behind: {left}")
                except AssertionError as error:
                    raise AssertionError(f"{way.name} {formats} {number.name}: {error}") from error
    if source.read_bytes() != before:
        raise AssertionError("the source changed")
    way.run(source, place / "copy", 0)
    judge.check(place / "copy", target_format)
    for path in (source, place / "copy"):
        path.unlink()
    print(f"{' '.join(map(str, way.command[1:]))}, {source_format} to {target_format}: stopped while qemu-img copies, nothing stays", flush=True)


def main():
    virt_reclaim, worker, dump = sys.argv[1:4]
    imagelib.need("mkfs.ext4", "losetup", QEMU_IMG, "qemu-storage-daemon")
    imagelib.own_mounts()
    with imagelib.work_directory("sparsify-copy-stop.") as work:
        program = Program(virt_reclaim, worker, work)
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=48 * MIB, megabytes=24), dump, worker)
        (work / "place").mkdir()
        output, drop_in = ways(program, work)
        packed = Copying("drop-in", [*drop_in.command, "--convert", "qcow2", "--compress"], drop_in.environment, drop_in.temporary)
        for way, formats in ((output, ("raw", "raw")), (output, ("qcow2", "qcow2")), (drop_in, ("raw", "raw")), (packed, ("raw", "qcow2")),
                             (drop_in, ("qcow2", "qcow2"))):
            stopped_each_way(way, judge, formats, work, program)


if __name__ == "__main__":
    main()
