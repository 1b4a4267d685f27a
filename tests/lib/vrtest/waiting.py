"""Polling with a deadline: emulated guests on a loaded machine are slow, and a sleep is always too short or too long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimedOut(Exception):
    """The thing waited for did not happen; the text names it."""


def wait_for(what: str, probe: Callable[[], T], *, seconds: float, pause: float = 0.2) -> T:
    """Calls probe until it returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimedOut(f"{what}: not within {seconds:g} s")
        time.sleep(pause)
