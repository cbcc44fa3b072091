"""The page about firewalls names each case of the test that compares them with traffic."""

from __future__ import annotations

from pathlib import Path

from integration.lab.rulesets import CASES
from integration.network.test_doctor_forward import WAYS

PAGE = (Path(__file__).resolve().parents[1] / "docs/firewalls.md").read_text()


def test_the_page_names_each_case() -> None:
    """A row for each; nothing is stopped exactly where the test says so."""
    for case in CASES:
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {case.name} |")]
        assert row.endswith("| ok |") == (not case.by), row
        assert ("| nothing |" in row) == (not case.by), row
        if case.by:
            wanted = case.by.replace("{bridge}", "BRIDGE").replace("counter packets", "counter")
            assert wanted in row, row
    for name, *_ in WAYS:
        assert f"| {name}" in PAGE
