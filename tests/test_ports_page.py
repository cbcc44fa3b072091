"""The page of ports has a line for each kind of rule that is tried."""

from __future__ import annotations

from pathlib import Path

from integration.network.test_others_nat import HARMLESS, KINDS

PAGE = Path(__file__).parent.parent / "docs" / "ports.md"


def test_it_names_each_kind_of_rule() -> None:
    lines = PAGE.read_text().splitlines()
    for codes, kinds in ((4, KINDS), (0, HARMLESS)):
        told = [line for line in lines if line.endswith(f" | {codes} |")]
        assert told == [f"| {name} | {codes} |" for name in kinds]
