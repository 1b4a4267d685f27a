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


def documented_labels() -> dict[str, set[str]]:
    """Metric -> its labels, by the tables of docs/metrics.md."""
    rows = re.findall(r"^\| `(virt_reclaim_\w+)` \| (.*?) \|", (ROOT / "docs/metrics.md").read_text(), flags=re.M)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def sample_labels(text: str) -> dict[str, set[str]]:
    """Metric -> the labels it has in `text`, which `virt-reclaim metrics` printed."""
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(virt_reclaim_\w+)(?:\{(.*)\})? ", text, flags=re.M):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def query_labels(expression: str) -> set[str]:
    """Labels that a query names: in selectors, and after by, on and their like."""
    named = set()
    for selector in re.findall(r"\{(.*?)\}", expression):
        named.update(re.findall(r"(\w+)\s*[=!]", selector))
    for names in re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\((.*?)\)", expression):
        named.update(re.findall(r"\w+", names))
    return named
