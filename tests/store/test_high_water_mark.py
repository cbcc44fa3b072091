"""The highest change that the host has seen, beside the store."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from hvtx.errors import Refused
from hvtx.store.database import Store

from .shelf import enter, high_water, seq

ALONE = ("unshare", "-m", "sh", "-c")
_FORK = multiprocessing.get_context("fork")


def test_the_mark_is_raised_after_the_commit(store: Store) -> None:
    """Before it, a crash in between would look like a lost commit."""
    enter(store)
    with store.transaction():
        assert high_water(store) == 1
    assert high_water(store) == 2


def test_a_mark_never_falls(store: Store) -> None:
    """As a maximum: a store that was put back does not take the evidence away by writing."""
    enter(store)
    Path(store.run_directory, "hwm").write_bytes((99).to_bytes(8, "little"))
    with pytest.raises(Refused, match="older than what this host has seen"):
        enter(store)
    with store.transaction(older=True):
        pass
    assert high_water(store) == 99
    assert seq(store) == 2


def test_a_mark_that_cannot_rise_fails_no_commit(store: Store) -> None:
    """The commit cannot be taken back: saying that it failed would be untrue."""
    enter(store)
    path = Path(store.run_directory, "hwm")
    os.close(store.mark._descriptor)  # type: ignore[arg-type]
    store.mark._descriptor = os.open(path, os.O_RDONLY)
    assert enter(store) == 2
    assert seq(store) == 2
    assert high_water(store) == 1
