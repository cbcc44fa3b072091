"""Waiting for what comes by itself: a process that ends, a line in a log, an address."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_FIRST, _LONGEST = 0.002, 0.05  # seconds between two looks: what comes at once is seen at once


def until(what: str, condition: Callable[[], T], seconds: float = 180) -> T:
    """Ask ``condition`` until it gives something that is true, and return that.

    ``what`` names what is waited for. A busy machine may take a minute for what takes a second
    elsewhere, and each look may be a whole command. Raises AssertionError if it has not come after ``seconds``;
    what ``condition`` raises passes.
    """
    deadline, pause = time.monotonic() + seconds, _FIRST
    while not (found := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
    return found
