"""The agent and the host program of the commit that older-commit.txt names, built from this repository's history. Once a machine: the two
programs stay in the cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMIT_FILE = Path(__file__).with_name("older-commit.txt")
NAMES = ("virt-reclaim", "virt-reclaim-agent")
# What this test does not use.
WITHOUT = ("VIRT_RECLAIM_TESTS", "VIRT_RECLAIM_BENCH", "VIRT_RECLAIM_MAN", "VIRT_RECLAIM_GUESTFS")
# How they speak is compared, not how fast they are.
FLAGS = "-O0 -g0 -DNDEBUG -U_FORTIFY_SOURCE -pthread -w"
# Sources of a library are compiled as one, but for those that give a name to something else than another does; a later commit has none.
ALONE = """
guest-agent/{fix_convert,guest_calls,port_finder,preflight_output,service,worker} host/cli/{command_table,text_output}
host/commands/{migrate_apply,migration_run} host/punch/{image_reader,punch}
host/services/{guest_filesystems_proto,guest_preflight_proto,image_store,offline_guest,plan_file,qemu_guest_agent,qmp,trim_history}
xml-tools/{discard_path,judge,machine_choice,tags}
"""
# Half of the time goes into these; compiled once, with what the commit's sources are compiled with, or g++ passes them over.
HEADERS = """
#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <vector>
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
"""
HEADER_FLAGS = "-std=c++20 -Wpedantic -fstack-protector-strong -D_FILE_OFFSET_BITS=64"


class NotHere(Exception):
    """The commit cannot be had; the text says why."""


@dataclass(frozen=True)
class OldPrograms:
    commit: str
    host: Path
    agent: Path


def commit() -> str:
    (found,) = (line for line in COMMIT_FILE.read_text().splitlines() if line and not line.startswith("#"))
    return found


def has_commit(wanted: str) -> bool:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{wanted}^{{commit}}"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def old_programs() -> OldPrograms:
    wanted = commit()
    base = os.environ.get("XDG_CACHE_HOME")
    directory = (Path(base) if base else Path.home() / ".cache") / "virt-reclaim" / "compat" / wanted
    programs = OldPrograms(wanted, *(directory / name for name in NAMES))
    directory.mkdir(parents=True, exist_ok=True)
    # Two builds of the project may test at the same time.
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if programs.host.exists() and programs.agent.exists():
            return programs
        if not has_commit(wanted):
            raise NotHere(f"commit {wanted[:12]} is not in the history that is here (a shallow clone, or no clone)")
        build(wanted, directory)
    return programs


def alone(source: Path) -> list[Path]:
    found = []
    for words in ALONE.split():
        directory, names = words.rstrip("}").split("/{")
        found += [source / directory / f"{name}.cc" for name in names.split(",")]
    return found


def build(wanted: str, directory: Path) -> None:
    source = directory / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    begin = time.monotonic()
    with subprocess.Popen(["git", "-C", str(ROOT), "archive", wanted], stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(source)], stdin=archive.stdout, check=True)
    if archive.returncode != 0:
        raise AssertionError(f"git archive {wanted} failed")
    headers = source / "headers.h"
    headers.write_text(HEADERS)
    call(source, "c++", *HEADER_FLAGS.split(), *FLAGS.split(), "-x", "c++-header", str(headers), "-o", f"{headers}.gch")
    at_the_end = source / "at-the-end.cmake"
    at_the_end.write_text("".join(
        f"set_source_files_properties({path} DIRECTORY {path.parent} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)\n" for path in alone(source)
    ))
    later = source / "later.cmake"
    later.write_text(f"cmake_language(DEFER DIRECTORY {source} CALL include {at_the_end})\n")
    unity = ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=32", f"-DCMAKE_PROJECT_INCLUDE={later}")
    flags = f"-DCMAKE_CXX_FLAGS_RELWITHDEBINFO={FLAGS} -fpch-preprocess -include {headers}"
    call(source, "cmake", "--preset", "dev", *(f"-D{name}=OFF" for name in WITHOUT), *unity, flags)
    call(source, "cmake", "--build", "--preset", "dev", "--target", *NAMES)
    for name in NAMES:
        (built,) = (path for path in (source / "build" / "dev").rglob(name) if path.is_file() and os.access(path, os.X_OK))
        # All at once, and without debug information: it is copied into guests.
        new = directory / f"{name}.new"
        subprocess.run(["strip", "--strip-debug", "-o", str(new), str(built)], check=True)
        new.rename(directory / name)
    shutil.rmtree(source)
    print(f"built {' and '.join(NAMES)} of {wanted[:12]} in {time.monotonic() - begin:.0f} s", file=sys.stderr)


def call(source: Path, *command: str) -> None:
    # Objects of another directory do for this one.
    environment = {**os.environ, "CCACHE_BASEDIR": str(source), "CCACHE_NOHASHDIR": "1", "CCACHE_SLOPPINESS": "pch_defines,time_macros"}
    done = subprocess.run(
        command, cwd=source, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-8000:]}")
