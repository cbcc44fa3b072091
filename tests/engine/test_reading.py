"""The store is read in one moment by whoever decides; and no more of it than once.

`HVTX_VERIFY` makes every connection refuse a SELECT of the program's outside of a transaction, in
each integration test and each test on the fake kernel. Here: that it does, and what it is for.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine.processes import rows_by_vm
from hvtx.engine.runtime import Runtime, Settings
from hvtx.host import procfs
from hvtx.model.resource import Kind, Resource
from hvtx.model.vm import Epoch, Network, Vm
from hvtx.store import intents, records, strict
from hvtx.store.database import Store
from hvtx.store.opening import open_store

ROOT = Path(__file__).resolve().parent.parent.parent / "hvtx"
LAN = Network(
    "n", "lan", "hv1", "02:00:00:00:00:01", 1500, True, False, "nftables",
    ("10.77.0.0/24",), ("10.77.0.1",), None,
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A store that watches how it is read."""
    monkeypatch.setenv("HVTX_VERIFY", "1")
    with closing(opened(Settings(str(tmp_path / "state"), str(tmp_path / "run")))):
        return Settings(str(tmp_path / "state"), str(tmp_path / "run"))


def opened(settings: Settings, *, writable: bool = True) -> Store:
    return open_store(settings.state_directory, settings.run_directory, writable=writable)


def begin(store: Store, life: int) -> int:
    with store.transaction() as sql:
        return intents.begin(
            sql, verb="start", vm=None, network=None, life=life,
            writer=procfs.identify(os.getpid()), now="2026-01-01T00:00:00Z",
        )  # fmt: skip


# -- the door --------------------------------------------------------------------------------------


def test_all_that_is_read_inside_is_of_one_moment(settings: Settings) -> None:
    """Another process commits in between: seen before or after, never in the middle."""
    with closing(opened(settings)) as writer, closing(opened(settings, writable=False)) as reader:
        with reader.reading() as sql:
            before = records.networks(sql)
            with writer.transaction() as other:
                life = records.set_life(other, "boot", 1, "2026-01-01T00:00:00Z").id
            operation = begin(writer, life)
            with writer.transaction() as other:
                records.add_network(other, LAN, operation)
            with reader.reading() as nested:
                assert records.networks(nested) == before == []
                assert records.operations(nested) == []
            assert records.seq(sql) == 0
        with reader.reading() as sql:
            assert [network.name for network in records.networks(sql)] == ["lan"]
            assert records.seq(sql) == 3


def test_a_reader_keeps_nobody_from_writing(settings: Settings) -> None:
    """And what it raises ends its moment."""
    with closing(opened(settings)) as store:
        with pytest.raises(ZeroDivisionError), store.reading() as sql:
            records.vms(sql)
            raise ZeroDivisionError
        with store.transaction() as sql, store.reading() as same:
            assert same is sql
            records.set_life(sql, "boot", 1, "2026-01-01T00:00:00Z")
        assert not store.connection.in_transaction


# -- the law ---------------------------------------------------------------------------------------


def as_the_program(source: str, **names: Any) -> Any:
    """Run an expression as if a module of the engine had it."""
    return eval(source, {"__name__": "hvtx.engine.anything", **names})


@pytest.mark.parametrize("writable", [True, False])
def test_the_program_reads_nothing_outside(settings: Settings, writable: bool) -> None:
    """Whichever function of the store it calls; a test may."""
    with closing(opened(settings, writable=writable)) as store:
        names = {"records": records, "sql": store.connection, "store": store}
        with pytest.raises(AssertionError, match="outside of Store"):
            as_the_program("records.networks(sql)", **names)
        with pytest.raises(AssertionError, match="outside of Store"):
            as_the_program("sql.execute('SELECT seq FROM meta')", **names)
        with store.reading():
            assert as_the_program("records.networks(sql)", **names) == []
        assert records.networks(store.connection) == []


def test_what_stands_alone_says_why(settings: Settings) -> None:
    """Each exception is one statement with a reason, and is used."""
    assert all(strict.reads_rows(statement) and why for statement, why in strict.ALONE.items())
    text = "\n".join(path.read_text() for path in (ROOT / "store").glob("*.py"))
    assert all(text.count(f'"{statement}"') > 1 for statement in strict.ALONE)
    with closing(opened(settings)) as store:
        assert isinstance(store.connection, strict.StrictConnection)


def uses(tree: ast.AST) -> Iterator[ast.Attribute]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("connection", "execute"):
            yield node


def test_nobody_goes_round_the_door() -> None:
    """Verbs and commands have a connection only from `reading` and `transaction`."""
    found = []
    for path in sorted([*ROOT.glob("engine/*.py"), *ROOT.glob("cli/**/*.py")]):
        where = path.relative_to(ROOT).as_posix()
        for node in uses(ast.parse(path.read_text())):
            whose = node.value.id if isinstance(node.value, ast.Name) else ast.unparse(node.value)
            if node.attr == "connection" or whose != "sql":
                found.append(f"{where}:{node.lineno} {ast.unparse(node)}")
    assert found == []


# -- not once for each VM ---------------------------------------------------------------------------


class Counted(list[Resource]):
    """Rows that count how often one of them is visited."""

    visits = 0

    def __iter__(self) -> Iterator[Resource]:
        for row in super().__iter__():
            Counted.visits += 1
            yield row


def test_rows_are_visited_once_whatever_the_number_of_vms(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a restarted container each command judges every VM: twice as many, twice the visits."""
    vms = 200
    with closing(opened(settings)) as store:
        with store.transaction() as sql:
            life = records.set_life(sql, procfs.boot_id(), procfs.netns_cookie() + 1, "2026").id
        operation = begin(store, life)
        with store.transaction() as sql:
            for number in range(vms):
                name = f"vm{number}"
                vm = Vm(name, name, "command", 1, 1, None, None, None, (), ("x",), "/", False, ())
                records.add_vm(sql, vm, operation)
                drafts = [intents.NewRow(Kind.PROCESS, name, {}, name, None)]
                intents.intend(sql, drafts, operation=operation, life=life, mark=str)
    real, Counted.visits = records.resources_of_life, 0
    monkeypatch.setattr(records, "resources_of_life", lambda *given: Counted(real(*given)))
    with closing(Runtime(settings, writable=False)) as runtime:
        assert not runtime._old_life_moves(Epoch(life, "", 0, recovered=False))
    assert vms <= Counted.visits <= 4 * vms  # opening looks too, if nothing else is in the way
    with closing(opened(settings, writable=False)) as store:
        assert len(rows_by_vm(real(store.connection, life))) == vms
