"""What an undo and a removal come to is a value: what was kept, what ended it, how it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hvtx.engine import undo
from hvtx.errors import Conflict, HvtxError
from hvtx.model.resource import GONE, Kind, Outcome, Resource, State

NOW, EARLIER = 2, 1
BUSY = Outcome(False, "in-use", "tap0 is held open")


class FakeOperation:
    """Notes what is asked of it; ``outcomes`` by row id, all else is gone."""

    def __init__(self, outcomes: dict[int, Outcome] | None = None) -> None:
        self.said: list[Any] = []
        self.outcomes = outcomes or {}
        self.runtime = self
        self.store = self
        self.life = type("Life", (), {"id": NOW})

    def raise_pending_interrupt(self) -> None:
        self.said.append("heeded")

    def spend_reserve(self) -> None:
        self.said.append("reserve")

    def forget(self, rows: Sequence[Resource], reasons: dict[int, str]) -> None:
        self.said.append(("forget", [row.id for row in rows], set(reasons.values())))

    def release(self, rows: Sequence[Resource], *, reasons: dict[int, str]) -> dict[int, Outcome]:
        self.said.append(("release", [row.id for row in rows], set(reasons.values())))
        return {row.id: self.outcomes.get(row.id, GONE) for row in rows}

    def end(self, result: str, *, then: Callable[[Any], None]) -> None:
        self.said.append(("end", result))
        then(self.said)


def row(number: int, kind: Kind = Kind.TAP, life: int = NOW) -> Resource:
    return Resource(
        number, kind, f"{kind}{number}", State.COMMITTED, "", {}, {}, 1, life, "web", None
    )


def test_take_down_forgets_earlier_lives_then_releases_this_one() -> None:
    operation: Any = FakeOperation()
    rows = [row(1, life=EARLIER), row(2), row(3, Kind.FILE, EARLIER)]
    kept = undo.take_down(operation, rows, reason="stop", gone=lambda said: said.append("gone"))
    assert kept == []
    assert operation.said == [
        "heeded",
        ("forget", [1], {"rebooted"}),
        ("release", [2, 3], {"stop"}),  # a run directory may be on a disk, which outlives the boot
        ("end", "done"),
        "gone",
    ]


def test_take_down_of_what_is_only_on_record_asks_nothing_of_the_host() -> None:
    operation: Any = FakeOperation()
    assert undo.take_down(operation, [row(1, life=EARLIER)], reason="rebuild") == []
    assert operation.said == ["heeded", ("forget", [1], {"rebooted"}), ("end", "done")]


def test_take_down_tells_what_is_kept_and_ends_partial() -> None:
    operation: Any = FakeOperation({2: BUSY})
    kept = undo.take_down(
        operation, [row(1), row(2)], reason="rm", gone=lambda said: said.append("gone")
    )
    assert kept == [(row(2), BUSY)]
    assert operation.said[-1] == ("end", "partial")  # and nothing that needs all to be gone


def test_an_undo_is_a_value_and_leaves_the_error_alone() -> None:
    operation: Any = FakeOperation({1: BUSY})
    done = undo.undo(operation, [row(1)], before=lambda: operation.said.append("before"))
    assert done == undo.Undone(left="tap0 is held open")
    assert operation.said[:2] == ["before", "reserve"]
    assert operation.said[-1] == ("end", "partial")


def test_a_whole_undo_has_nothing_to_tell() -> None:
    operation: Any = FakeOperation()
    done = undo.undo(operation, [row(1)])
    assert done == undo.Undone()
    assert operation.said[-1] == ("end", "undone")
    problem = Conflict("taken", hint="choose another")
    done.tell(problem)
    assert not hasattr(problem, "__notes__")


def test_an_error_of_the_undo_is_told_beside_the_first() -> None:
    def fails() -> None:
        raise HvtxError("the disk is full", hint="free some")

    operation: Any = FakeOperation()
    done = undo.undo(operation, [row(1)], before=fails)
    assert done.failed == "the disk is full"
    problem = Conflict("taken", hint="choose another")
    done.tell(problem)
    assert problem.hint == "choose another"
    assert problem.__notes__ == ["rollback incomplete: the disk is full; `hvtx recover` goes on"]


def test_ctrl_c_during_an_undo_is_no_error_of_it() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    operation: Any = FakeOperation()
    with pytest.raises(KeyboardInterrupt):
        undo.undo(operation, [row(1)], before=interrupted)
