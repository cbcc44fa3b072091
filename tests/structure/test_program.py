"""The program keeps the laws of its structure, but for the places in allowed.toml."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.structure import counts
from tests.structure.laws import ALLOWED, LAWS, Law, allowed, breaches, lowered, unshown
from tests.structure.source import TOP, Module, imported, last_name, program


@pytest.mark.parametrize("law", LAWS, ids=[law.name for law in LAWS])
def test_law(law: Law) -> None:
    """No more than is listed, and no less: a list that is out of date allows what is gone."""
    assert list(breaches(law, law.counted(), allowed()[law.name])) == []


def test_every_module_has_a_test_of_its_name_or_says_what_shows_it() -> None:
    """Somebody else finds the test of a line: by its name, or by [shown-by] in allowed.toml."""
    untested = counts.added([counts.untested(module) for module in program()])
    assert list(unshown(untested, allowed()["shown-by"], TOP)) == []


def _needed(module: Module) -> set[str]:
    """What it imports, in functions too; not what only its types name."""
    for_types = {
        id(part)
        for node in module.nodes(ast.If)
        if last_name(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for part in ast.walk(statement)
    }
    found = {
        name for node in module.imports() if id(node) not in for_types for name in imported(node)
    }
    return {name for name in found if not f"{module.name}.".startswith(f"{name}.")}


def test_no_modules_need_each_other_in_a_circle() -> None:
    """Each can be read, and tested, before those that stand upon it."""
    needs = {module.name: _needed(module) for module in program()}
    order = TopologicalSorter({name: needs[name] & needs.keys() for name in needs})
    try:
        order.prepare()
    except CycleError as problem:
        pytest.fail(" -> ".join(reversed(problem.args[1])))


def test_the_lists_are_those_of_the_laws() -> None:
    """No table is left behind that no law reads, and nothing is to be lowered."""
    assert set(allowed()) == {law.name for law in LAWS} | {"shown-by"}
    text = ALLOWED.read_text()
    assert lowered(text, {law.name: law.counted() for law in LAWS}) == text
