"""A plan of gc in a file: saved, read back, and compared with what would be done now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from hvtx.engine.files import PRIVATE, is_no_file, read_plan, unwritten_option, write_out
from hvtx.errors import NotFound, StalePlan, UsageError
from hvtx.model.plan import Action, Plan
from hvtx.model.reason import Reason
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.model.block import BlockStep

SCHEMA = "hvtx/gc/1"  # of the file, which is read back here

Identity = tuple[Any, ...]  # what :meth:`Item.identity` gives
_BLOCK = "block"  # stands where an item has its kind (planner.block_steps)
_REMAKE = {False: "hvtx gc --plan --out FILE", True: "hvtx gc --heuristic --plan --out FILE"}


def as_saved(plan: Plan, saved: Sequence[Identity]) -> Plan:
    """Only what was reviewed; raises StalePlan naming the first item that changed, and how."""
    refuse_stale(plan, saved)
    wanted = set(saved)
    return plan.with_judged(
        [i for i in plan.judged() if i.action is Action.SKIP or i.identity() in wanted]
    )


def refuse_stale(plan: Plan, saved: Sequence[Identity], *, heuristic: bool = False) -> None:
    """Raise StalePlan if something that was reviewed is not planned now."""
    planned = {item.identity() for item in plan.judged()}
    changed = [identity for identity in saved if identity not in planned]
    if changed:
        _, _, kind, key = changed[0][:4]
        more = f" (and {len(changed) - 1} more items changed)" if len(changed) > 1 else ""
        raise StalePlan(
            f"the plan is stale: {kind} {key} {_how(plan, changed[0])}{more}",
            hint=f"make a new plan: {_REMAKE[heuristic]}; nothing was changed",
        )


def _how(plan: Plan, identity: Identity) -> str:
    """How what a saved plan says of an item differs from what would be planned now."""
    action, reason, kind, key, *more = identity
    row, mark = more or (0, None)  # a guess has neither
    was = f"was {action} ({reason})"
    same = [item for item in plan.items if (item.kind, item.key) == (kind, key)]
    found = next((item for item in same if item.row == row and row), None)
    found = found or next((item for item in same if item.mark == mark), None)
    if found is not None and (found.action, found.reason) != (action, reason):
        return f"{was}, it is now {found.action.value} ({found.reason.value}): {found.message}"
    if same:
        other = f"row {same[0].row}, {same[0].mark}" if same[0].row else f"{same[0].mark}"
        told = f"{same[0].action.value}, {same[0].reason.value}"
        return f"{was} with the mark {mark}, and another one ({other}: {told}) is there now"
    return f"{was}, it is no longer planned: it is neither on the host nor on record"


def of_items(saved: Sequence[Identity]) -> list[Identity]:
    """What a saved plan says of the host's things."""
    return [identity for identity in saved if identity[2] != _BLOCK]


def of_blocks(saved: Sequence[Identity]) -> list[Identity]:
    """What it says of a cluster's blocks."""
    return [identity for identity in saved if identity[2] == _BLOCK]


def identities_of(blocks: Sequence[BlockStep]) -> list[Identity]:
    """What a plan says of blocks, to be compared."""
    if not blocks:
        return []
    from hvtx.planner.block_steps import identity

    return [identity(step) for step in blocks]


def plan_id(plan: Plan, blocks: Sequence[BlockStep] = ()) -> str:
    """A short name of what a plan would do: equal plans have equal ids."""
    from hashlib import blake2b

    found = [item.identity() for item in plan.acting()] + identities_of(blocks)
    text = json.dumps(found)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def save_plan(document: Mapping[str, Any], path: str, mode: int = PRIVATE) -> None:
    """Write a plan's JSON where a person said; raises as ``files.unwritten`` says."""
    try:
        write_out(path, json.dumps(document, indent=2) + "\n", mode=mode)
    except OSError as problem:
        command = _REMAKE[document.get("heuristic") is True].removesuffix(" FILE")
        raise unwritten_option("plan", path, problem, command) from problem


def asked_for(reviewed: Iterable[Identity], *, unrecorded: bool) -> list[Identity]:
    """What is to be done of what a plan says (pure).

    With ``unrecorded``, by a person's word, also what it shows as that: a plan leaves it alone.
    """
    wanted = []
    for action, reason, *more in reviewed:
        left = action == Action.SKIP.value
        if left and unrecorded and reason == Reason.UNRECORDED.value:
            wanted.append((Action.DELETE.value, reason, *more))
        elif not left:
            wanted.append((action, reason, *more))
    return wanted


def load_plan(path: str, *, heuristic: bool = False, unrecorded: bool = False) -> list[Identity]:
    """The acting identities of a saved plan, as :func:`asked_for`; raises NotFound, UsageError."""
    made = f"{_REMAKE[heuristic]} makes one"
    try:
        document = json.loads(read_plan(path))
    except FileNotFoundError as problem:
        hint = f"{_REMAKE[heuristic].removesuffix('FILE')}{_quoted(path)} makes one"
        raise NotFound(f"there is no plan file {path}", hint=hint) from problem
    except (OSError, ValueError, RecursionError) as problem:
        if isinstance(problem, OSError) and not is_no_file(problem):
            raise
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        why = "it is no JSON" if isinstance(problem, json.JSONDecodeError) else why
        raise UsageError(f"{path} is not a plan: {why}", hint=made) from problem
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UsageError(f"{path} is not a plan of hvtx gc", hint=made)
    if heuristic and document.get("heuristic") is not True:
        raise UsageError(f"{path} is not a plan of the emergency mode", hint=made)
    if not heuristic and document.get("heuristic"):
        raise UsageError(
            f"{path} is a plan of the emergency mode",
            hint=f"hvtx gc --heuristic --apply --yes {_quoted(path)}",
        )
    try:
        found = [_identity(item, heuristic=heuristic) for item in document["items"]]
        found += [] if heuristic else map(_identity_of_block, document.get("blocks", ()))
    except KeyError as problem:
        raise UsageError(f"{path} is not a whole plan: {problem} is missing") from problem
    except TypeError as problem:
        raise UsageError(f"{path} is not a whole plan: {problem}") from problem
    return asked_for(found, unrecorded=unrecorded)


def _quoted(path: str) -> str:
    from shlex import quote  # for a refusal only

    return quote(path)


def _identity(item: Any, *, heuristic: bool) -> Identity:
    """What :meth:`Item.identity` says, of a saved item; raises KeyError, TypeError."""
    words = (item["action"], item["reason"], item["kind"], item["key"])
    if not all(isinstance(word, str) for word in words):
        raise TypeError("an item's words are not text")
    if heuristic:
        return words
    record, mark = item["record"], item["mark"]
    row = record["id"] if record else 0
    if not isinstance(row, int):
        raise TypeError("an item's words are not text")
    if mark is not None and not isinstance(mark, str):
        raise TypeError("an item's mark is not text")
    return (*words, row, mark)


def _identity_of_block(step: Any) -> Identity:
    """What ``planner.block_steps`` says, of a saved line; raises KeyError, TypeError."""
    place = " ".join(filter(None, (step["network"], step["cidr"])))
    words = (step["action"], step["reason"], _BLOCK, place)
    if not all(isinstance(word, str) for word in (*words, step["claim"])):
        raise TypeError("words of a block are not text")
    return (*words, 0, step["claim"])
