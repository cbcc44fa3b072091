"""VMs in slices, and what came of each."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.engine import together
from hvtx.engine.together import SLICE, Tally, as_error, slices
from hvtx.errors import Busy, HostRefused, NotFound


def test_slices_are_full_and_in_order() -> None:
    names = [f"n{number}" for number in range(2 * SLICE + 3)]
    parts = list(slices(names))
    assert [len(part) for part in parts] == [SLICE, SLICE, 3]
    assert [name for part in parts for name in part] == names
    assert list(slices([])) == []


@pytest.mark.parametrize(("processors", "most"), [(1, 1), (2, 2), (8, 8), (500, SLICE), (None, 1)])
def test_of_what_boots_a_guest_there_are_as_many_as_processors(
    processors: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their time to come up is limited; what is light goes with them."""
    monkeypatch.setattr(together.os, "cpu_count", lambda: processors)
    names = [f"n{number}" for number in range(20)]
    assert max(map(len, slices(names, lambda name: True))) == min(most, len(names))
    mixed = list(slices(names, lambda name: name == "n0"))
    assert len(mixed[0]) <= SLICE


def test_each_is_done_or_failed_and_a_name_counts_once() -> None:
    told: list[tuple[int, int, str]] = []
    tally = Tally(["b", "a", "b", "c"], lambda *step: told.append(step))
    scope: Any = object()

    def busy() -> Any:
        raise Busy("held")

    tally.attempt("a", lambda: scope)
    tally.attempt("b", busy)
    assert tally.left(["a", "b", "c"]) == ["c"]
    tally.fail("c", OSError(24, "no descriptors"))
    tally.tell()
    tally.tell()
    came = tally.several()
    assert list(came.done) == ["a"]
    assert list(came.failed) == ["b", "c"]
    assert [type(each) for each in came.failed.values()] == [Busy, HostRefused]
    assert [step[:2] for step in told] == [(1, 3), (2, 3), (3, 3)]


def test_what_was_noted_on_an_error_stays() -> None:
    problem = OSError(12, "no memory")
    problem.add_note("rollback incomplete: tap x")
    assert as_error(problem).__notes__ == ["rollback incomplete: tap x"]
    ours = NotFound("none")
    assert as_error(ours) is ours
