"""The mark that is told of a row."""

from __future__ import annotations

import pytest

from hvtx.model.owner_mark import owner_mark
from hvtx.model.resource import Kind
from tests.planner.scene import Scene


def test_an_address_is_told_with_its_bridges_until_marks_are_left_out() -> None:
    bridge, address = Scene().bridge_with_address()
    assert address.mark != bridge.mark
    assert owner_mark(address) == owner_mark(bridge) == bridge.mark
    assert owner_mark(address._replace(mark="", spec={})) == ""  # of a published view


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind != Kind.ADDRESS])
def test_of_all_else_it_is_the_rows_own(kind: Kind) -> None:
    row = Scene().row(kind)
    assert owner_mark(row) == row.mark
