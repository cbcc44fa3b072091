"""Fixtures of the store's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.store.database import Store

from .shelf import Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A place where no store is yet."""
    return Shelf(tmp_path)


@pytest.fixture
def store(shelf: Shelf) -> Iterator[Store]:
    """A fresh store, open for writing."""
    with shelf.opened() as store:
        yield store
