"""The published schema of plans: it is the code's own, and plans of every kind keep to it."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from hvtx.documents import plan, plan_schema
from hvtx.engine import gc_plan
from hvtx.errors import REFUSALS, Refused
from hvtx.model.block import BlockStep
from hvtx.model.plan import Action, Ground, Item, Plan, Result
from hvtx.model.reason import Reason
from hvtx.model.reasons import EXPLANATION, MEANING, action_of
from hvtx.model.resource import Kind, State
from hvtx.planner.block_steps import ACTIONS, REASONS

MADE = "2026-01-02T03:04:05.000006Z"


def check(document: Any) -> None:
    """As any reader would: through JSON."""
    jsonschema.Draft202012Validator(plan_schema.document()).validate(
        json.loads(json.dumps(document))
    )


def document(*items: Item, applied: bool = False, refused: Refused | None = None) -> dict[str, Any]:
    return plan.document(report(*items, applied=applied, refused=refused))


def report(*items: Item, applied: bool = False, refused: Refused | None = None) -> gc_plan.Report:
    return gc_plan.Report(Plan(items), applied, refused, "boot", 3, MADE)


def item(action: Action, reason: Reason, kind: str = Kind.TAP, **more: Any) -> Item:
    values: dict[str, Any] = {
        "row": 1,
        "state": State.COMMITTED,
        "evidence": ("a",),
        "message": "m",
        **more,
    }
    return Item(action, reason, kind, "key", "web", **values)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(plan_schema.document())


def test_every_word_of_a_plan_fits() -> None:
    """Every reason with its action, every kind, state and outcome."""
    check(document())
    check(document(*(item(action_of(reason), reason) for reason in Reason)))
    check(document(*(item(Action.SKIP, reason) for reason in Reason), applied=True))
    check(document(item(Action.DELETE, Reason.UNRECORDED, outcome=Result.DONE), applied=True))
    kinds = [*Kind, "rule", "device"]
    check(document(*(item(Action.SKIP, Reason.FOREIGN, kind, row=0, state=None) for kind in kinds)))
    check(document(*(item(Action.DELETE, Reason.VM_DEAD, state=state) for state in State)))
    check(document(*(item(Action.DELETE, Reason.VM_DEAD, outcome=o) for o in Result), applied=True))
    for action, reason in zip(ACTIONS, REASONS, strict=False):
        step = BlockStep(action, reason, None, None, "", "m", "done")
        check(plan.document(report()._replace(blocks=(step,))))
    for code in REFUSALS:
        check(document(refused=Refused(code, "words")))


def test_plans_of_the_emergency_mode_fit() -> None:
    none: dict[str, Any] = {"vm": None, "row": 0, "state": None, "message": "m"}
    guesses = [
        Item(Action.DELETE, ground, "tap", "tap0", evidence=("e",), restore="ip tuntap add", **none)
        for ground in Ground
    ]
    guesses.append(Item(Action.SKIP, Reason.FOREIGN, "rule", "r", evidence=(), **none))
    report = gc_plan.Report(Plan(tuple(guesses)), False, None, "boot", 3, MADE, heuristic=True)
    told = plan.document(report)
    check(told)
    assert list(told)[:3] == ["schema", "heuristic", "plan_id"]
    assert [item["restore"] for item in told["items"]] == ["ip tuntap add"] * 3 + [None]
    assert {item["record"] for item in told["items"]} == {None}


def bent() -> list[tuple[str, Any]]:
    """A whole document, and one thing wrong with it each time."""
    whole = document(item(Action.DELETE, Reason.VM_DEAD))
    found = []
    for name in whole:
        less = copy.deepcopy(whole)
        del less[name]
        found.append((f"no {name}", less))
    for name in whole["items"][0]:
        less = copy.deepcopy(whole)
        del less["items"][0][name]
        found.append((f"an item without {name}", less))
    for name, value in (
        ("action", "destroy"), ("reason", "because"), ("reason", "vm-alive"), ("kind", "toaster"),
        ("outcome", "perhaps"), ("evidence", "text"), ("record", {"id": "1", "state": "committed"}), ("vm", 3),
        ("action", "forget"),
    ):  # fmt: skip
        wrong = copy.deepcopy(whole)
        wrong["items"][0][name] = value
        found.append((f"{name} = {value}", wrong))
    for name, value in (
        ("schema", "hvtx/gc/2"),
        ("refused", "no"),
        ("plan_id", "XYZ"),
        ("summary", {}),
    ):
        found.append((f"{name} = {value}", {**whole, name: value}))
    return found


@pytest.mark.parametrize("wrong", [pytest.param(d, id=name) for name, d in bent()])
def test_what_is_no_plan_is_refused(wrong: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(wrong)


def test_every_reason_has_its_words() -> None:
    """What it means, and why gc does no more: documents look both up."""
    assert set(MEANING) == set(EXPLANATION) == set(Reason)
