"""unittest, with exit status 77 when nothing could be tested: ctest and scripts/test count that as a skip, by name."""

from __future__ import annotations

import sys
import unittest
from typing import NoReturn

SKIPPED = 77


def skip_all(reason: str) -> NoReturn:
    print(f"SKIP: {reason}", file=sys.stderr)
    sys.exit(SKIPPED)


def main(*, one_story: bool = False) -> None:
    """one_story: each test builds on the ones before it, so the first failure is the last thing worth knowing."""
    program = unittest.main(verbosity=2, failfast=one_story, exit=False)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.testsRun == len(result.skipped):
        sys.exit(SKIPPED)
