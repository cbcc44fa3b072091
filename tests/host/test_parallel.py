"""Several waits at once."""

from __future__ import annotations

import threading

import pytest

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


def test_what_gets_no_thread_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, whether the first thread or a later one cannot be had."""
    start = threading.Thread.start
    for most in (0, 2):
        done: list[int] = []
        left = [most]

        def scarce(thread: threading.Thread, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", scarce)
        works = [lambda n=n, done=done: done.append(n) for n in range(5)]  # type: ignore[misc]
        assert parallel.each(works) == [None] * 5
        assert sorted(done) == [0, 1, 2, 3, 4]
