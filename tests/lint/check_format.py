#!/usr/bin/env python3
"""Every .cc and .h of ours is as clang-format writes it. Exit status 77 when clang-format is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

from lintlib import SKIP, Finding, Sample, Tree, main

FOLDERS = ("base", "proto", "guest-config", "guest-agent", "host", "xml-tools", "tests", "bench")
NOT_CODE = ("tests/data/",)  # inputs of tests, as they are
FILES_PER_CALL = 40
STYLE = "BasedOnStyle: Google\nColumnLimit: 100\n"


def check(tree: Tree) -> list[Finding]:
    program = shutil.which("clang-format") or ""
    paths = [path for path in tree.code(*FOLDERS) if not path.startswith(NOT_CODE)]
    first: dict[str, int] = {}
    for begin in range(0, len(paths), FILES_PER_CALL):
        done = subprocess.run(
            [program, "--dry-run", "-Werror", *paths[begin : begin + FILES_PER_CALL]], cwd=tree.root,
            capture_output=True, text=True, errors="replace", check=False,
        )
        for path, line in re.findall(r"^(\S+?):(\d+):\d+: error:", done.stderr, re.M):
            first.setdefault(path, int(line))
        if done.returncode != 0 and not first:
            return [Finding("clang-format", 0, done.stderr.strip())]
    return [Finding(path, line, f"not formatted from here on: run 'clang-format -i {path}'") for path, line in first.items()]


SAMPLES = [
    Sample("good", {".clang-format": STYLE, "base/a.cc": "int Answer() { return 42; }\n"}, None),
    Sample("bad", {".clang-format": STYLE, "base/a.cc": "int Answer( ){return 42 ;}\n"}, "base/a.cc:1: not formatted"),
    Sample("too long", {".clang-format": STYLE, "host/cli/a.cc": f"int a = {' + '.join(['1'] * 40)};\n"}, "host/cli/a.cc:1"),
    Sample("data", {".clang-format": STYLE, "tests/data/a.cc": "int Answer( ){return 42 ;}\n"}, None),
]

if __name__ == "__main__":
    if not shutil.which("clang-format"):
        print("clang-format is missing")
        sys.exit(SKIP)
    sys.exit(main(check, SAMPLES, __doc__ or ""))
