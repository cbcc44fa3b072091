"""docs/networking.md names every chain at a hook, where it stands, and every set of our tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hvtx.rulesets.nftables_base import SKELETONS
from hvtx.rulesets.nftables_layout import FAMILIES

PAGE = (Path(__file__).resolve().parent.parent / "docs/networking.md").read_text()
PLACE = re.compile(r"hook (\w+) priority (-?\d+)")
ALIKE = re.compile(r"(vm|network)_(allow|deny)[46](_ports)?\Z")  # told by two of them


def part(family: str) -> str:
    """What the page says of a family's table."""
    return PAGE.partition(f"`table {family} hvtx-I`:\n")[2].partition("\n`table ")[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_chain_at_a_hook_is_named_with_its_place(family: str) -> None:
    places = {chain.name: PLACE.search(chain.hook) for chain in SKELETONS[family].chains}
    lines = [f"| `{name}` | {at[1]} {at[2]} |" for name, at in places.items() if at]
    assert lines
    assert [line for line in lines if line not in part(family)] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_each_set_is_named(family: str) -> None:
    sets = [name for name in SKELETONS[family].sets if not ALIKE.match(name)]
    assert [name for name in sets if f"`{name}`" not in part(family)] == []
