"""SQL stands in the store and nowhere else; each question and each change has a name there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.store import records
from hvtx.store.database import Store

TOP = Path(__file__).parents[2] / "hvtx"
EXECUTE = {"execute", "executemany", "executescript"}
NO_SQL = {"qemu.execute"}  # of QMP
STATEMENT = re.compile(r"(SELECT|INSERT INTO|UPDATE|DELETE FROM|PRAGMA|BEGIN|COMMIT|WITH) ")
CONDITION = re.compile(r"\b\w+ (=|<>|IN|IS) (\?|NULL|\()|\w+ (=|<>) '\w+'")


def outside() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(TOP.rglob("*.py")):
        if "store" not in path.relative_to(TOP).parts:
            yield path.relative_to(TOP).as_posix(), ast.parse(path.read_text())


def spoken(tree: ast.AST) -> Iterator[str]:
    """Calls that execute a statement, and texts that are one or a part of one."""
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            if node.func.attr in EXECUTE and called not in NO_SQL:
                yield f"{node.lineno} {called}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            said = STATEMENT.match(node.value) or CONDITION.search(node.value)
            if said and id(node) not in documented:
                yield f"{node.lineno} {node.value!r}"


def test_only_the_store_speaks_sql() -> None:
    found = [f"{where}:{words}" for where, tree in outside() for words in spoken(tree)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        'sql.execute("UPDATE vm SET operation = NULL WHERE id = ?", (vm,))',
        "sql.executemany(text, [])",
        "records.resources(sql, \"kind = 'tap'\")",
        "where = \"vm IS NULL AND state IN ('intended', 'releasing')\"",
        'records.networks(sql, "name = ?", (name,))',
    ],
)
def test_the_law_finds_what_it_forbids(line: str) -> None:
    assert list(spoken(ast.parse(line)))


def test_every_table_of_the_record_has_its_door() -> None:
    """What a module of `records` offers is offered by the package, and nothing beside it."""
    doors: set[str] = set()
    for path in (TOP / "store/records").glob("[a-z]*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert node.args.args[0].arg in ("sql", "name"), node.name
                doors.add(node.name)
    assert sorted(doors) == records.__all__


def test_who_is_confirmed_by_one_operation_stays_with_another(store: Store) -> None:
    """`set_vm_confirmed` with an operation is compare-and-swap; without one it is not."""
    from .shelf import enter, vm

    first, second = enter(store), enter(store)
    with store.transaction() as sql:
        records.add_vm(sql, vm("web"), first)
        assert records.provisional_vms(sql) == {"id-web": first}
        records.set_vm_confirmed(sql, "id-web", second)
        assert records.is_provisional(sql, "id-web")
        records.set_vm_confirmed(sql, "id-web", first)
        assert not records.is_provisional(sql, "id-web")
        assert records.vm_name(sql, "id-web") == "web"
        assert records.vm_name(sql, "id-none") is None
