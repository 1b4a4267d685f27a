"""The programs under test, where the build put them, and what they answer."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .host import Host


def build_dir() -> Path | None:
    text = os.environ.get("VIRT_RECLAIM_BUILD_DIR")
    return Path(text) if text else None


def find_program(name: str, build: Path | None = None) -> Path | None:
    """In the build directory, wherever CMake put it."""
    build = build or build_dir()
    if build is None:
        return None
    for path in sorted(build.rglob(name)):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


def host_program_path() -> Path | None:
    return find_program("virt-reclaim")


def agent_path() -> Path | None:
    return find_program("virt-reclaim-agent")


@dataclass(frozen=True)
class Reply:
    """What one run of virt-reclaim came to."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"exit status {self.status}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class VirtReclaim:
    """virt-reclaim against one host; `reclaim.run("trim", "web")` is `virt-reclaim --connect URI --json trim web`."""

    def __init__(self, program: Path, host: Host, *, uri: str = "", **environment: str) -> None:
        """uri: another way to the same host; environment: what is to be different there."""
        self._program = program
        self._uri = uri or host.uri
        self._environment = {**host.environment(), **environment}

    def command(self, *words: str) -> list[str]:
        return [str(self._program), "--connect", self._uri, "--json", *words]

    def run(self, *words: str, seconds: float = 180) -> Reply:
        done = subprocess.run(
            self.command(*words), env=self._environment, capture_output=True, text=True, timeout=seconds,
            check=False, stdin=subprocess.DEVNULL,
        )
        return Reply(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
