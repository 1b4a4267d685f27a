"""What the lint checks share: which files there are, how findings are shown, and how a check proves that it can fail."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SKIP = 77  # ctest's SKIP_RETURN_CODE
NOT_OURS = {".git", "build", ".cache", "__pycache__"}


@dataclass(frozen=True)
class Finding:
    path: str
    line: int  # 0: the whole file
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}" if self.line else f"{self.path}: {self.text}"


@dataclass(frozen=True)
class Sample:
    """A small tree that the check must complain about with this text, or (expect=None) not at all."""

    name: str
    files: dict[str, str]
    expect: str | None


class Tree:
    """The project's files: what git tracks or would track, or without git all that is not a build."""

    def __init__(self, root: Path) -> None:
        self.root = root
        found = self._from_git() or self._from_disk()
        self.files = sorted(f for f in found if "__pycache__" not in f.split("/"))

    def read(self, path: str) -> str:
        return (self.root / path).read_text(errors="surrogateescape")

    def has(self, path: str) -> bool:
        return (self.root / path).exists()

    def code(self, *folders: str) -> list[str]:
        return [f for f in self.files if f.endswith((".cc", ".h")) and (not folders or f.split("/")[0] in folders)]

    def _from_git(self) -> list[str]:
        if not (self.root / ".git").exists():
            return []
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={self.root}", "-C", self.root, "ls-files", "-z", "--cached", "--others",
             "--exclude-standard"],
            capture_output=True, check=False,
        )
        names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
        return [name for name in set(names) if (self.root / name).is_file()]

    def _from_disk(self) -> list[str]:
        found = []
        for directory, folders, names in os.walk(self.root):
            folders[:] = [f for f in folders if f not in NOT_OURS]
            found += [str((Path(directory) / name).relative_to(self.root)) for name in names]
        return found


def self_test(check: Callable[[Tree], list[Finding]], samples: list[Sample]) -> int:
    failures = 0
    for sample in samples:
        with tempfile.TemporaryDirectory() as directory:
            for name, text in sample.files.items():
                path = Path(directory) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            found = [str(finding) for finding in check(Tree(Path(directory)))]
        good = not found if sample.expect is None else any(sample.expect in text for text in found)
        if not good:
            failures += 1
            print(f"self-test '{sample.name}': wanted {sample.expect or 'no finding'!r}, got {found}", file=sys.stderr)
    print(f"self-test: {len(samples) - failures} of {len(samples)} samples as expected")
    return 1 if failures else 0


def main(check: Callable[[Tree], list[Finding]], samples: list[Sample], description: str) -> int:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="the source tree")
    parser.add_argument("--self-test", action="store_true", help="feed bad samples; fail when one passes")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test(check, samples)
    findings = check(Tree(arguments.root.resolve()))
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings")
    return 1 if findings else 0
