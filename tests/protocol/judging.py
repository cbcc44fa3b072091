"""What the model's collectors decide with: the program's own planner, over the model's states.

The deciders are pure, so the search need not imitate them: ``plan_gc``, ``judge_vm`` and
``classify`` are called as they are. Only their input is put together here, and remembered, since
the same few thousand views come up again and again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from hvtx.model.plan import Action, OperationFacts, Plan, Reason, Snapshot, VmFacts
from hvtx.model.resource import Entry, Kind, Link, Resource, State
from hvtx.model.vm import Life, ProcessFacts
from hvtx.planner.gc import plan_gc
from hvtx.planner.states import identity_of, judge_vm

OURS, THEIRS = "a" * 10, "b" * 10
STRANGER, OTHER = 0, 99  # marks of entries: none, and another installation's
KINDS = {"t": Kind.TAP, "r": Kind.PUBLISH, "p": Kind.PROCESS}
_STATES = {"i": State.INTENDED, "c": State.COMMITTED, "r": State.RELEASING, "x": State.RELEASED}
_NUMBERS = {"t": 0, "r": 1, "p": 2}
_TAP_FLAGS = 0x1002


class Rows(NamedTuple):
    """The rows of one start: ``(state, operation)`` of the TAP, the rule and the process.

    ``ident`` is the boot in which the noted process was spawned, None before the note; ``mark``
    is the mark of all three: ten times the generation and the row id (see :func:`text`).
    """

    t: tuple[str, int]
    r: tuple[str, int]
    p: tuple[str, int]
    life: int
    ident: int | None
    mark: int


class View(NamedTuple):
    """What a collector has seen when it judges."""

    links: tuple[object, ...]  # of a dump, perhaps minutes old
    table: tuple[object, ...]  # of the same dump
    rows: tuple[Rows | None, ...]  # read after the dump
    boot: int
    running: frozenset[int]  # operations whose lock is held, asked after that
    pids: tuple[str, ...]  # what is at the pid of each generation: "", "own", "other", "same"
    holders: tuple[str, ...]  # names of devices that are held open


class Verdict(NamedTuple):
    """An acting item: a mark, what of it, and what to do."""

    mark: int
    kind: str
    action: str  # "delete", "commit", "forget"
    reason: str
    loose: bool  # not through its row: a leftover, or what no row speaks of


def text(mark: int, kind: str, *, nonce: bool = True) -> str | None:
    """The mark of an object as it stands in the kernel; None for a stranger's."""
    if mark == STRANGER:
        return None
    if mark == OTHER:
        return f"hvtx:1:{THEIRS}:7.{'q' * 16}"
    generation, row = divmod(mark, 10)
    letter = "abcd"[generation] if nonce else "z"
    return f"hvtx:1:{OURS}:{row * 10 + _NUMBERS[kind]}.{letter * 16}"


def name_of(generation: int) -> str:
    """The device name that a start chose (random in the program)."""
    return f"hv{generation}"


def _row(rows: Rows, kind: str, *, nonce: bool, boot_counts: bool, boot: int) -> Resource:
    generation, number = divmod(rows.mark, 10)
    state, operation = getattr(rows, kind)
    spec: dict[str, object] = {}
    if kind == "t":
        spec = {"device": name_of(generation), "ifindex": 1000 + generation, "master": 1}
    elif kind == "r":
        spec = {"backend": "nftables", "what": "publish"}
    observed: dict[str, object] = {}
    if kind == "p" and rows.ident is not None:
        born = rows.ident if boot_counts else boot
        observed = {"boot_id": f"boot{born}", "pid": 100 + generation, "start": 50 + generation}
    return Resource(
        id=number * 10 + _NUMBERS[kind],
        kind=KINDS[kind],
        key=name_of(generation) if kind == "t" else kind,
        state=_STATES[state],
        mark=text(rows.mark, kind, nonce=nonce) or "",
        spec=spec,
        observed=observed,
        operation=operation,
        life=rows.life + 1,
        vm="id-web",
        network=None,
    )


def _links(view: View, *, nonce: bool) -> list[Link]:
    found = []
    for number, tap in enumerate(view.links, start=1):
        if tap is None:
            continue
        name, mark, persistent, _ = tap  # type: ignore[misc]
        alias = text(mark, "t", nonce=nonce) if mark else None
        index = 1000 + number if number < 3 else 2000
        found.append(
            Link(index, name, "tun", alias, "fe:0", 1500, 1, 0, 0, True, _TAP_FLAGS, 0, persistent)
        )
    return found


def _entry(handle: int, mark: int, *, nonce: bool) -> Entry:
    where = "web:80" if mark not in (STRANGER, OTHER) else f"rule {mark}"
    return Entry("nftables", "map", where, text(mark, "r", nonce=nonce), handle)


def _facts(view: View, *, start_counts: bool) -> dict[int, ProcessFacts]:
    facts = {}
    for generation, there in enumerate(view.pids, start=1):
        own = there in ("own", "same") or (there == "other" and not start_counts)
        start = 50 + generation if own else 7
        facts[100 + generation] = ProcessFacts(bool(there), start if there else 0)
    return facts


@cache
def plan(view: View, weak: frozenset[str]) -> Plan:
    """The program's plan over a view; ``weak`` bends its input, never the planner."""
    nonce = "marks-without-nonce" not in weak
    life = Life(view.boot + 1, f"boot{view.boot}", 1, recovered=True)
    lives = {n + 1: Life(n + 1, f"boot{n}", 1, recovered=True) for n in range(view.boot + 1)}
    live: list[Resource] = []
    dead: list[Resource] = []
    for rows in view.rows:
        for kind in KINDS if rows else ():
            assert rows is not None
            row = _row(
                rows, kind, nonce=nonce, boot_counts="boot-ignored" not in weak, boot=view.boot
            )
            if row.state != State.RELEASED:
                live.append(row)
            elif kind != "p":
                dead.append(row)
    links = _links(view, nonce=nonce)
    entries = [_entry(0, mark, nonce=nonce) for _, mark, _ in view.table]  # type: ignore[misc]
    seen = {link.alias for link in links} | {entry.mark for entry in entries}
    by_pid = _facts(view, start_counts="pid-without-start" not in weak)
    identities = {row.id: identity_of(row) for row in live if row.kind == "process"}
    facts = {row: by_pid[own.pid] for row, own in identities.items() if own and own.pid in by_pid}
    liveness, evidence = judge_vm("command", live, life=life, lives=lives, facts=facts)
    operations = {
        number: OperationFacts("start", "web" if number < 10 else None, number in view.running)
        for number in {row.operation for row in live} | view.running
    }
    return plan_gc(
        Snapshot(
            installation=OURS,
            life=life,
            rows=tuple(live),
            tombstones={row.mark: row for row in dead if row.mark in seen},
            vms={"id-web": VmFacts("web", liveness, evidence, False)},
            networks={},
            operations=operations,
            links=tuple(links),
            addresses=(),
            entries=tuple(entries),
            expected={
                row.id: (Entry("nftables", "map", "web:80", row.mark),)
                for row in [*live, *dead]
                if row.kind == Kind.PUBLISH
            },
            holders=dict.fromkeys(view.holders, ("someone",)),
            filtered=frozenset(),
            files={},
            failures={},
        )
    )


@cache
def verdicts(view: View, weak: frozenset[str], *, recover: bool) -> tuple[Verdict, ...]:
    """The acting items, as ``collect.apply_plan`` is given them (``recover`` takes a part)."""
    nonce = "marks-without-nonce" not in weak
    marks = _marks(view, nonce=nonce)
    found = []
    states = {(rows.mark, k): getattr(rows, k)[0] for rows in view.rows if rows for k in KINDS}
    lives = {rows.mark: rows.life for rows in view.rows if rows}
    for item in plan(view, weak).items:
        known = marks.get(item.mark or "")
        garbage = item.reason in (Reason.UNRECORDED, Reason.OTHER_INSTALLATION)
        acts = item.action is not Action.SKIP or (garbage and "unknown-mark-is-garbage" in weak)
        if not acts or known is None:
            continue
        mark, kind = known
        # collect._Worker._through_row: the row's own object, not a copy or a leftover
        loose = item.row == 0 or item.entry is not None or item.state == State.RELEASED
        if recover and not _interrupted(
            item.reason, loose, states.get((mark, kind)), lives.get(mark), view
        ):
            continue
        action = item.action.value if item.action is not Action.SKIP else "delete"
        found.append(Verdict(mark, kind, action, item.reason.value, loose))
    return tuple(found)


def _interrupted(
    reason: Reason, loose: bool, state: str | None, life: int | None, view: View
) -> bool:
    """``recover.recover``'s choice among the items of the plan."""
    if loose:
        return reason is Reason.STALE_RESTORED
    return state != "c" or life != view.boot


def _marks(view: View, *, nonce: bool) -> dict[str, tuple[int, str]]:
    """From texts back to marks; where two read alike, what stands in the host wins."""
    marks: Iterable[int] = [rows.mark for rows in view.rows if rows]
    found = {text(mark, kind, nonce=nonce) or "": (mark, kind) for mark in marks for kind in KINDS}
    for tap in view.links:
        if tap is not None and tap[1]:  # type: ignore[index]
            found.setdefault(text(tap[1], "t", nonce=nonce) or "", (tap[1], "t"))  # type: ignore[index]
    for _, mark, _ in view.table:  # type: ignore[misc]
        if mark != STRANGER and (nonce or text(mark, "r", nonce=nonce) not in found):
            found[text(mark, "r", nonce=nonce) or ""] = (mark, "r")
    return found
