"""The plan as a document for a person: grouped by VM, then by what is done and why.

Within a VM, items that share action, reason and sentence stand under one line; evidence that all of
them share is told once there, the rest beside each item.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hvtx.cli import render

_SIGNS = {"delete": "-", "commit": "+", "forget": "~", "skip": " "}
_STRANGERS = "strangers, never touched"


def show_plan(plan: Any, *, done: bool = False) -> None:
    """Print a plan; one that was carried out shows what was done, and counts the rest."""
    groups: dict[str, list[Any]] = {}
    for item in plan.items:
        if item.outcome is not None or not done:
            groups.setdefault(_heading(item), []).append(item)
    for heading in sorted(groups, key=lambda words: (words == _STRANGERS, words)):
        render.say(heading, "bold")
        show_items(groups[heading])
        render.say("")
    left = sum(1 for item in plan.items if item.action.value == "skip")
    if done:
        outcomes = [item.outcome for item in plan.items if item.outcome]
        words = ", ".join(f"{outcomes.count(o)} {o}" for o in ("done", "failed", "skipped"))
    else:
        actions = [item.action.value for item in plan.items]
        words = ", ".join(f"{actions.count(a)} to {a}" for a in ("delete", "commit", "forget"))
    render.say(f"{words}; {left} left alone", "bold")
    if not plan.acting():
        render.say("nothing to do")


def _heading(item: Any) -> str:
    if item.vm:
        return f"VM {render.plain(item.vm)}"
    if item.reason.value == "foreign":
        return _STRANGERS
    return "networks and this installation" if item.row else "marked, but of no VM on record"


def show_items(items: Iterable[Any]) -> None:
    """Print items, those alike under one line."""
    alike: dict[tuple[str, ...], list[Any]] = {}
    for item in items:
        key = (item.action.value, item.reason.value, item.message)
        alike.setdefault(key, []).append(item)
    for (action, reason, message), members in alike.items():
        words = f"  {_SIGNS[action]} {action}: {render.plain(message)}  ({reason})"
        indent = "  " if words[2] != " " else "    "
        render.say(render.wrapped(words.lstrip(), indent), render.STYLES[action])
        shared = _shared([item.evidence for item in members])
        if shared:
            render.say(render.wrapped(render.plain("; ".join(shared)), " " * 8), "dim")
        for item in members:
            _show_item(item, [line for line in item.evidence if line not in shared])


def _shared(lists: Sequence[Sequence[str]]) -> list[str]:
    """Evidence that every one of several items has."""
    if len(lists) < 2:
        return []
    return [line for line in lists[0] if all(line in other for other in lists[1:])]


def _show_item(item: Any, evidence: Sequence[str]) -> None:
    outcome = f"  [{item.outcome}]" if item.outcome else ""
    name = f"{item.kind} {render.plain(item.key)}{outcome}"
    words = render.plain("; ".join(evidence)) if evidence else ""
    if not words:
        render.say(render.wrapped(name, " " * 6))
        return
    if len(name) + len(words) + 10 <= render.width():
        render.say(f"      {name}  {render.coloured(words, 'dim')}")
        return
    render.say(render.wrapped(name, " " * 6))
    render.say(render.wrapped(words, " " * 8), "dim")
