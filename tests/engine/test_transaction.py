"""The protocol on a real store, with a driver that says what it is told to say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine import effects, transaction
from hvtx.engine.transaction import Operation, begin, commit_each
from hvtx.errors import HvtxError
from hvtx.host.locks import LockFile
from hvtx.model.resource import GONE, Kind, Outcome, Resource, State
from hvtx.planner.provision import ResourceSpec
from hvtx.store import history, intents, invariants, records
from tests.store.shelf import NOW, WRITER, Shelf

WANTS = [ResourceSpec(Kind.FILE, f"/run/vm{n}", {"path": f"/run/vm{n}"}) for n in (1, 2)]
KEPT = Outcome(False, "in-use", "somebody works in there")


class FakeRuntime:
    """A store and one driver, for whatever kind."""

    def __init__(self, shelf: Shelf) -> None:
        self.store = shelf.open()
        self.operations = LockFile(str(shelf.base / "operations.lock"))
        self.mine: set[int] = set()
        self.listener: Any = None
        self.settings = type("Settings", (), {"history_lines": 1000})
        self.installation = "aaaaaaaaaa"
        self.writer = lambda: WRITER
        self.outcomes: dict[str, Outcome] = {}
        self.calls: list[str] = []
        with self.store.transaction() as sql:
            self.life = records.set_life(sql, "boot-a", 1, NOW)

    def read(self, ask: Callable[..., Any], *values: Any, **more: Any) -> Any:
        with self.store.reading() as sql:
            return ask(sql, *values, **more)

    @property
    def drivers(self) -> FakeRuntime:
        return self

    def of(self, _: str) -> FakeRuntime:
        return self

    def create(self, rows: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        assert [row.state for row in self.rows()] == [State.INTENDED] * 2, "on record before"
        self.calls.append("create")
        return {row.id: {"inode": row.id} for row in rows}

    def release(self, rows: Sequence[Resource]) -> Mapping[int, Outcome]:
        assert {row.state for row in self.rows()} == {State.RELEASING}, "on record before"
        self.calls.append("release")
        return {row.id: self.outcomes.get(row.key, GONE) for row in rows}

    def rows(self) -> list[Resource]:
        return list(self.read(records.resources_of_network, None))

    def told(self) -> list[tuple[str, str]]:
        with self.store.reading() as sql:
            lines = history.entries(sql, history.Filter(kind="file"), limit=100)
            return [(line.event, line.message) for line in lines]


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("HVTX_VERIFY", "1")
    made = FakeRuntime(Shelf(tmp_path))
    yield made
    assert made.read(invariants.violations) == []
    assert made.mine == set(), "an operation that has ended holds no lock"
    made.operations.close()
    made.store.close()


def made(runtime: Any) -> tuple[Operation, list[Resource]]:
    with begin(runtime, "test") as (sql, operation):
        rows = operation.intend(sql, WANTS)
    return operation, rows


def test_intend_act_commit(runtime: Any) -> None:
    operation, rows = made(runtime)
    assert runtime.mine == {operation.id}
    operation.commit(rows, effects.create(operation, rows))
    assert [row.state for row in runtime.rows()] == [State.COMMITTED] * 2
    assert [row.observed for row in runtime.rows()] == [{"inode": row.id} for row in rows]
    assert runtime.told() == [("made", "file /run/vm1"), ("made", "file /run/vm2")]


def test_a_release_closes_what_is_gone_and_keeps_the_rest_on_record(runtime: Any) -> None:
    operation, rows = made(runtime)
    runtime.outcomes["/run/vm2"] = KEPT
    outcomes = operation.release(rows, reasons={rows[0].id: "undone"})
    operation.end("partial")
    assert outcomes == {rows[0].id: GONE, rows[1].id: KEPT}
    assert [(row.key, row.state) for row in runtime.rows()] == [("/run/vm2", State.RELEASING)]
    assert runtime.told() == [
        ("removed", "file /run/vm1"),
        ("kept", "somebody works in there"),
    ]


def test_rows_that_another_moved_are_left_to_it(runtime: Any) -> None:
    operation, rows = made(runtime)
    with runtime.store.transaction() as sql:
        intents.release(sql, rows[:1], operation.id)
    outcomes = operation.release(rows, reasons={})
    operation.end("partial")
    assert outcomes[rows[0].id].reason == "contended"
    assert outcomes[rows[1].id] == GONE


def test_a_commit_of_a_row_that_is_lost_moves_none(runtime: Any) -> None:
    operation, rows = made(runtime)
    with runtime.store.transaction() as sql:
        intents.release(sql, rows[:1], operation.id)
    with pytest.raises(HvtxError, match="lost 1 of its rows"):
        operation.commit(rows, {})
    assert not operation.committed
    assert {row.state for row in runtime.rows()} == {State.RELEASING, State.INTENDED}
    operation.end("partial")


def test_ctrl_c_while_rows_are_written_is_raised_before_anything_is_made(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, rows = made(runtime)
    operation.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        effects.create(operation, rows)
    assert runtime.calls == []
    operation.release(rows, reasons={})  # once is enough: whoever undoes is not interrupted again
    operation.end("undone")


def test_who_has_done_nothing_yet_ends_it_as_undone_on_ctrl_c(runtime: Any) -> None:
    with begin(runtime, "test") as (_, operation):
        pass
    operation.end_if_interrupted()
    assert [known.id for known in runtime.read(records.operations)] == [operation.id]
    operation.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        operation.end_if_interrupted()
    assert runtime.read(records.operations) == []


def test_what_is_observed_is_on_record_at_once(runtime: Any) -> None:
    operation, rows = made(runtime)
    now = operation.observe(rows, {rows[0].id: {"inode": 7}})
    assert [row.observed for row in now] == [{"inode": 7}, {}]
    assert [row.observed for row in runtime.rows()] == [{"inode": 7}, {}]
    operation.forget(rows, {})
    operation.end("done")


def test_an_operation_that_could_not_begin_leaves_nothing(runtime: Any) -> None:
    def fails() -> None:
        with begin(runtime, "test") as (sql, operation):
            operation.intend(sql, WANTS)
            raise HvtxError("no")

    with pytest.raises(HvtxError):
        fails()
    assert runtime.rows() == []
    assert runtime.read(records.operations) == []


def test_whoever_listens_hears_the_lines_of_the_operation_when_it_ends(runtime: Any) -> None:
    heard: list[Any] = []
    runtime.listener = heard.append
    operation, rows = made(runtime)
    operation.release(rows, reasons={})
    assert heard == []
    operation.end("undone")
    assert [entry["event"] for entry in heard[0]] == ["removed", "removed"]


def test_the_module_is_the_protocol_and_fits_its_measure() -> None:
    assert len(Path(transaction.__file__).read_text().splitlines()) <= 250
    own = {name for name, thing in vars(Operation).items() if callable(thing)}
    assert own == {"intend", "observe", "commit", "release", "forget", "complete", "end"}


def test_several_are_committed_together_or_not_at_all(runtime: Any) -> None:
    (one, first), (two, second) = made(runtime), made(runtime)
    with runtime.store.transaction() as sql:
        intents.release(sql, second[:1], two.id)
    with pytest.raises(HvtxError, match=f"operation {two.id} lost 1 of its rows"):
        commit_each([(one, first, {}), (two, second, {})])
    assert not (one.committed or two.committed)
    assert State.COMMITTED not in {row.state for row in runtime.rows()}
    two.end("partial")
    assert commit_each([(one, first, {})]) is None
    assert one.committed


def test_ctrl_c_that_comes_while_a_commit_is_written_is_told_and_undoes_nothing(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, rows = made(runtime)
    transaction_of = runtime.store.transaction

    @contextmanager
    def interrupted() -> Iterator[Any]:
        with transaction_of() as sql:
            yield sql
        raise KeyboardInterrupt

    runtime.reopen_store = lambda: None
    monkeypatch.setattr(runtime.store, "transaction", interrupted)
    assert isinstance(commit_each([(operation, rows, {})]), KeyboardInterrupt)
    assert operation.committed
    assert {row.state for row in runtime.rows()} == {State.COMMITTED}
