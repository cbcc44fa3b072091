"""Items of a plan: of a row, and of what no row stands for."""

from __future__ import annotations

from hvtx.model.plan import Action, Item
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Resource, State

ROW = Resource(7, Kind.TAP, "hv1", State.RELEASED, "mark", {}, {}, 1, 1, "id", None)
SAID = {"evidence": ("alias mark",), "message": "gone"}


def test_for_row_has_what_the_row_is() -> None:
    item = Item.for_row(ROW, Action.FORGET, Reason.ALREADY_GONE, vm="web", **SAID)  # type: ignore[arg-type]
    assert item == Item(
        action=Action.FORGET, reason=Reason.ALREADY_GONE, kind="tap", key="hv1", vm="web", row=7,
        state="released", evidence=("alias mark",), message="gone", mark="mark",
    )  # fmt: skip


def test_for_object_has_no_record_but_that_of_its_tombstone() -> None:
    verdict = (Action.SKIP, Reason.FOREIGN)
    item = Item.for_object("rule", "a rule", *verdict, **SAID)  # type: ignore[arg-type]
    assert (item.kind, item.key, item.vm, item.row, item.state) == ("rule", "a rule", None, 0, None)
    assert (item.mark, item.entry, item.link, item.outcome) == (None, None, None, None)
    left = Item.for_object("tap", "hv2", *verdict, tombstone=ROW, mark="mark", **SAID)  # type: ignore[arg-type]
    assert (left.key, left.row, left.state, left.mark) == ("hv2", 7, "released", "mark")
