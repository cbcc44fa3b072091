"""How the commit of an operation leaves its rows."""

from __future__ import annotations

from hvtx.engine.making import committed
from hvtx.model.resource import Resource, State


def row(number: int, observed: dict[str, int]) -> Resource:
    """A row that is intended."""
    mark = f"hvtx:1:abcdefghij:{number}.aaaabbbbccccdddd"
    return Resource(number, "tap", f"hv{number}", "intended", mark, {}, observed, 1, 1, None, None)


def test_a_row_is_committed_with_what_was_seen_of_it_and_else_as_it_was() -> None:
    """What the driver saw replaces what the row said; a row of which it says nothing keeps it."""
    seen = {"ifindex": 7}
    made, kept = committed([row(1, {"old": 1}), row(2, {"netns": 3})], {1: seen})
    assert (made.state, made.observed, made.mark) == (State.COMMITTED, seen, row(1, {}).mark)
    assert (kept.state, kept.observed) == (State.COMMITTED, {"netns": 3})
    assert made.observed is not seen
