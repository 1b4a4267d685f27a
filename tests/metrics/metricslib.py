"""What the tests of metrics, rules, dashboard and page share."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SKIP = 77  # ctest's SKIP_RETURN_CODE
PROMETHEUS = ROOT / "packaging/prometheus"
DASHBOARD = ROOT / "packaging/grafana/virt-reclaim.json"


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            print(f"skipped: '{program}' is not installed: scripts/install-packages test")
            sys.exit(SKIP)


def run(*command: str, text: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout, check=False)


def golden(name: str) -> str:
    """The standard output of a golden test."""
    text = (ROOT / "tests/golden/cli" / f"{name}.txt").read_text()
    return text.split("\n", 1)[1].split("--- stderr\n")[0]


def metric_names() -> set[str]:
    """Every metric there is, by the source that makes them."""
    source = (ROOT / "host/model/metrics.cc").read_text()
    return {"virt_reclaim_" + name for name in re.findall(r'(?:Declare|each)\(\s*"([a-z_]+)"', source)}


def used_names(text: str) -> set[str]:
    return set(re.findall(r"\bvirt_reclaim_[a-z_]+", text))
