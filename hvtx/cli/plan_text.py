"""Print a plan: deletions first, then what stays, then the counts.

Within a VM, items that share action, reason and sentence stand under one line; evidence that all of
them share (which process is dead) is told there. What each single item has as evidence is shown on
request. Who runs, or is merely on record, takes a line; others are summed up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hvtx.cli import render
from hvtx.model.typed import Any

_SIGNS = {"delete": "-", "commit": "+", "forget": "~", "skip": " "}
_FOREIGN_RESOURCES = "foreign resources (never modified)"
_OTHERS = "other installations of hvtx (never modified)"
_LOST = "of an installation whose store is gone"
_CALM = frozenset({"vm-alive", "reserved"})  # as it should be: nobody has to look
_CALM_LINES = 20  # VMs and networks that take a line each; the others are counted
_NAMES = 6  # of others that are named; the others are counted
_LINES = 5  # of others' rules


def show_plan(
    plan: Any,
    *,
    done: bool = False,
    evidence: bool = False,
    by: str = "hvtx gc --apply",
    blocks: Sequence[Any] = (),
) -> None:
    """Print a plan; one that was carried out shows what was done, and counts the rest.

    ``by`` is the command that carries it out, ``blocks`` are those of a cluster.
    """
    groups: dict[str, list[Any]] = {}
    for item in plan.judged() if done else plan.items:
        if item.outcome is not None or not done:
            groups.setdefault(_heading(item), []).append(item)
    unremarkable = []
    for heading in sorted(groups, key=lambda words: _rank(words, groups[words])):
        members = groups[heading]
        if evidence or heading not in (_FOREIGN_RESOURCES, _OTHERS):
            if _is_unremarkable(members) and not evidence:
                unremarkable.append((heading, members))
                continue
            _show_group(heading, members, evidence=evidence)
    _show_unremarkable(unremarkable)
    if not evidence:
        for heading in (_OTHERS, _FOREIGN_RESOURCES):
            if heading in groups:
                _sum_up(heading, groups[heading])
    _show_blocks(blocks)
    _show_counts(plan, done=done, evidence=evidence, by=by, blocks=len(blocks))


def _show_blocks(blocks: Sequence[Any]) -> None:
    """What is done about blocks of a cluster."""
    if not blocks:
        return
    render.say("blocks of the cluster", "bold")
    for step in blocks:
        what = " ".join(filter(None, (step.network, step.cidr))) or "all"
        came = f": {step.outcome}" if step.outcome else ""
        words = f"~ {step.action} {render.plain(what)}: {step.message}  ({step.reason}){came}"
        render.say(render.wrapped(words, "  "))
    render.say("")


def _heading(item: Any) -> str:
    if item.vm:
        return f"VM {render.plain(item.vm)}"
    if item.reason.value == "foreign":
        return _FOREIGN_RESOURCES
    if item.reason.value == "other-installation":
        return _OTHERS if item.action.value == "skip" else _LOST
    return "networks and this installation" if item.row else "marked, but of no VM on record"


def _rank(heading: str, items: Sequence[Any]) -> tuple[int, str]:
    """What would be changed first, then what somebody should look at, others last."""
    if heading in (_OTHERS, _FOREIGN_RESOURCES):
        return (3, heading)
    if any(item.action.value != "skip" for item in items):
        return (0, heading)
    return (2 if _is_unremarkable(items) else 1, heading)


def _is_unremarkable(items: Sequence[Any]) -> bool:
    return all(
        item.action.value == "skip" and item.reason.value in _CALM and item.outcome is None
        for item in items
    )


def _show_group(heading: str, items: Sequence[Any], *, evidence: bool) -> None:
    render.say(heading, "bold")
    show_items(items, evidence=evidence)
    render.say("")


# -- items -----------------------------------------------------------------------------------------


def show_items(items: Iterable[Any], *, evidence: bool = True) -> None:
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
        if evidence:
            for item in members:
                _show_item(item, [line for line in item.evidence if line not in shared])
        else:
            _show_names(members)


def _shared(lists: Sequence[Sequence[str]]) -> list[str]:
    """Evidence that every one of several items has."""
    if len(lists) < 2:
        return []
    return [line for line in lists[0] if all(line in other for other in lists[1:])]


def _show_item(item: Any, evidence: Sequence[str]) -> None:
    name = f"{item.kind} {render.plain(item.key)}{_outcome(item)}"
    words = render.plain("; ".join(evidence)) if evidence else ""
    if not words:
        render.say(render.wrapped(name, " " * 6))
        return
    if len(name) + len(words) + 10 <= render.width():
        render.say(f"      {name}  {render.coloured(words, 'dim')}")
        return
    render.say(render.wrapped(name, " " * 6))
    render.say(render.wrapped(words, " " * 8), "dim")


def _show_names(items: Sequence[Any]) -> None:
    """Items without their evidence: those of a kind, done alike, on one line."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for item in items:
        kinds.setdefault((str(item.kind), _outcome(item)), []).append(render.plain(item.key))
    for (kind, outcome), keys in kinds.items():
        render.say(render.wrapped(f"{kind} {', '.join(keys)}{outcome}", " " * 6))


def _outcome(item: Any) -> str:
    return f"  [{item.outcome}]" if item.outcome else ""


# -- what stays ------------------------------------------------------------------------------------


def _show_unremarkable(groups: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """A line for each VM that runs or only has its leases, and for the networks."""
    if not groups:
        return
    render.say("left alone", "bold")
    for heading, items in groups[:_CALM_LINES]:
        render.say(render.wrapped(_unremarkable_line(heading, items), "    "), "dim")
    more = groups[_CALM_LINES:]
    if more:
        things = sum(len(items) for _, items in more)
        words = f"and {len(more)} more VMs with {things} items (--evidence shows each)"
        render.say(render.wrapped(words, "    "), "dim")
    render.say("")


def _unremarkable_line(heading: str, items: Sequence[Any]) -> str:
    alike: dict[tuple[str, str], list[Any]] = {}
    for item in items:
        alike.setdefault((item.message, item.reason.value), []).append(item)
    if len(alike) > 2:  # networks: each has a sentence of its own
        return f"{heading}: {_count(len(items), 'item')}  ({items[0].reason.value})"
    parts = []
    for (message, reason), members in alike.items():
        words = f"{_count(len(members), 'item')}, {render.plain(message)}  ({reason})"
        shared = _shared([item.evidence for item in members])
        parts.append(words + (f"  {render.plain('; '.join(shared))}" if shared else ""))
    return f"{heading}: {'; '.join(parts)}"


def _sum_up(heading: str, items: Sequence[Any]) -> None:
    """Others: how many of each kind, with some of their names; rules in their words."""
    render.say(heading, "bold")
    kinds: dict[str, list[Any]] = {}
    for item in items:
        kinds.setdefault(str(item.kind), []).append(item)
    for kind, members in kinds.items():
        if kind == "rule":
            _sum_up_rules(members)
            continue
        words = _count(len(members), {"filter": "firewall entry"}.get(kind, kind))
        if kind != "filter":  # a firewall entry's name is as long as a rule
            words += f": {', '.join(render.plain(item.key) for item in members[:_NAMES])}"
            words += f" and {len(members) - _NAMES} more" if len(members) > _NAMES else ""
        render.say(render.wrapped(words, "    "), "dim")
    render.say("")


def _sum_up_rules(items: Sequence[Any]) -> None:
    near = [item for item in items if "mentions network" in item.message]
    words = _count(len(items), "NAT rule")
    if near:
        words += (
            f", {len(near)} about a network of ours"
            if len(near) < len(items)
            else (" about a network of ours")
        )
    render.say(render.wrapped(words, "    "), "dim")
    shown = (near or items)[:_LINES]
    for item in shown:
        render.say(render.wrapped(render.plain(item.key), " " * 6), "dim")
    if len(items) > len(shown):
        render.say(f"      and {len(items) - len(shown)} more", "dim")


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what[:-1]}ies" if what.endswith("y") else f"{number} {what}s"


# -- the end ---------------------------------------------------------------------------------------


def _show_counts(plan: Any, *, done: bool, evidence: bool, by: str, blocks: int = 0) -> None:
    acting = plan.acting()
    left = len(plan.items) - len(acting)
    if done:
        outcomes = [item.outcome for item in plan.judged() if item.outcome]
        words = ", ".join(f"{outcomes.count(o)} {o}" for o in ("done", "failed", "skipped"))
    else:
        actions = [item.action.value for item in acting]
        words = ", ".join(f"{actions.count(a)} to {a}" for a in ("delete", "commit", "forget"))
    render.say(f"{words}; {left} left alone", "bold")
    if not acting and not blocks:
        render.say("nothing to do")
    if done:
        return
    words = "nothing was changed"
    if acting or blocks:
        words += f"; run `{by}` to apply: each item is verified again first"
    if not evidence and plan.items:
        words += "; --evidence shows the evidence for each item"
    render.say(render.wrapped(words, ""))
