"""unittest, with exit status 77 when nothing could be tested: ctest and scripts/test count that as a skip, by name."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NoReturn

from .daemon import DaemonHost
from .host import EmbedHost, Host
from .programs import VirtReclaim, find_program
from .workspace import Workspace

SKIPPED = 77


def skip_all(reason: str) -> NoReturn:
    print(f"SKIP: {reason}", file=sys.stderr)
    sys.exit(SKIPPED)


def built(*names: str) -> tuple[Path, ...]:
    """The programs under test. Without one of them nothing of the caller can be tested."""
    found = {name: find_program(name) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        skip_all(f"{' and '.join(missing)} is not built, or VIRT_RECLAIM_BUILD_DIR does not name the build")
    return tuple(path for path in found.values() if path is not None)


class HostTestCase(unittest.TestCase):
    """All methods of a class share a host with nothing on it yet, and virt-reclaim against it."""

    environment: ClassVar[Mapping[str, str]] = {}  # of virt-reclaim
    space: Workspace
    host: Host
    reclaim: VirtReclaim

    @classmethod
    def make_host(cls) -> Host:
        return EmbedHost(cls.space.path)

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.space = Workspace()
        cls.addClassCleanup(cls.space.close)
        cls.host = cls.make_host()
        (program,) = built("virt-reclaim")
        cls.reclaim = VirtReclaim(program, cls.host, **cls.environment)


class DaemonTestCase(HostTestCase):
    """The host is a libvirtd of its own."""

    host: DaemonHost

    @classmethod
    def make_host(cls) -> Host:
        return DaemonHost(cls.space)


def main(*, one_story: bool = False) -> None:
    """one_story: each test builds on the ones before it, so the first failure is the last thing worth knowing."""
    program = unittest.main(verbosity=2, failfast=one_story, exit=False)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.testsRun == len(result.skipped):
        sys.exit(SKIPPED)
