"""What carries a mark and is on no record: run-time directories and seeds."""

from __future__ import annotations

import pytest

from hvtx.model.plan import Action, Item, UnrecordedFile
from hvtx.model.reason import Reason
from hvtx.planner.gc import plan_gc
from tests.planner.scene import THEIRS, Scene, mark

PATH = "/run/hvtx/aaaaaaaaaa/vms/0a"


def told(text: str, *users: str, hidden: bool = False) -> list[Item]:
    """What a plan says of a directory with this mark."""
    seen = {PATH: UnrecordedFile(text, users, hidden)}
    return list(plan_gc(Scene().snapshot()._replace(unrecorded=seen)).items)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (mark(7), Reason.UNRECORDED),
        (mark(7, installation=THEIRS), Reason.OTHER_INSTALLATION),
        ("hvtx:9:what", Reason.MARK_UNREADABLE),
    ],
)
def test_a_plan_tells_of_it_and_leaves_it(text: str, reason: Reason) -> None:
    (item,) = told(text)
    assert (item.action, item.reason, item.kind, item.key) == (Action.SKIP, reason, "file", PATH)
    assert (item.mark, item.row, item.evidence) == (
        text,
        0,
        (f"mark {text}", "no process is at it"),
    )


def test_what_is_no_mark_is_not_hvtxs_to_tell_of() -> None:
    assert told("somebody's") == []


def test_who_may_be_at_it_is_evidence() -> None:
    (item,) = told(mark(7), "sleep (pid 42)", hidden=True)
    assert item.evidence[1:] == (
        "sleep (pid 42) is at it",
        "some processes could not be looked into",
    )
