"""docs/faults.md has every fault once, and the tests that it names exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

TOP = Path(__file__).parent.parent
SIZES = {"A": 17, "B": 11, "C": 27, "D": 14, "E": 27, "F": 25, "G": 12, "H": 8, "I": 10, "J": 10}
AUTOMATED = 150


def lines() -> list[tuple[str, str]]:
    """Number and last column of each line of the tables."""
    found = re.findall(r"^\| ([A-Z][0-9]+) \|.*\| ([^|]+) \|$", page(), re.MULTILINE)
    assert found
    return found


def page() -> str:
    return (TOP / "docs/faults.md").read_text()


@cache
def known_in(path: str) -> set[str]:
    file = TOP / path
    assert file.exists(), path
    return set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))


def named(column: str) -> list[tuple[str, str]]:
    return re.findall(r"`((?:tests|integration)/[\w/]+\.py)::(test_\w+)`", column)


def test_every_fault_is_there_once() -> None:
    """All numbers of a letter, in order, and every letter: 161."""
    wanted = [f"{letter}{n}" for letter, size in SIZES.items() for n in range(1, size + 1)]
    assert len(wanted) == 161
    assert [number for number, _ in lines()] == wanted
    rows = re.findall(r"^\| [A-Z][0-9]+ \|", page(), re.MULTILINE)
    assert len(rows) == len(wanted), "every row has the form that is checked here"


def test_the_tests_exist() -> None:
    """By file and name, as pytest would find them; a line without a test says why."""
    missing = []
    for number, column in lines():
        tests = named(column)
        assert column.count("::") == len(tests), (number, column)
        assert tests or column.startswith("no test: "), (number, column)
        missing += [(number, path, name) for path, name in tests if name not in known_in(path)]
    assert missing == []


def test_most_are_automated() -> None:
    """150 of the 161 at least."""
    assert sum(bool(named(column)) for _, column in lines()) >= AUTOMATED


def test_the_page_is_linked() -> None:
    for other in ("docs/README.md", "docs/reliability.md"):
        assert "faults.md" in (TOP / other).read_text(), other
