"""Running the drop-in for libguestfs's virt-sparsify, for the tests here."""

from __future__ import annotations

import os
import re
import subprocess

PROGRESS = re.compile(r"^\[ *\d+\.\d\] .+$")


class DropIn:
    """The program as it was built, as virt-sparsify: by its verb, and by its name."""

    def __init__(self, virt_reclaim, worker, work):
        self.command = [virt_reclaim, "virt-sparsify"]
        self.environment = os.environ | {"VIRT_RECLAIM_FREEMAP": worker, "VIRT_RECLAIM_RUN_DIR": str(work / "run"), "LC_ALL": "C.UTF-8"}
        self.by_name = work / "bin" / "virt-sparsify"
        self.by_name.parent.mkdir()
        self.by_name.symlink_to(virt_reclaim)

    def __call__(self, *words, status=0, command=None, **environment):
        done = subprocess.run([*map(str, command or self.command), *map(str, words)], env=self.environment | environment, capture_output=True,
                              text=True, timeout=500, stdin=subprocess.DEVNULL)
        if done.returncode != status:
            raise AssertionError(f"virt-sparsify {words}: status {done.returncode}, not {status}: {done.stdout} {done.stderr}")
        return done


def said(done, *texts):
    for line in done.stdout.splitlines():
        if not PROGRESS.match(line) and not line.startswith("virt-sparsify: "):
            raise AssertionError(f"not a line of virt-sparsify: {line!r}")
    for text in texts:
        if text not in done.stdout:
            raise AssertionError(f"no word of '{text}': {done.stdout}")
