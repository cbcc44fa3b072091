"""Several waits at once."""

from __future__ import annotations

import threading

from hvtx.errors import HostRefused
from hvtx.host import parallel


def test_all_wait_at_the_same_time() -> None:
    """Each waits for the others: one after the other, none would come to its end."""
    meeting = threading.Barrier(5, timeout=30)

    def wait() -> None:
        meeting.wait()

    assert parallel.each([wait] * 5) == [None] * 5


def test_an_error_is_its_own() -> None:
    problem = HostRefused("no")

    def fail() -> None:
        raise problem

    assert parallel.each([fail, lambda: None]) == [problem, None]
    assert parallel.each([fail]) == [problem]
    assert parallel.each([]) == []
