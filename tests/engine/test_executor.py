"""A plan is carried out: locks, second looks, and what becomes of each item, whatever the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from hvtx.engine import exchange, executor
from hvtx.engine.executor import execute
from hvtx.model.plan import DONE, Action, Item, ItemResult, Plan, Result
from hvtx.model.reason import Reason
from hvtx.model.resource import GONE, Kind, Outcome, Resource, State
from hvtx.model.vm import Liveness

KEPT = ItemResult(Result.SKIPPED, "somebody: has it")


class FakeOperation:
    """An operation without store and host; ``said`` is what was asked of it, in order."""

    def __init__(self, rows: Sequence[Resource] = (), busy: Sequence[str] = ()) -> None:
        self.rows = {row.id: row for row in rows}
        self.busy = busy
        self.vm: str | None = None
        self.interrupted = False
        self.said: list[Any] = []
        self.outcomes: dict[int, Outcome] = {}
        self.runtime = self

    def read(self, _: Callable[..., Any], ids: Sequence[int]) -> Mapping[int, Resource]:
        return {n: self.rows[n] for n in ids if n in self.rows}

    def try_lock(self, _: str, name: str) -> bool:
        self.said.append(f"lock {name}")
        return name not in self.busy

    def unlock(self, _: str, name: str) -> None:
        self.said.append(f"unlock {name}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield None

    def end_if_interrupted(self) -> None:
        if self.interrupted:
            self.end("undone")
            raise KeyboardInterrupt

    def complete(self, rows: Sequence[Resource]) -> int:
        self.said.append(("commit", [row.id for row in rows]))
        return len(rows)

    def forget(self, rows: Sequence[Resource], reasons: Mapping[int, str]) -> None:
        self.said.append(("forget", [row.id for row in rows], dict(reasons)))

    def release(
        self, rows: Sequence[Resource], *, reasons: Mapping[int, str]
    ) -> dict[int, Outcome]:
        self.said.append(("release", [row.id for row in rows]))
        return {row.id: self.outcomes.get(row.id, GONE) for row in rows}

    def end(self, result: str) -> None:
        self.said.append(("end", result))


def row(number: int, vm: str | None = "web", state: State = State.COMMITTED) -> Resource:
    return Resource(number, Kind.TAP, f"tap{number}", state, "", {}, {}, 1, 1, vm, None)


def item(number: int, reason: Reason = Reason.VM_DEAD, **more: Any) -> Item:
    values: dict[str, Any] = {
        "action": Action.DELETE,
        "kind": Kind.TAP,
        "key": f"tap{number}",
        "vm": "web",
        "row": number,
        "state": State.COMMITTED,
        "evidence": (),
        "message": "m",
        **more,
    }
    return Item(reason=reason, **values)


def unrecorded(key: str, vm: str | None = None) -> Item:
    return item(0, Reason.UNRECORDED, key=key, vm=vm, state=None)


@pytest.fixture(autouse=True)
def alive(monkeypatch: pytest.MonkeyPatch) -> dict[str, Liveness]:
    """VMs that are not found dead when they are looked at again."""
    found: dict[str, Liveness] = {}
    monkeypatch.setattr(
        executor, "alive_again", lambda _, vms: {vm: found[vm] for vm in vms if vm in found}
    )
    return found


def never(operation: Any, planned: Item) -> ItemResult:
    raise AssertionError((operation, planned))


def carried(operation: Any, items: Sequence[Item], remove: Any = never, **more: Any) -> list[Any]:
    done = execute(operation, Plan(tuple(items)), remove, **more)
    return [(each.outcome, each.message) for each in done.items]


def test_rows_of_a_vm_move_together_under_its_lock() -> None:
    rows = [row(1), row(2, state=State.INTENDED), row(3), row(4)]
    operation = FakeOperation(rows)
    operation.outcomes[4] = Outcome(False, "observe-failed", "no: it is full")
    items = [
        item(1),
        item(2, Reason.IN_USE_BEFORE_COMMIT, state=State.INTENDED),
        item(3, Reason.REBOOTED),
        item(4),
    ]
    assert carried(operation, items, recorded=True) == [
        *[(Result.DONE, "m")] * 3,
        (Result.FAILED, "m; no: it is full"),
    ]
    assert operation.said == [
        "lock web",
        ("commit", [2]),
        ("forget", [3], {3: "rebooted"}),
        ("release", [1, 4]),
        "unlock web",
        ("end", "partial"),
    ]


def test_what_changed_since_the_plan_is_left() -> None:
    operation = FakeOperation([row(1, state=State.RELEASING)])
    assert (
        carried(operation, [item(1), item(2)], recorded=True)
        == [(Result.SKIPPED, "m; it changed in the meantime")] * 2
    )
    assert operation.said[-1] == ("end", "partial")


def test_what_others_work_on_is_left(alive: dict[str, Liveness]) -> None:
    alive["db"] = Liveness.ALIVE
    rows = [row(1, "web"), row(2, None), row(3, "db")]
    items = [item(1), item(2, vm=None), item(3, vm="db"), unrecorded("x", "web"), unrecorded("y")]
    operation = FakeOperation(rows, busy=["web"])
    assert [words for _, words in carried(operation, items, recorded=True, networks=False)] == [
        "m; another operation works on its VM",
        "m; another operation works on networks",
        "m; its VM runs now",
        "m; another operation works on its VM",
        "m; another operation works on networks",
    ]
    assert "unlock web" not in operation.said, "a lock of others is not ours to give back"
    assert operation.said.count("unlock db") == 1


def test_what_could_not_be_seen_again_is_a_failure(alive: dict[str, Liveness]) -> None:
    """A look that failed is not somebody's VM that runs: who asked has to come again."""
    alive["db"] = Liveness.UNKNOWN
    operation = FakeOperation([row(1), row(2, "db")])
    assert carried(operation, [item(1), item(2, vm="db")], recorded=True) == [
        (Result.DONE, "m"),
        (Result.FAILED, "m; it could not be seen again that its VM is dead"),
    ]
    assert ("release", [1]) in operation.said


def test_an_operation_on_a_vm_has_its_lock_already() -> None:
    operation = FakeOperation([row(1)])
    operation.vm = "web"
    assert carried(operation, [item(1)], recorded=True) == [(Result.DONE, "m")]
    assert operation.said == [("release", [1]), ("end", "done")]


def test_things_without_rows_go_one_by_one_in_the_order_of_the_plan() -> None:
    """The emergency mode and the remains of a lost store: each brings how a thing goes."""
    seen: list[str] = []

    def remove(_: Any, planned: Item) -> ItemResult:
        seen.append(planned.key)
        return KEPT if planned.key == "b" else DONE

    operation = FakeOperation()
    told: list[tuple[int, int, str]] = []
    items = [unrecorded("c"), unrecorded("b"), item(9, Reason.FOREIGN, action=Action.SKIP),
             unrecorded("a")]  # fmt: skip
    done = carried(operation, items, remove, progress=lambda *each: told.append(each))
    assert seen == ["c", "b", "a"]
    assert done == [
        (Result.DONE, "m"),
        (Result.SKIPPED, "m; somebody: has it"),
        (None, "m"),
        (Result.DONE, "m"),
    ]
    assert operation.said == [("end", "partial")]
    assert told == [(1, 3, "c"), (2, 3, "b"), (3, 3, "a")]


def test_ctrl_c_while_it_was_put_on_record_begins_nothing() -> None:
    operation = FakeOperation([row(1)])
    operation.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        carried(operation, [item(1, Reason.REBOOTED), unrecorded("a")], recorded=True)
    assert operation.said == [("end", "undone")]


def test_equal_items_have_each_their_own_result() -> None:
    results = iter([DONE, KEPT])
    operation = FakeOperation()
    done = carried(operation, [unrecorded("a"), unrecorded("a")], lambda *_: next(results))
    assert [outcome for outcome, _ in done] == [Result.DONE, Result.SKIPPED]


@pytest.mark.parametrize("busy", ["", "other", "networks"])
def test_a_change_is_carried_on_under_the_locks_of_all_that_it_is_of(
    monkeypatch: pytest.MonkeyPatch, busy: str
) -> None:
    """Its rows of another VM and of a network may be no part of the plan."""
    rows = [row(1, state=State.INTENDED), row(2, "other", State.INTENDED), row(3, None)]
    operation = FakeOperation(rows[:1], busy=[busy])
    monkeypatch.setattr(executor.records, "half_done_resources", lambda _: rows)
    monkeypatch.setattr(executor.records, "vm_name", lambda _, vm: vm)
    monkeypatch.setattr(exchange, "carry_on", lambda own, _: own.said.append("carried") or GONE)
    planned = item(1, Reason.CHANGE_INTERRUPTED, action=Action.COMMIT, state=State.INTENDED)
    [(outcome, message)] = carried(operation, [planned], recorded=True)
    said = [word for word in operation.said if isinstance(word, str)]
    assert outcome is (Result.SKIPPED if busy else Result.DONE), (message, operation.said)
    assert ("carried" in said) is not bool(busy)
    if not busy:
        before = said[: said.index("carried")]
        assert {"lock web", "lock other", "lock networks"} <= set(before)
        assert not [word for word in before if word.startswith("unlock")]
        assert said.count("lock web") == said.count("unlock web")
