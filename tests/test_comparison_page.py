"""docs/comparison.md and docs/complaints.md: what is said of hvtx names tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_security_page import names_in

TOP = Path(__file__).resolve().parent.parent
FEATURES = (TOP / "docs/comparison.md").read_text()
COMPLAINTS = (TOP / "docs/complaints.md").read_text()


def rows(page: str) -> list[list[str]]:
    """The cells of each line of a page's tables, without their heads."""
    lines = page.splitlines()
    table = [n for n, line in enumerate(lines) if line.startswith("| ")]
    heads = {n for n in table if n + 1 < len(lines) and lines[n + 1].startswith("| ---")}
    body = [n for n in table if n not in heads and n - 1 not in heads]
    return [[cell.strip() for cell in lines[n].strip("|").split(" | ")] for n in body]


def missing(cell: str) -> list[str]:
    """What a cell names as a test, and is none."""
    return [
        f"{path}::{name}"
        for path, name in re.findall(r"`((?:integration|tests)/[^`:]+)::([^`]+)`", cell)
        if not (TOP / path).is_file() or name not in names_in(path)
    ]


def test_each_complaint_names_its_reports_and_tests_that_are_there() -> None:
    complaints = rows(COMPLAINTS.partition("## ")[0])
    assert len(complaints) == 30
    for reported, *_, tests in complaints:
        assert "#" in reported
        assert "::test_" in tests, f"no test: {reported}"
    for cells in rows(COMPLAINTS):
        assert missing(cells[-1]) == [], cells[0]


def test_each_yes_of_hvtx_names_tests_that_are_there() -> None:
    features = rows(FEATURES.partition("## ")[2])
    assert len(features) > 50
    for feature, *peers, said in features:
        assert len(peers) in (10, 11), feature
        assert re.match(r"(yes|partly|no|out of scope)\b", said), (feature, said)
        assert not said.startswith("yes") or "::test_" in said, f"no test: {feature}"
        assert missing(said) == [], feature


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("`tests/test_docs.py::test_gone`", ["tests/test_docs.py::test_gone"]),
        ("`tests/gone.py::test_gone`", ["tests/gone.py::test_gone"]),
        ("yes: `tests/test_docs.py::test_links_between_pages_lead_somewhere`", []),
    ],
)
def test_a_test_that_is_gone_is_missed(cell: str, found: list[str]) -> None:
    assert missing(cell) == found
