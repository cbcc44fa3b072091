"""A thread of its own, and what it raises."""

from __future__ import annotations

import threading

import pytest

from hvtx.host.own_thread import in_own_thread


def test_it_is_another_thread_and_its_result_is_given() -> None:
    here = threading.get_native_id()
    there = in_own_thread(threading.get_native_id)
    assert there != here
    assert threading.get_native_id() == here


def test_what_it_raises_is_raised_here() -> None:
    def fails() -> None:
        raise ProcessLookupError(3, "gone")

    with pytest.raises(ProcessLookupError, match="gone"):
        in_own_thread(fails)
