"""How a plan is carried out: the step of each item, the order, and what a driver's word means."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.model.place import nft_place
from hvtx.model.plan import DONE, Action, Ground, Item, ItemResult, Plan, Result
from hvtx.model.reason import Reason
from hvtx.model.resource import GONE, Entry, Kind, Outcome, Resource, State
from hvtx.planner.execution import Schedule, Step, in_order, result_of, schedule, step_of

TABLE = Entry("nftables", nft_place("inet", "hvtx"), "table", "mark")
ELEMENT = Entry("nftables", nft_place("inet", "hvtx", "masq4"), "10.77.0.2", "mark")


def item(reason: Reason = Reason.VM_DEAD, **more: Any) -> Item:
    values: dict[str, Any] = {
        "action": Action.DELETE,
        "kind": Kind.TAP,
        "key": "k",
        "vm": "web",
        "row": 1,
        "state": State.COMMITTED,
        "evidence": (),
        "message": "m",
        **more,
    }
    return Item(reason=reason, **values)


def row(number: int, **spec: Any) -> Resource:
    return Resource(
        number, Kind.FILTER, "k", State.RELEASED, "", spec, {}, 1, 1, None, None
    )  # fmt: skip


@pytest.mark.parametrize(
    ("planned", "step"),
    [
        (item(), Step.RELEASE),
        (item(Reason.ALREADY_GONE), Step.RELEASE),
        (item(Reason.RELEASE_INTERRUPTED, state=State.RELEASING), Step.RELEASE),
        (item(Reason.IN_USE_BEFORE_COMMIT, state=State.INTENDED), Step.COMMIT),
        (item(Reason.REBOOTED), Step.FORGET),
        (item(Reason.FLOWS_REMAIN), Step.END_FLOWS),
        (item(Reason.FLOWS_REMAIN, state=State.RELEASING), Step.RELEASE),
        (item(Reason.RELEASED_LEFTOVER, state=State.RELEASED), Step.REMOVE),
        (item(Reason.DUPLICATE_COPY, entry=ELEMENT), Step.REMOVE),
        (item(Reason.UNRECORDED, row=0, state=None), Step.REMOVE),
    ],
)
def test_the_step_of_an_item(planned: Item, step: Step) -> None:
    assert step_of(planned) is step


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (GONE, DONE),
        (Outcome(True, message="was gone"), DONE),
        *(
            (Outcome(False, reason, "why: it"), ItemResult(Result.SKIPPED, "why: it"))
            for reason in (
                *("in-use", "foreign", "foreign-dependents", "contended"),
                *("mark-mismatch", "mark-stripped"),
            )
        ),
        *(
            (Outcome(False, reason, "why: it"), ItemResult(Result.FAILED, "why: it"))
            for reason in ("observe-failed", "flows-remain", "host-refused", "failed", "")
        ),
    ],
)
def test_what_an_outcome_means_for_the_item(outcome: Outcome, result: ItemResult) -> None:
    """A message may hold a colon: it is a field, and not the rest of a text."""
    assert result_of(outcome) == result


def test_items_of_a_vm_are_never_parted() -> None:
    items = [item(row=n, vm=vm) for n, vm in enumerate(["a", "a", "a", "b", "c", "c"], 1)]
    assert schedule(items, {}, size=2) == Schedule((), ((0, 1, 2), (3, 4, 5)), ())
    assert schedule(items, {}, size=1).chunks == ((0, 1, 2), (3,), (4, 5))


def test_what_was_restored_goes_before_the_rows_but_for_their_tables() -> None:
    items = [
        item(Reason.STALE_RESTORED, row=1, state=State.RELEASED, entry=TABLE),  # a base's
        item(Reason.STALE_RESTORED, row=2, state=State.RELEASED, entry=ELEMENT),
        item(row=3),
        item(Reason.UNRECORDED, row=0, state=None, link=object()),
    ]
    rows = {1: row(1, what="base"), 2: row(2, what="port")}
    assert schedule(items, rows) == Schedule((1,), ((2,),), (3, 0))


def test_a_table_goes_after_what_stands_in_it() -> None:
    items = [
        item(Reason.UNRECORDED, row=0, state=None, entry=TABLE),
        item(Reason.UNRECORDED, row=0, state=None, entry=ELEMENT, more=(TABLE,)),
        item(Reason.UNRECORDED, row=0, state=None, entry=ELEMENT),
        item(Reason.UNRECORDED, row=0, state=None, link=object()),
    ]
    assert schedule(items, {}).late == (3, 2, 0, 1)


def test_guests_devices_go_before_all_else_that_is_unrecorded() -> None:
    """A TAP that is held is met before its rules go; a bridge has its ports taken first."""
    kinds = (Kind.BRIDGE, Kind.FILE, Kind.TAP, Kind.VETH)
    items = [item(Reason.UNRECORDED, row=0, state=None, entry=ELEMENT, kind=Kind.FILTER)]
    items += [item(Reason.UNRECORDED, row=0, state=None, kind=kind) for kind in kinds]
    assert schedule(items, {}).late == (3, 4, 1, 2, 0)


def test_without_rows_the_order_is_the_plans() -> None:
    assert in_order([item(), item(), item()]) == Schedule((), (), (0, 1, 2))


def test_results_go_to_the_acting_items_in_their_order() -> None:
    """Two items may be equal: they are told apart by their place, not by what they say."""
    plan = Plan((item(), item(Reason.FOREIGN, action=Action.SKIP), item()))
    done = plan.with_results([DONE, ItemResult(Result.FAILED, "no: it is full")])
    assert [(each.outcome, each.message) for each in done.items] == [
        (Result.DONE, "m"),
        (None, "m"),
        (Result.FAILED, "m; no: it is full"),
    ]


def test_a_guess_is_the_same_by_its_words_alone() -> None:
    """As its saved plans have it, which have neither row nor mark."""
    guessed = item()._replace(reason=Ground.NAME, row=0, state=None)
    assert guessed.identity() == ("delete", "guess-name", "tap", "k")
    assert item(mark="m").identity() == ("delete", "vm-dead", "tap", "k", 1, "m")
