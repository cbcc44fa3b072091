"""Boots and namespaces that the store worked in."""

from __future__ import annotations

import multiprocessing

from hvtx.store import records
from hvtx.store.database import Store
from tests.store.shelf import NOW

ALONE = ("unshare", "-m", "sh", "-c")
_FORK = multiprocessing.get_context("fork")


def test_the_first_life_needs_no_recovery(store: Store) -> None:
    """Later ones do, until it is done; a life that is entered again is the same life."""
    with store.transaction() as sql:
        first = records.set_life(sql, "boot-a", 7, NOW)
        assert (first.id, first.recovered) == (1, True)
        second = records.set_life(sql, "boot-b", 7, NOW)
        assert (second.id, second.recovered) == (2, False)
        records.set_attempted(sql, 2, "id-web")
        records.set_attempted(sql, 2, "id-web")
        records.set_recovered(sql, 2, NOW)
        assert records.set_life(sql, "boot-b", 7, NOW) == second._replace(recovered=True)
    assert records.current_life(store.connection) == second._replace(recovered=True)
    assert records.attempted(store.connection, 2) == {"id-web"}
    assert records.attempted(store.connection, 1) == set()
