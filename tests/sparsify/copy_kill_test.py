#!/usr/bin/env python3
"""copy_kill_test.py PROGRAM WORKER DUMP KILL_AT_SYNC: a copy (--output, the drop-in's) is on the disk before it has its name, and its name before we
say so: SIGKILL right before each sync, and at random moments (--kills=N, default 20). Nothing of it stays longer than until the next run."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from sparsifylib import MIB, Case, Judge, Program, allocated, children

import imagelib


class Copying:
    """One way to make a copy of `source`: the command, and where its parts lie."""

    def __init__(self, name, command, environment, temporary):
        self.name, self.command, self.environment, self.temporary = name, command, environment, temporary

    def start(self, source, target, **environment):
        return subprocess.Popen([*map(str, self.command), str(source), str(target)] if self.name == "drop-in"
                                else [*map(str, self.command), "--output", str(target), str(source)],
                                env=self.environment | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)

    def run(self, source, target, status, **environment):
        process = self.start(source, target, **environment)
        out, err = process.communicate(timeout=120)
        if process.returncode != status:
            raise AssertionError(f"{self.name}: status {process.returncode}, not {status}: {out} {err}")


def ways(program, work):
    temporary = work / "tmp"
    temporary.mkdir()
    environment = program.environment | {"VIRT_RECLAIM_RUN_DIR": str(program.run_directory), "TMPDIR": str(temporary)}
    yield Copying("--output", program.command(), environment, temporary)
    yield Copying("drop-in", [program.path, "virt-sparsify"], environment, temporary)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def at_each_sync(way, judge, source, format_, place, killer):
    """The first sync is that of all of the copy, without its name; the second that of its name. There is no third."""
    target = place / "copy"
    for old in (False, True) if way.name == "drop-in" else (False,):  # --output never replaces
        syncs = 0
        while True:
            if old:
                target.write_text("what was there")
            syncs += 1
            try:
                way.run(source, target, -signal.SIGKILL, LD_PRELOAD=killer, VR_KILL_AT_SYNC=str(syncs), VR_KILL_IN=str(place))
            except AssertionError as error:
                if f"status 0, not {-signal.SIGKILL}" not in str(error):
                    raise
                break
            if syncs == 1:
                parts = [path for path in place.rglob("*") if path.is_file() and path != target]
                if target.exists() != old or (old and target.read_text() != "what was there"):
                    raise AssertionError(f"{way.name}: it had its name before it was on the disk")
                if len(parts) != 1:
                    raise AssertionError(f"{way.name}: no copy to be synced: {names(place)}")
                judge.check(parts[0], format_)
            else:
                if names(place) != ["copy"]:
                    raise AssertionError(f"{way.name}: with its name there is nothing else left: {names(place)}")
                judge.check(target, format_)
            target.unlink(missing_ok=True)
        if syncs != 3:
            raise AssertionError(f"{way.name}: {syncs - 1} syncs beside the copy, not the file's and the directory's")
        if names(place) != ["copy"] or names(way.temporary):
            raise AssertionError(f"{way.name}: left by the killed runs: {names(place)} {names(way.temporary)}")
        judge.check(target, format_)
        target.unlink()
    print(f"{way.name} {format_}: killed before both of its syncs", flush=True)


def at_random(way, judge, source, format_, place, kills, dice):
    target = place / "copy"
    begin = time.monotonic()
    way.run(source, target, 0)
    whole = time.monotonic() - begin
    target.unlink()
    half = 0
    for _ in range(kills):
        process = way.start(source, target)
        time.sleep(dice.uniform(0, whole))
        servants = children(process.pid)
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 30
        while any(pathlib.Path(f"/proc/{pid}").exists() for pid in servants):
            if time.monotonic() > deadline:
                raise AssertionError("its children outlive it")
            time.sleep(0.01)
        if target.exists():
            judge.check(target, format_)
            target.unlink()
        half += bool(names(place) or names(way.temporary))
        way.run(source, target, 0)
        if names(place) != ["copy"] or names(way.temporary):
            raise AssertionError(f"{way.name}: left behind: {names(place)} {names(way.temporary)}")
        target.unlink()
    print(f"{way.name} {format_}: {kills} kills within {whole:.2f} s, {half} left something, nothing after the next run", flush=True)


def without_its_server(way, source, place):
    """qemu-storage-daemon dies in the middle: an error, and nothing stays."""
    asleep = place.parent / "asleep"
    asleep.write_text("#!/bin/sh\nexec sleep 100\n")
    asleep.chmod(0o700)
    process = way.start(source, place / "copy", VIRT_RECLAIM_FREEMAP=str(asleep))

    def servant(name):
        return [pid for pid in children(process.pid) if pathlib.Path(f"/proc/{pid}/comm").read_text().startswith(name)]

    deadline = time.monotonic() + 60
    while not (servant("qemu-storage") and servant("sleep")):
        if time.monotonic() > deadline or process.poll() is not None:
            raise AssertionError(f"no server, or no worker: {process.communicate()}")
        time.sleep(0.01)
    os.kill(servant("qemu-storage")[0], signal.SIGKILL)
    os.kill(servant("sleep")[0], signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0 or names(place) or names(way.temporary):
        raise AssertionError(f"{way.name}: status {process.returncode}, left {names(place)} {names(way.temporary)}: {out} {err}")


def main():
    virt_reclaim, worker, dump, killer = sys.argv[1:5]
    kills = int(next((word.removeprefix("--kills=") for word in sys.argv[5:] if word.startswith("--kills=")), 20))
    imagelib.need("mkfs.ext4", "losetup", "qemu-img", "qemu-storage-daemon")
    imagelib.own_mounts()
    with imagelib.work_directory("sparsify-copy-kill.") as work:
        program = Program(virt_reclaim, worker, work)
        judge = Judge(work, Case("ext4", "mkfs.ext4 -q", "few", size=48 * MIB, megabytes=24), dump, worker)
        place, dice = work / "place", random.Random("copies")
        place.mkdir()
        for way in ways(program, work):
            for format_ in ("raw", "qcow2"):
                source = judge.copy(work / "source", format_)
                before = source.read_bytes()
                at_each_sync(way, judge, source, format_, place, killer)
                at_random(way, judge, source, format_, place, kills // 4 if kills > 3 else 1, dice)
                without_its_server(way, source, place)
                if source.read_bytes() != before or allocated(source) == 0:
                    raise AssertionError("the source changed")
                source.unlink()


if __name__ == "__main__":
    main()
