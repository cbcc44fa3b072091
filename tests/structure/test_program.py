"""The program keeps the laws of its structure, but for the places in allowed.toml."""

from __future__ import annotations

import pytest

from tests.structure import counts
from tests.structure.laws import ALLOWED, LAWS, Law, allowed, breaches, lowered, unshown
from tests.structure.source import TOP, program


@pytest.mark.parametrize("law", LAWS, ids=[law.name for law in LAWS])
def test_law(law: Law) -> None:
    """No more than is listed, and no less: a list that is out of date allows what is gone."""
    assert list(breaches(law, law.counted(), allowed()[law.name])) == []


def test_every_module_has_a_test_of_its_name_or_says_what_shows_it() -> None:
    """Somebody else finds the test of a line: by its name, or by [shown-by] in allowed.toml."""
    untested = counts.added([counts.untested(module) for module in program()])
    assert list(unshown(untested, allowed()["shown-by"], TOP)) == []


def test_the_lists_are_those_of_the_laws() -> None:
    """No table is left behind that no law reads, and nothing is to be lowered."""
    assert set(allowed()) == {law.name for law in LAWS} | {"shown-by"}
    text = ALLOWED.read_text()
    assert lowered(text, {law.name: law.counted() for law in LAWS}) == text
