"""What the model's collectors decide with: the program's own functions, over the model's states.

The deciders are pure, so the search need not imitate them: what is looked at again
(:mod:`hvtx.planner.recheck`), ``plan_gc``, ``judge_vm`` and ``classify`` are called as they are. Only
their input is put together here, and remembered, since the same few thousand views come up again
and again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from hvtx.model.place import nft_place
from hvtx.model.plan import Action, Plan, Snapshot, VmFacts
from hvtx.model.reason import Reason
from hvtx.model.resource import Entry, Kind, Link, Resource, State
from hvtx.model.vm import Epoch, Identity, Operation, ProcessFacts
from hvtx.planner import recheck
from hvtx.planner.gc import plan_gc
from hvtx.planner.states import identity_of, judge_vm

OURS, THEIRS = "a" * 10, "b" * 10
STRANGER, OTHER = 0, 99  # marks of entries: none, and another installation's
KINDS = {"t": Kind.TAP, "r": Kind.PUBLISH, "p": Kind.PROCESS}
_STATES = {"i": State.INTENDED, "c": State.COMMITTED, "r": State.RELEASING, "x": State.RELEASED}
_NUMBERS = {"t": 0, "r": 1, "p": 2}
_TAP_FLAGS = 0x1002
_MAP = nft_place("inet", "t", "map")


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


class Look(NamedTuple):
    """What a collector has seen so far; the names in brackets are those of engine/snapshot.py."""

    runs: frozenset[int] = frozenset()  # operations that ran then or were begun later (_Before)
    links: tuple[object, ...] = ()
    table: tuple[object, ...] = ()
    rows: tuple[Rows | None, ...] = ()
    tombs: frozenset[str] = frozenset()  # marks that were seen and are no live row's
    opened: frozenset[int] = frozenset()  # operations that had not ended when the rows were read
    newer: frozenset[int] = frozenset()  # those begun since then
    wrote: bool = False  # whether the store changed since then
    underway: frozenset[int] = frozenset()
    late: Late | None = None
    pids: tuple[str, ...] = ()  # what is at the pid of each generation: "", "own", "other", "same"
    holders: tuple[str, ...] = ()  # names of devices that are held open
    so: frozenset[str] = frozenset()  # what was to be said at some moment since it began


class Late(NamedTuple):
    """What is looked at once more (``looks.late`` and ``looks.again``)."""

    rows: frozenset[int]  # by id
    devices: frozenset[int]  # by their place in ``State.links``
    marks: frozenset[str]
    firewall: bool


class View(NamedTuple):
    """What a collector has seen when it judges."""

    links: tuple[object, ...]
    table: tuple[object, ...]
    rows: tuple[Rows | None, ...]
    tombs: frozenset[str]
    boot: int
    operations: tuple[tuple[int, bool], ...]  # which there are, and whether they run
    pids: tuple[str, ...]
    holders: tuple[str, ...]
    moving: frozenset[int] = frozenset()  # rows, by id


class Verdict(NamedTuple):
    """An acting item: a mark, what of it, and what to do."""

    mark: int
    kind: str
    action: str  # "delete", "commit", "forget"
    reason: str
    loose: bool  # not through its row: a leftover, or what no row speaks of
    state: str  # of its row, as it was seen


def text(mark: int, kind: str, *, nonce: bool = True) -> str | None:
    """The mark of an object as it stands in the kernel; None for somebody else's."""
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


def _links(view: Look | View, *, nonce: bool) -> list[Link]:
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
    return Entry("nftables", _MAP, where, text(mark, "r", nonce=nonce), handle)


def _facts(pids: tuple[str, ...], *, start_counts: bool) -> dict[int, ProcessFacts]:
    facts = {}
    for generation, there in enumerate(pids, start=1):
        own = there in ("own", "same") or (there == "other" and not start_counts)
        start = 50 + generation if own else 7
        facts[100 + generation] = ProcessFacts(bool(there), start if there else 0)
    return facts


_STOP = 5  # the operation of `vm stop`
_VERBS = {1: "start", 2: "start", _STOP: "stop", 6: "resolve", 7: "resolve"}
_PLACES = {1001: 0, 1002: 1, 2000: 2}
_NOBODY = Identity("boot", 1, 1)


class _Values(NamedTuple):
    """A look in the program's own words."""

    record: recheck.Record
    dead: list[Resource]  # tombstones, seen or not
    seen: recheck.Seen
    expected: dict[int, tuple[Entry, ...]]


@cache
def _rows(
    rows: tuple[Rows | None, ...], boot: int, *, nonce: bool, boot_counts: bool
) -> tuple[list[Resource], list[Resource]]:
    """The live ones, and those of tombstones; a process leaves none."""
    live: list[Resource] = []
    dead: list[Resource] = []
    for group in rows:
        for kind in KINDS if group else ():
            assert group is not None
            row = _row(group, kind, nonce=nonce, boot_counts=boot_counts, boot=boot)
            if row.state != State.RELEASED:
                live.append(row)
            elif kind != "p":
                dead.append(row)
    return live, dead


def _values(look: Look | View, boot: int, weak: frozenset[str]) -> _Values:
    nonce = "marks-without-nonce" not in weak
    live, dead = _rows(look.rows, boot, nonce=nonce, boot_counts="boot-ignored" not in weak)
    entries = [_entry(0, mark, nonce=nonce) for _, mark, _ in look.table]  # type: ignore[misc]
    opened = look.opened if isinstance(look, Look) else [n for n, _ in look.operations]
    record = recheck.Record(
        life=boot + 1,
        seq=0,
        newest=0,
        rows=live,
        tombstones=_tombstones(dead, look.tombs, weak),
        operations=[
            Operation(n, _VERBS.get(n, "gc"), "web" if n < 10 else None, None, "", _NOBODY)
            for n in sorted(opened)
        ],
        vms=[("id-web", "web", "command", False)],
        lives={n + 1: Epoch(n + 1, f"boot{n}", 1, recovered=True) for n in range(boot + 1)},
        networks={},
    )
    expected = {
        row.id: (Entry("nftables", _MAP, "web:80", row.mark),)
        for row in [*live, *dead]
        if row.kind == Kind.PUBLISH
    }
    return _Values(record, dead, recheck.Seen(_links(look, nonce=nonce), (), entries), expected)


def _tombstones(
    dead: list[Resource], seen: frozenset[str], weak: frozenset[str]
) -> dict[str, Resource]:
    """Those whose mark was seen: ``records.tombstones``, whole rows or buried ones."""
    if "tombstones-dropped" in weak:
        return {}
    if "tombstone-without-operation" in weak:
        dead = [row._replace(operation=0) for row in dead]
    return {row.mark: row for row in dead if row.mark in seen}


def _vms(values: _Values, pids: tuple[str, ...], weak: frozenset[str]) -> dict[str, VmFacts]:
    """``snapshot._processes`` and ``_vms``."""
    record = values.record
    by_pid = _facts(pids, start_counts="pid-without-start" not in weak)
    known = {row.id: identity_of(row) for row in record.rows if row.kind == Kind.PROCESS}
    facts = {row: by_pid[own.pid] for row, own in known.items() if own and own.pid in by_pid}
    life = record.lives[record.life]
    liveness, evidence = judge_vm(
        "command", record.rows, life=life, lives=record.lives, facts=facts
    )
    return {"id-web": VmFacts("web", liveness, evidence, False)}


@cache
def unknown(look: Look, boot: int, weak: frozenset[str]) -> frozenset[str]:
    """The marks whose tombstones are read with the rows."""
    values = _values(look, boot, weak)
    known = {row.mark for row in values.record.rows}
    seen = {link.alias for link in values.seen.links if link.alias}
    seen |= {entry.mark for entry in values.seen.entries if entry.mark}
    return frozenset(recheck.unknown_marks(known, seen))


@cache
def late(look: Look, boot: int, weak: frozenset[str]) -> Late | None:
    """What is looked at again, after the record; None if nothing is."""
    values = _values(look, boot, weak)
    before = recheck.Before(1000, dict.fromkeys(look.runs, True))
    rows = recheck.late(before, set(look.underway), values.record, values.seen, values.expected)
    if "seen-is-there" in weak:
        marks = {link.alias for link in values.seen.links} | {e.mark for e in values.seen.entries}
        half = {State.INTENDED, State.RELEASING}
        rows = [
            r
            for r in rows
            if r.operation in look.underway or r.state not in half or r.mark not in marks
        ]
    if not rows or "moved-not-looked-at" in weak:
        return None
    again = recheck.again(rows, values.seen.links)
    devices = frozenset(_PLACES[index] for index in again.devices)
    ids = frozenset(row.id for row in rows)
    return Late(ids, devices, frozenset(again.marks), bool(again.backends))


@cache
def concluded(
    look: Look,
    boot: int,
    still_open: frozenset[int],
    now: tuple[Rows | None, ...],
    weak: frozenset[str],
) -> View:
    """What it all comes to, with the record as it is now (``snapshot._since``)."""
    values = _values(look, boot, weak)
    record, underway = values.record, set(look.underway)
    vms = _vms(values, look.pids, weak)
    holders = recheck.suspects(record.rows, vms, values.seen.links)
    holders &= {link.name for link in values.seen.links}
    moving: frozenset[int] = frozenset()
    facts = recheck.operation_facts(record, underway)
    if look.wrote and "no-record-again" not in weak:
        ids = look.late.rows if look.late else frozenset()
        again = [row for row in [*record.rows, *values.dead] if row.id in ids]
        doubted = recheck.doubtful(record.rows, vms, underway, again)
        begun = [(n, _VERBS.get(n, "gc"), "web" if n < 10 else None) for n in sorted(look.newer)]
        ended = look.opened - underway - still_open
        if "free-lock-is-interrupted" in weak:
            ended = frozenset()
        asked = recheck.asked_again(record, doubted, begun)
        there = _rows(now, boot, nonce=True, boot_counts="boot-ignored" not in weak)
        if "whereabouts-not-asked" not in weak:
            moving = recheck.moved_since(
                asked, {r.id: (r.state, r.operation, r.observed) for rows in there for r in rows}
            )
        if "note-overlooked" in weak:
            moving -= {r.id for r in there[0] if r.id in asked and asked[r.id].state == r.state}
        facts = recheck.operation_facts(record, underway, ended=ended, begun=begun)
    return View(
        look.links,
        look.table,
        look.rows,
        look.tombs,
        boot,
        tuple(sorted((n, known.running) for n, known in facts.items())),
        look.pids,
        tuple(name for name in look.holders if name in holders),
        moving,
    )


@cache
def plan(view: View, weak: frozenset[str]) -> Plan:
    """The program's plan over a view; ``weak`` bends its input, never the planner."""
    values = _values(view, view.boot, weak)
    record = values.record
    running = {number for number, runs in view.operations if runs}
    return plan_gc(
        Snapshot(
            installation=OURS,
            life=record.lives[record.life],
            rows=tuple(record.rows),
            tombstones=record.tombstones,
            vms=_vms(values, view.pids, weak),
            networks={},
            operations=recheck.operation_facts(record, running),
            links=tuple(values.seen.links),
            addresses=(),
            entries=tuple(values.seen.entries),
            expected=values.expected,
            holders=dict.fromkeys(view.holders, ("someone",)),
            filtered=frozenset(),
            files={},
            failures={},
            moving=view.moving,
        )
    )


# What may not be said where no stranger was at work.
_UNTRUE = frozenset(
    {Reason.LOST, Reason.MARK_MISMATCH, Reason.MARK_STRIPPED, Reason.DUPLICATE_MARK,
     Reason.EDITED_COPY, Reason.UNRECORDED}
)  # fmt: skip


@cache
def told(view: View, weak: frozenset[str], *, acting: bool) -> frozenset[str]:
    """What a plan says of things that are not as they should be; ``acting``: and does about them."""
    return frozenset(
        f"{item.action.value} {item.kind} {item.row} ({item.reason.value})"
        for item in plan(view, weak).items
        if item.action is not Action.SKIP or (not acting and item.reason in _UNTRUE)
    )


@cache
def verdicts(view: View, weak: frozenset[str], *, recover: bool) -> tuple[Verdict, ...]:
    """The acting items, as ``apply.apply_plan`` is given them (``recover`` takes a part)."""
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
        # apply._Worker._through_row: the row's own object, not a copy or a leftover
        loose = item.row == 0 or item.entry is not None or item.state == State.RELEASED
        if recover and not _interrupted(
            item.reason, loose, states.get((mark, kind)), lives.get(mark), view
        ):
            continue
        action = item.action.value if item.action is not Action.SKIP else "delete"
        state = states.get((mark, kind), "x")
        found.append(Verdict(mark, kind, action, item.reason.value, loose, state))
    return tuple(found)


def _interrupted(
    reason: Reason, loose: bool, state: str | None, life: int | None, view: View
) -> bool:
    """``recover.recover``'s choice among the acting items of the plan."""
    if loose:
        return reason is Reason.STALE_RESTORED
    return state != "c" or life != view.boot or (_STOP, False) in view.operations


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
