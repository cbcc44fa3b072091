"""The JSON Schema of gc's plans (draft 2020-12), made from the words that the code uses.

`hvtx gc --schema` prints it; docs/plan.schema.json is the same, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.engine.saved_plan import SCHEMA
from hvtx.errors import REFUSALS
from hvtx.model.plan import Action, Ground
from hvtx.model.reason import Reason
from hvtx.model.reasons import MEANING, action_of
from hvtx.model.resource import Kind, State
from hvtx.model.typed import Any
from hvtx.planner.block_steps import ACTIONS, REASONS

_OUTCOMES = ("done", "failed", "skipped")
_STRANGE_KINDS = ("rule", "device")


def document() -> dict[str, Any]:
    """The schema of printed, saved and carried-out plans, of both modes.

    Unknown keys are allowed everywhere: later versions may add some.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:hvtx:schema:gc:1",
        "title": "A plan of hvtx gc",
        "description": (
            "What `hvtx gc --plan --json` and `hvtx gc --apply --json` print,"
            " and what `hvtx gc --plan --out FILE` saves."
        ),
        **_object(_plan(), optional=("heuristic", "blocks", "installation")),
        "$defs": {"item": _item(), "block": _block()},
    }


def _plan() -> dict[str, Any]:
    counts = {
        action.value: {
            "type": "integer", "minimum": 0, "description": f"How many items have {action.value}.",
        }
        for action in Action
    }  # fmt: skip
    return {
        "schema": {"const": SCHEMA},
        "plan_id": {
            "type": "string", "pattern": "^[0-9a-f]{16}$",
            "description": "Plans that would do the same have the same id.",
        },
        "made": {
            "type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
            "description": "When the host was read: RFC 3339, UTC.",
        },
        "applied": {"type": "boolean", "description": "Whether it was carried out."},
        "refused": {
            "enum": [None, *REFUSALS],
            "description": "Why hvtx draws no conclusions; such a plan has no items.",
        },
        "epoch": {
            **_object({
                "boot_id": {"type": "string", "description": "The kernel's boot id."},
                "netns": {
                    "type": "integer", "minimum": 0,
                    "description": "The network namespace's cookie.",
                },
            }),
            "description": "The life of the host that it is of.",
        },
        "items": {
            "type": "array", "items": {"$ref": "#/$defs/item"},
            "description": "In the order in which they would be done.",
        },
        "summary": {**_object(counts), "description": "How many items have each action."},
        "blocks": {
            "type": "array", "items": {"$ref": "#/$defs/block"},
            "description": "Of a cluster, what is done about them, too; left out: nothing.",
        },
        "heuristic": {"const": True, "description": "Only in plans of the emergency mode."},
        "installation": {
            "type": "string",
            "description": "Only with --installation: the one whose remains it is of.",
        },
    }  # fmt: skip


def _object(properties: dict[str, Any], optional: Iterable[str] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in set(optional)]
    return {"type": "object", "required": required, "properties": properties}


def _item() -> dict[str, Any]:
    text = {"type": "string"}
    maybe = {"type": ["string", "null"]}
    properties = {
        "action": {
            "enum": [action.value for action in Action],
            "description": "What would be done, or was.",
        },
        "reason": {
            "oneOf": [_reason(reason) for reason in Reason] + [_ground(g) for g in Ground],
            "description": "Why, as a word.",
        },
        "kind": {
            "enum": [*(kind.value for kind in Kind), *_STRANGE_KINDS],
            "description": "Kind of the resource, or of a thing of others.",
        },
        "key": {**text, "description": "Name of the resource: device, address, rule …"},
        "vm": {**maybe, "description": "VM that the object belongs to."},
        "record": {
            "oneOf": [
                {"type": "null"},
                _object({
                    "id": {"type": "integer", "description": "Number of the row."},
                    "state": {
                        "enum": [s.value for s in State],
                        "description": "State of the row.",
                    },
                }),
            ],
            "description": "Its row in the store; null: it is not on record.",
        },
        "evidence": {"type": "array", "items": text, "description": "What was seen."},
        "message": {**text, "description": "One sentence for a person."},
        "outcome": {"enum": [None, *_OUTCOMES], "description": "After --apply: what became of it."},
        "mark": {
            **maybe,
            "description": "Mark that it carries or should; of an address, its bridge's.",
        },
        "restore": {
            **maybe,
            "description": "Of the emergency mode: the command that creates the resource again.",
        },
    }  # fmt: skip
    return {**_object(properties, optional=("restore",)), "allOf": _pairs()}


def _block() -> dict[str, Any]:
    """A block of addresses that a cluster gave, or the claim of one."""
    maybe = {"type": ["string", "null"]}
    return _object({
        "action": {
            "oneOf": [_word(*word) for word in ACTIONS.items()],
            "description": "What would be done, or was.",
        },
        "reason": {
            "oneOf": [_word(*word) for word in REASONS.items()],
            "description": "Why, as a word.",
        },
        "network": {**maybe, "description": "The network; null: of all of them."},
        "cidr": {**maybe, "description": "Null: a claim without an answer, or all blocks."},
        "claim": {"type": "string", "description": "What the cluster knows the claim by."},
        "message": {"type": "string", "description": "One sentence for a person."},
        "outcome": {"enum": [None, "done", "failed"], "description": "After --apply."},
    })  # fmt: skip


def _word(name: str, meaning: str) -> dict[str, Any]:
    return {"const": name, "description": meaning}


def _reason(reason: Reason) -> dict[str, Any]:
    return {"const": reason.value, "description": f"{action_of(reason).value}: {MEANING[reason]}"}


def _ground(ground: Ground) -> dict[str, Any]:
    return {"const": ground.value, "description": "delete: a guess of the emergency mode"}


def _pairs() -> list[dict[str, Any]]:
    """Which reasons go with which action.

    A plan that is carried out may leave any item (``skip``, with the reason it would have gone
    by), and ``unrecorded`` is deleted where that was asked for.
    """
    reasons = {
        Action.DELETE: [
            *(r.value for r in Reason if action_of(r) is Action.DELETE),
            Reason.UNRECORDED.value,
            *(ground.value for ground in Ground),
        ],
        Action.COMMIT: [r.value for r in Reason if action_of(r) is Action.COMMIT],
        Action.FORGET: [r.value for r in Reason if action_of(r) is Action.FORGET],
    }
    return [
        {
            "if": {"properties": {"action": {"const": action.value}}},
            "then": {"properties": {"reason": {"enum": words}}},
        }
        for action, words in reasons.items()
    ]
