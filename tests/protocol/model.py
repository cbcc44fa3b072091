"""The protocol as a model: every interleaving of its steps, crashes and others, breadth first.

One VM, ``web``, is started twice (generations 1 and 2, each with a TAP device, a firewall element
that publishes a port, and a process), stopped, collected and recovered, by processes that each take
one step at a time. A step is what the program does atomically: one store transaction, one system
call, one look. Between any two steps anybody else may move, any process may die, somebody else may
rename, delete, hold, mark, save and restore, the host may reboot, and the store may be replaced by
an earlier copy of itself. What a collector decides is asked of the program's own planner
(:mod:`tests.protocol.judging`); what it then does is modelled here, function by function; comments
name them.

:func:`search` returns the shortest way to each violation. ``World`` says how often what may happen;
``weak`` names parts of the protocol that are left out, which must show.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.protocol.judging import (
    KINDS,
    OTHER,
    STRANGER,
    Look,
    Rows,
    Verdict,
    View,
    concluded,
    late,
    name_of,
    plan,
    text,
    told,
    unknown,
    verdicts,
)

S1, S2, STOP, GC = 0, 1, 2, 3  # who may act
_NAMES = ("start 1", "start 2", "stop", "gc")
_RESOLVE, _STOP_OPERATION, _GC_OPERATION = (
    6,
    5,
    10,
)  # ids of operations; those of starts are 1 and 2
RUNS = ("run", "att")


class World(NamedTuple):
    """How often each thing may happen."""

    crashes: int = 0
    collects: int = 0
    starts: int = 1
    stops: int = 0
    unknown_commits: int = 0
    links: int = 0  # somebody else renames, deletes, unmarks, takes a name, copies a mark
    holds: int = 0  # somebody else opens a TAP device of ours
    rules: int = 0  # somebody else saves, restores, adds, deletes
    reboots: int = 0
    pids: int = 0  # somebody else's process gets a VM's pid
    swaps: int = 0  # the store is exchanged with a copy of it
    misses: int = 0  # a dump leaves out a device that is there
    running: bool = False  # begin with generation 1 committed and its VM running
    fine: bool = False  # each look of a collector is a step of its own, else they come in three
    told: bool = False  # whether what plans say is held against what was so


class Tap(NamedTuple):
    """A TAP device; generation and index are its place in ``State.links``."""

    name: str
    mark: int  # 0: none
    persistent: bool
    holder: str  # "", "V" (the VM), "X" (somebody else), or the number of an actor


class Actor(NamedTuple):
    """A process of hvtx: where it is, what it remembers, the operation whose lock it holds."""

    at: str
    job: Any = None
    operation: int = 0


class Target(NamedTuple):
    """Rows of one mark that are to be released, as they were seen; or a loose object."""

    mark: int
    kinds: str
    seen: tuple[tuple[str, int], ...]
    loose: bool


class Job(NamedTuple):
    """What a collector or a release holds in its memory."""

    recover: bool = False
    look: Look = Look()
    found: tuple[Verdict, ...] = ()
    todo: tuple[Target, ...] = ()
    commit: tuple[Target, ...] = ()
    forget: tuple[Target, ...] = ()
    kinds: str = ""  # of the first target: moved to releasing, not yet looked at
    gone: str = ""
    grip: int | None = None  # the device that is held while all of its VM is released
    aux: Any = None  # what was read just now


class State(NamedTuple):
    """Everything: the store, the host, the processes, and what may still happen."""

    rows: tuple[Rows | None, Rows | None] = (None, None)
    links: tuple[Tap | None, Tap | None, Tap | None] = (
        None,
        None,
        None,
    )  # the last: somebody else's
    table: tuple[
        tuple[int, int, bool], ...
    ] = ()  # handle, mark, put there by somebody else's restore
    saved: tuple[int, ...] | None = None
    procs: tuple[str, str] = ("", "")  # "", "gate", "run", "att", "dead"
    pids: tuple[str, str] = ("", "")  # who has the pid of a dead one: "", "other", "same"
    actors: tuple[Actor, ...] = (Actor("lock"), Actor("wait"), Actor("idle"), Actor("idle"))
    vm_lock: int = -1
    opened: frozenset[int] = frozenset()  # operations that have not ended
    boot: int = 0
    seq: int = 0
    mark: int = 0  # the high-water mark; on tmpfs
    copy: tuple[Any, int] | None = None  # a copy of the store: rows, seq
    forked: bool = False  # the store was replaced at least once
    budget: World = World()


Step = tuple[str, State, str | None]  # what happened, the state after it, the violation


# -- small things ----------------------------------------------------------------------------------


def act(
    s: State, who: int, at: str, job: Any = None, operation: int | None = None, **more: Any
) -> State:
    """The state after actor ``who`` went on to ``at``."""
    actor = Actor(at, job, s.actors[who].operation if operation is None else operation)
    return s._replace(actors=_with(more.pop("actors", s.actors), who, actor), **more)


def _with(items: tuple[Any, ...], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])


def _write(s: State, **changes: Any) -> State:
    """A store transaction: ``Store.transaction`` raises the high-water mark after the commit."""
    s = _tell(s, lambda look: look._replace(wrote=True) if look.rows else look)
    if not s.budget.swaps and not s.forked:
        return s._replace(**changes)  # nobody compares the numbers
    seq = s.seq + 1
    return s._replace(seq=seq, mark=max(seq, s.mark), **changes)


def _begin(s: State, operation: int, **changes: Any) -> State:
    """``transaction.begin``: who looks at that time cannot tell which of its doings are seen."""
    one = {operation}
    s = _tell(
        s,
        lambda look: (
            look._replace(newer=look.newer | one)
            if look.rows  # the record was read before
            else look._replace(runs=look.runs | one)
        ),
    )
    return _write(s, opened=s.opened | {operation}, **changes)


def _close(s: State, operation: int, **changes: Any) -> State:
    """``Operation.end``, or the end of a commit."""
    return _write(s, opened=s.opened - {operation}, **changes)


# From the first look to the last.
_LOOKING = frozenset(
    {"links", "table", "rows", "operations", "locks", "again", "again-table", "pids", "holders", "since"}
)  # fmt: skip


def _tell(s: State, change: Callable[[Look], Look]) -> State:
    """Keep for each collector that is looking what it will find out when it asks."""
    if not any(actor.at in _LOOKING for actor in s.actors):
        return s
    return s._replace(
        actors=tuple(
            a._replace(job=a.job._replace(look=change(a.job.look))) if a.at in _LOOKING else a
            for a in s.actors
        )
    )


def _spend(s: State, what: str) -> World:
    return s.budget._replace(**{what: getattr(s.budget, what) - 1})


def _set(s: State, mark: int, kinds: str, state: str, operation: int | None = None) -> State:
    """Move rows of a mark."""
    index = next(i for i, rows in enumerate(s.rows) if rows and rows.mark == mark)
    rows = s.rows[index]
    assert rows is not None
    for kind in kinds:
        old = getattr(rows, kind)
        rows = rows._replace(**{kind: (state, old[1] if operation is None else operation)})
    return _write(s, rows=_with(s.rows, index, rows))


def rows_of(s: State, mark: int) -> Rows | None:
    """The rows with a mark, if they are in the store."""
    return next((rows for rows in s.rows if rows and rows.mark == mark), None)


def _firewall(s: State, table: tuple[tuple[int, int, bool], ...]) -> State:
    """Another generation of the ruleset: what was read under the old one is stale."""
    actors = tuple(
        a._replace(job=a.job._replace(aux="stale"))
        if a.at == "rule-act" and a.job.aux == "fresh"
        else a
        for a in s.actors
    )
    return s._replace(table=table, actors=actors)


def _link(s: State, index: int, tap: Tap | None) -> State:
    return s._replace(links=_with(s.links, index, tap))


def alive(s: State, generation: int) -> bool:
    """Whether a generation's VM process runs."""
    return s.procs[generation - 1] in RUNS


def active(s: State, who: int) -> bool:
    """Whether an actor is in the middle of a command."""
    return s.actors[who].at not in ("idle", "wait", "lock", "done")


def trusted(s: State, weak: frozenset[str]) -> bool:
    """``Store.check_trust``: a store behind its high-water mark lost commits."""
    return s.seq >= s.mark or "no-high-water-mark" in weak


def _running(s: State, weak: frozenset[str]) -> frozenset[int]:
    """``Runtime.is_running``, for every operation: whose lock somebody holds."""
    if "no-operation-lock" in weak:
        return frozenset()
    return frozenset(actor.operation for actor in s.actors if actor.operation)


def _pids(s: State) -> tuple[str, ...]:
    return tuple(
        "own" if proc in ("gate", *RUNS) else pid for proc, pid in zip(s.procs, s.pids, strict=True)
    )


def _seen(s: State) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Links and table as a dump shows them: without who holds them, without handles."""
    links = tuple(tap and tap._replace(holder="") for tap in s.links)
    return links, tuple((0, mark, False) for _, mark, _ in s.table)


def _holders(s: State) -> tuple[str, ...]:
    return tuple(sorted({tap.name for tap in s.links if tap and tap.holder}))


def _concluded(s: State, look: Look, weak: frozenset[str]) -> View:
    opened, rows = (s.opened, s.rows) if look.wrote else (frozenset(), ())
    return concluded(look._replace(so=frozenset()), s.boot, opened, rows, weak)


def at_once(s: State, weak: frozenset[str]) -> View:
    """What somebody would see who sees all of it in one moment."""
    links, table = _seen(s)
    look = Look(links=links, table=table, rows=s.rows)
    look = look._replace(
        tombs=unknown(look, s.boot, weak),
        opened=s.opened,
        underway=s.opened & _running(s, weak),
        pids=_pids(s),
        holders=_holders(s),
    )
    return _concluded(s, look, weak)


def not_dead(s: State, rows: Rows, weak: frozenset[str]) -> bool:
    """``classify`` of the noted process, right now."""
    if rows.ident is None or rows.p[0] == "x":
        return False
    if rows.ident != s.boot and "boot-ignored" not in weak:
        return False
    there = _pids(s)[rows.mark // 10 - 1]
    return there in ("own", "same") or (there == "other" and "pid-without-start" in weak)


# -- violations -------------------------------------------------------------------------------------


def _cut(s: State, index: int, who: int) -> str | None:
    """What deleting a device means."""
    tap = s.links[index]
    assert tap is not None
    if index == 2:
        return "a stranger's device was deleted"
    if alive(s, index + 1):
        return "a live VM's device was deleted"
    if tap.holder not in ("", str(who)):
        return "a device that a process holds was deleted"
    return None


def _torn(s: State, entry: tuple[int, int, bool]) -> str | None:
    """What deleting a firewall object means; all of generation 1 and 2 stand for the same port."""
    if entry[1] == STRANGER:
        return "a stranger's rule was deleted"
    if entry[1] == OTHER:
        return "another installation's rule was deleted"
    for generation in (1, 2):
        if alive(s, generation):
            own = entry[1] // 10 == generation
            return (
                "a live VM's rule was deleted"
                if own
                else "a rule that serves a live VM was deleted"
            )
        tap = s.links[generation - 1]
        ran = s.procs[generation - 1] == "dead"  # else nobody can have had traffic through it
        if ran and tap and tap.holder == "X" and entry[1] // 10 == generation:
            return "the rule of a device that a process holds was deleted"
    return None


def _closed_early(s: State, mark: int, kinds: str) -> str | None:
    """Whether rows are closed while their object is there (somebody else may have brought it back)."""
    tap = s.links[mark // 10 - 1]
    if "t" in kinds and tap and tap.mark == mark:
        return "a row was closed while its object is there"
    if "r" in kinds and any(m == mark and not brought for _, m, brought in s.table):
        return "a row was closed while its object is there"
    return None


def off_record(s: State) -> str | None:
    """Whether a VM process runs that neither its row nor a running start accounts for."""
    for generation in (1, 2):
        rows = s.rows[generation - 1]
        if s.forked or not alive(s, generation) or s.actors[generation - 1].operation == generation:
            continue
        if rows is None or rows.ident is None or rows.p[0] == "x":
            return "a VM process runs off the record"
    return None


# -- the start: vm_start.start_vm, launching.bring_up, effects.create, TapDriver._create -----------------


def start(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """The next step of a start; ``who`` is its generation less one."""
    actor, generation = s.actors[who], who + 1
    at, says = actor.at, _NAMES[who]
    if at == "wait" and s.budget.starts > 1 and s.actors[S1].at == "done":
        at = "lock"
    if at == "wait" or (at == "lock" and s.vm_lock >= 0):
        return
    if at == "lock":
        if not trusted(s, weak):  # Runtime.enter
            yield f"{says}: refused, the store was rolled back", act(s, who, "done"), None
        elif _left(s):  # vm_start.start_held: resolve, by gc's own rules
            yield (
                f"{says}: locks the VM, something is left",
                act(s, who, "before", Job(), vm_lock=who),
                None,
            )
        else:
            at = "early" if "intend-after-make" in weak else "intend"
            yield f"{says}: locks the VM", act(s, who, at, vm_lock=who), None
    elif at == "recheck":
        if _left(s):
            yield (
                f"{says}: refused, something stays",
                act(s, who, "done", operation=0, vm_lock=-1),
                None,
            )
        else:
            yield f"{says}: all is released", act(s, who, "intend", operation=0), None
    else:
        yield from _MAKING[at](s, who, generation, weak)


def _early(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    """What the protocol forbids: the device first, the row that speaks of it second."""
    after = _link(s, who, Tap(name_of(generation), generation * 10 + 1, True, ""))
    yield f"{_NAMES[who]}: makes the device, whole", act(after, who, "intend"), None


def _left(s: State) -> bool:
    return any(getattr(rows, kind)[0] != "x" for rows in s.rows if rows for kind in KINDS)


def _intend(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    """``transaction.begin``: operation, lock and rows appear in one transaction."""
    new = 1 + sum(rows is not None for rows in s.rows)  # AUTOINCREMENT, within one store
    first = ("i", generation)
    rows = Rows(first, first, first, s.boot, None, generation * 10 + new)
    after = _begin(s, generation, rows=_with(s.rows, who, rows))
    at = "element" if "intend-after-make" in weak else "make"
    yield f"{_NAMES[who]}: intends", act(after, who, at, operation=generation), None


def _failed(s: State, who: int, why: str) -> Step:
    """An error before there is a process: ``undo.undo`` from the rows."""
    return f"{_NAMES[who]}: {why}", act(s, who, "claim", Job(todo=(_own(s, who),))), None


def _own(s: State, who: int) -> Target:
    rows = s.rows[who]
    assert rows is not None
    return Target(rows.mark, "rpt", (("i", who + 1),) * 3, False)


def _make(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    """``tun.create``: TUNSETIFF with IFF_TUN_EXCL; the device lives as long as the descriptor."""
    name = name_of(generation)
    if any(tap and tap.name == name for tap in s.links):
        yield _failed(s, who, "the name is taken")
        return
    persistent = "persist-before-mark" in weak
    after = _link(s, who, Tap(name, 0, persistent, str(who)))
    yield f"{_NAMES[who]}: makes the device", act(after, who, "mark"), None


def _mark(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    """``Links.change``: alias, master and up in one message."""
    tap, rows = s.links[who], s.rows[who]
    assert rows is not None
    if tap is None:
        yield _failed(s, who, "the device is gone")
        return
    after = _link(s, who, tap._replace(mark=rows.mark))
    yield f"{_NAMES[who]}: marks it", act(after, who, "persist"), None


def _persist(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    """``TUNSETPERSIST``, and the descriptor is closed."""
    tap = s.links[who]
    if tap is None:
        yield _failed(s, who, "the device is gone")
        return
    after = _link(s, who, tap._replace(persistent=True, holder=""))
    yield f"{_NAMES[who]}: makes it persistent", act(after, who, "element"), None


def _element(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    """``NftablesDriver.create``: one batch; EEXIST where somebody has the port's key."""
    rows = s.rows[who]
    assert rows is not None
    if any(mark not in (STRANGER, OTHER) for _, mark, _ in s.table):
        yield _failed(s, who, "the port is taken")
        return
    after = _firewall(s, (*s.table, (_handle(s, weak), rows.mark, False)))
    yield f"{_NAMES[who]}: adds the rule", act(after, who, "spawn"), None


def _handle(s: State, weak: frozenset[str]) -> int:
    """The kernel counts rules up; only a program that believes in handles need know."""
    if "delete-by-handle" not in weak:
        return 0
    return 1 + max((handle for handle, _, _ in s.table), default=0)


def _spawn(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    after = s._replace(procs=_with(s.procs, who, "gate"))
    early = "gate-opened-before-noted" in weak or "identity-with-the-commit" in weak
    yield f"{_NAMES[who]}: spawns the gate", act(after, who, "open" if early else "note"), None


def _note(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    """``Operation.observe``: the identity is durable."""
    rows = s.rows[who]
    assert rows is not None
    after = _write(s, rows=_with(s.rows, who, rows._replace(ident=s.boot)))
    at = "commit" if "gate-opened-before-noted" in weak else "open"
    yield f"{_NAMES[who]}: notes the process", act(after, who, at), None


def _open(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    """``Gate.open``: it becomes the hypervisor, if it still is there."""
    after = s._replace(procs=_with(s.procs, who, "run"))
    at = "note" if "gate-opened-before-noted" in weak else "commit"
    yield f"{_NAMES[who]}: opens the gate", act(after, who, at), None


def _commit(s: State, who: int, generation: int, weak: frozenset[str]) -> Iterator[Step]:
    """``Operation.commit``: compare-and-swap of all rows; ``_roll_back`` if one was lost."""
    rows, says = s.rows[who], _NAMES[who]
    assert rows is not None
    if "identity-with-the-commit" in weak:
        rows = rows._replace(ident=s.boot)
    ours = all(getattr(rows, kind) == ("i", generation) for kind in KINDS)
    if not ours and "no-swap-at-commit" not in weak:
        yield (
            f"{says}: lost its rows, kills the VM",
            act(_kill(s, who), who, "claim", Job(todo=(_own(s, who),))),
            None,
        )
        return
    bad = None if ours else "a row was committed whose object was removed"
    done = rows._replace(**dict.fromkeys(KINDS, ("c", generation)))
    kept = _close(s, generation, rows=_with(s.rows, who, done))
    yield f"{says}: commits", act(kept, who, "done", operation=0, vm_lock=-1), bad
    if s.budget.unknown_commits:
        # CommitUnknown, and the store cannot be asked either: only `recover` may decide
        for left, words in ((s, "not kept"), (kept, "kept")):
            spent = left._replace(budget=_spend(s, "unknown_commits"))
            if "undo-on-unknown-commit" in weak:
                job = Job(todo=(_own(s, who)._replace(loose=True),), kinds="rt")
                after = act(spent, who, "remove", job)
            else:
                after = act(spent, who, "done", operation=0, vm_lock=-1)
            yield f"{says}: the commit is unknown ({words})", after, None


def _kill(s: State, who: int) -> State:
    tap = s.links[who]
    if tap and tap.holder == "V":
        s = _drop_hold(s, who)
    return s._replace(procs=_with(s.procs, who, "dead"))


def _drop_hold(s: State, index: int) -> State:
    """A descriptor is closed: what was not made persistent goes with it."""
    tap = s.links[index]
    assert tap is not None
    return _link(s, index, tap._replace(holder="") if tap.persistent else None)


# -- the stop: vm_stop.stop_vm --------------------------------------------------------------------------


def stop(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """The next step of `vm stop`."""
    at = s.actors[who].at
    if at == "idle":
        if s.budget.stops and s.vm_lock < 0 and trusted(s, weak) and _left(s):
            begun = _begin(s, _STOP_OPERATION)
            after = act(begun, who, "kill", operation=_STOP_OPERATION, vm_lock=who)
            yield "stop: locks the VM", after._replace(budget=_spend(s, "stops")), None
    elif at == "kill":
        bad, after = None, s
        for index, rows in enumerate(s.rows):
            # _end_process: only that very process is signalled, by its pidfd
            if rows and not_dead(s, rows, weak):
                if _pids(s)[index] == "own":
                    after = _kill(after, index)
                else:
                    bad = "a stranger's process was killed"
        yield "stop: ends the process", act(after, who, "read"), bad
    elif at == "read":  # _release_all: rows of earlier lives are forgotten, the others released
        after, todo = s, []
        for rows in s.rows:
            kinds = "".join(k for k in "rpt" if rows and getattr(rows, k)[0] != "x")
            if rows and kinds and rows.life != s.boot:
                after = _set(after, rows.mark, kinds, "x")
            elif rows and kinds:
                todo.append(Target(rows.mark, kinds, tuple(getattr(rows, k) for k in kinds), False))
        yield "stop: reads the rows", act(after, who, "claim", Job(todo=tuple(todo))), None
    else:
        yield from _RELEASING[at](s, who, weak)


# -- collecting: collect.collect, recover.recover, resolve.resolve ------------------------------------


def collect(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """The next step of gc, recover, or of a start that resolves what is left."""
    actor = s.actors[who]
    if actor.at == "idle":
        if s.budget.collects and trusted(s, weak):
            spent = s._replace(budget=_spend(s, "collects"))
            for recover in (False, True):
                verb = "recover" if recover else "gc"
                yield f"{verb}: begins", act(spent, who, "before", Job(recover=recover)), None
    else:
        yield from _RELEASING[actor.at](s, who, weak)


def _looking(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """The next look of a collector; those of a group at once in worlds that are not ``fine``."""
    found = _LOOKS[s.actors[who].at](s, who, weak)
    if s.budget.fine:
        yield from found
        return
    for words, after, bad in found:
        if bad is None and after.actors[who].at in _TOGETHER:
            for more, last, worse in _looking(after, who, weak):
                yield f"{words}; {more}", last, worse
        else:
            yield words, after, bad


# What follows at once upon what came before: dumps; the record and who runs; all that comes last.
_TOGETHER = frozenset({"table", "locks", "again-table", "holders", "since", "begin"})


def _before(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``snapshot._before``: which operations there are, and which of them hold their locks."""
    runs = s.opened & _running(s, weak)
    at = "rows" if "record-before-host" in weak else "links"
    yield f"{_NAMES[who]}: looks at the operations", _looks(s, who, at, runs=runs), None


def _looks(s: State, who: int, at: str, **seen: Any) -> State:
    """The state after a collector has seen something."""
    job: Job = s.actors[who].job
    return act(s, who, at, job._replace(look=job.look._replace(**seen)))


def _links(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``snapshot._links``: one dump; of it a device may be missing."""
    links, _ = _seen(s)
    yield f"{_NAMES[who]}: lists the links", _looks(s, who, "table", links=links), None
    if s.budget.misses:
        spent = s._replace(budget=_spend(s, "misses"))
        for index in (0, 1):
            if links[index]:
                less = _looks(spent, who, "table", links=_with(links, index, None))
                yield f"{_NAMES[who]}: lists the links, device {index + 1} is missed", less, None


def _table(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``snapshot.firewall_entries``."""
    at = "locks" if "record-before-host" in weak else "rows"
    _, table = _seen(s)
    yield f"{_NAMES[who]}: lists the rules", _looks(s, who, at, table=table), None


def _read(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``snapshot._record``: rows, tombstones and operations of one moment."""
    look: Look = s.actors[who].job.look
    tombs = unknown(Look(links=look.links, table=look.table, rows=s.rows), s.boot, weak)
    look = look._replace(rows=s.rows, opened=s.opened, tombs=tombs)
    if "processes-before-record" in weak:
        look = look._replace(pids=_pids(s))
    seen = look._asdict()
    if "record-before-host" in weak:
        yield f"{_NAMES[who]}: reads the record", _looks(s, who, "links", **seen), None
    elif "record-in-two-moments" in weak:
        yield f"{_NAMES[who]}: reads the rows", _looks(s, who, "operations", **seen), None
    else:
        yield f"{_NAMES[who]}: reads the record", _looks(s, who, "locks", **seen), None


def _operations(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """What the protocol forbids: another statement, of another moment, for all but the rows."""
    nothing: frozenset[int] = frozenset()
    after = _looks(s, who, "locks", opened=s.opened, newer=nothing, wrote=False)
    yield f"{_NAMES[who]}: reads the operations", after, None


def _locks(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """Which operations of the record run, and ``looks.late``: what is looked at again."""
    look: Look = s.actors[who].job.look
    underway = look.opened & _running(s, weak)
    if "no-look-before" in weak:
        look = look._replace(runs=frozenset())
    elif "record-before-host" not in weak:
        underway &= look.runs
    look = look._replace(underway=underway)
    more = late(look._replace(so=frozenset()), s.boot, weak)
    look = look._replace(late=more, runs=frozenset())
    at = "pids"
    if more is not None:
        at = "again" if more.devices else "again-table" if more.firewall else "pids"
    yield f"{_NAMES[who]}: looks who runs", _looks(s, who, at, **look._asdict()), None


def _again(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``snapshot._look_at_links``: a device by its index; one that is being made is waited for."""
    look: Look = s.actors[who].job.look
    assert look.late is not None
    index = min(look.late.devices)
    tap = s.links[index]
    making = tap is not None and not tap.mark and not tap.persistent and tap.holder
    if making and "mark-not-awaited" not in weak:
        return
    links = _with(look.links, index, tap and tap._replace(holder=""))
    more = look.late._replace(devices=look.late.devices - {index})
    at = "again" if more.devices else "again-table" if more.firewall else "pids"
    after = _looks(s, who, at, links=links, late=more)
    yield f"{_NAMES[who]}: looks at device {index + 1} again", after, None


def _again_table(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``snapshot._look_again``: of the marks in question all is as it is seen now."""
    look: Look = s.actors[who].job.look
    assert look.late is not None
    nonce = "marks-without-nonce" not in weak

    def asked(entry: Any) -> bool:
        assert look.late is not None
        return text(entry[1], "r", nonce=nonce) in look.late.marks

    _, now = _seen(s)
    table = (*(e for e in look.table if not asked(e)), *(e for e in now if asked(e)))
    yield f"{_NAMES[who]}: lists the rules again", _looks(s, who, "pids", table=table), None


def _look_at_pids(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``snapshot._processes``; ``_await_gate``: that of a dead start reads end-of-file and goes."""
    look: Look = s.actors[who].job.look
    for rows in look.rows:
        if rows and rows.ident is not None and rows.p == ("i", rows.mark // 10):
            index = rows.mark // 10 - 1
            if s.procs[index] == "gate" and not s.actors[index].operation:
                return
    late = look.late and look.late._replace(devices=frozenset(), marks=frozenset(), firewall=False)
    pids = look.pids if "processes-before-record" in weak else _pids(s)
    after = _looks(s, who, "holders", pids=pids, late=late)
    yield f"{_NAMES[who]}: looks at the processes", after, None


def _look_at_holders(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``snapshot._holders``."""
    after = _looks(s, who, "since", holders=_holders(s))
    yield f"{_NAMES[who]}: looks who holds devices", after, None


def _since(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``snapshot._since``, and the plan of it all."""
    job: Job = s.actors[who].job
    view = _concluded(s, job.look, weak)
    found = verdicts(view, _planning(weak), recover=job.recover)
    bad, says = None, ""
    if s.budget.told:
        untrue = told(view, _planning(weak), acting=False) - job.look.so
        if untrue:
            bad = "a plan tells what was not so"
            says = f", untruly {', '.join(sorted(untrue))}"
    if who in (S1, S2):
        found = tuple(verdict for verdict in found if not verdict.loose)
    if found:
        after = act(s, who, "begin", Job(job.recover, found=found))
        yield f"{_NAMES[who]}: plans {_words(found)}{says}", after, bad
    else:
        yield f"{_NAMES[who]}: has nothing to do{says}", _ended(s, who), bad


def _begins(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``apply_plan``: the operation, and the rows of the plan as they are now."""
    operation = _GC_OPERATION + s.budget.collects if who == GC else _RESOLVE + who
    work = _sorted(s, s.actors[who].job, weak)
    after = act(_begin(s, operation), who, "chunk", work, operation=operation)
    yield f"{_NAMES[who]}: begins its operation", after, None


def _planning(weak: frozenset[str]) -> frozenset[str]:
    """The weakenings that the planner's input knows."""
    return weak & {
        "pid-without-start", "boot-ignored", "marks-without-nonce", "unknown-mark-is-garbage",
        "tombstones-dropped",
    }  # fmt: skip


def _words(found: tuple[Verdict, ...]) -> str:
    return ", ".join(f"{v.action} {v.kind}{v.mark} ({v.reason})" for v in found)


def _sorted(s: State, job: Job, weak: frozenset[str]) -> Job:
    """``_Worker``: rows are read again, and an item whose row changed its state is left alone."""
    lots: dict[str, dict[int, str]] = {"release": {}, "commit": {}, "forget": {}}
    loose = []
    for verdict in job.found:
        if verdict.loose:
            loose.append(Target(verdict.mark, verdict.kind, (), True))
            continue
        now = rows_of(s, verdict.mark)
        if now is None or getattr(now, verdict.kind)[0] != verdict.state:
            continue
        lot = {"in-use-before-commit": "commit", "rebooted": "forget"}.get(
            verdict.reason, "release"
        )
        if verdict.reason == "already-gone" and "absence-believed" in weak:
            lot = "forget"
        mine = lots[lot]
        mine[verdict.mark] = mine.get(verdict.mark, "") + verdict.kind
    parts = {name: tuple(_target(s, *pair) for pair in lot.items()) for name, lot in lots.items()}
    return Job(
        recover=job.recover,
        todo=(*parts["release"], *loose),
        commit=parts["commit"],
        forget=parts["forget"],
    )


def _target(s: State, mark: int, kinds: str) -> Target:
    rows = rows_of(s, mark)
    kinds = "".join(kind for kind in "rpt" if kind in kinds)
    return Target(mark, kinds, tuple(getattr(rows, kind) for kind in kinds), False)


def _chunk(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``_Worker._chunk``: lock the VM or skip it, complete, forget, and look at the process again."""
    job: Job = s.actors[who].job
    says = _NAMES[who]
    if who == GC and s.vm_lock >= 0 and "no-vm-lock-in-gc" not in weak:
        loose = tuple(target for target in job.todo if target.loose)
        yield (
            f"{says}: the VM is locked, skips it",
            act(s, who, "claim", Job(job.recover, todo=loose)),
            None,
        )
        return
    after, bad = s, None
    for target in job.commit:  # intents.commit: compare-and-swap
        rows = rows_of(s, target.mark)
        assert rows is not None
        whole = all(
            getattr(rows, k) == was for k, was in zip(target.kinds, target.seen, strict=True)
        )
        if whole or "no-swap-at-completion" in weak:
            if any(getattr(rows, kind)[0] in "rx" for kind in target.kinds):
                bad = "a row was committed whose object was removed"
            after = _set(after, target.mark, target.kinds, "c")
    for target in job.forget:  # intents.forget
        rows = rows_of(s, target.mark)
        if rows is not None:
            bad = bad or _closed_early(s, target.mark, target.kinds)
            after = _set(after, target.mark, target.kinds, "x")
    if "no-second-look" in weak:
        todo = job.todo
    else:  # _alive_again
        again = {rows.mark for rows in s.rows if rows and not_dead(s, rows, weak)}
        todo = tuple(t for t in job.todo if t.loose or t.mark not in again)
    lock = who if who == GC and s.vm_lock < 0 else s.vm_lock
    yield (
        f"{says}: locks the VM and looks again",
        act(after, who, "claim", Job(job.recover, todo=todo), vm_lock=lock),
        bad,
    )


# -- releasing: Operation.release, NftablesDriver.release, TapDriver.release ------------------------------


def _claim(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``intents.release``: rows that are still as they were seen become releasing."""
    job: Job = s.actors[who].job
    operation = s.actors[who].operation
    if not job.todo:
        yield f"{_NAMES[who]}: ends", _ended(s, who), None
        return
    target = job.todo[0]
    if target.loose:
        yield from _loose(s, who, target, weak)
        return
    rows = rows_of(s, target.mark)
    assert rows is not None
    moved = "".join(
        kind
        for kind, was in zip(target.kinds, target.seen, strict=True)
        if getattr(rows, kind) == was
    )
    if not moved:
        yield (
            f"{_NAMES[who]}: lost the rows to another",
            act(s, who, "claim", job._replace(todo=job.todo[1:])),
            None,
        )
        return
    if "row-first" in weak:
        bad = _closed_early(s, target.mark, moved)
        after = _set(s, target.mark, moved, "x", operation)
        yield (
            f"{_NAMES[who]}: closes the rows",
            act(after, who, "remove", job._replace(kinds=moved)),
            bad,
        )
        return
    after = _set(s, target.mark, moved, "r", operation)
    device = rows.t[0] != "x" and rows.life == s.boot  # held also where it is not to go itself
    seizes = device and ("t" in moved or "r" in moved) and not weak & _UNSEIZED
    at = "seize" if seizes else "remove"
    words = f"{_NAMES[who]}: rows {moved} -> releasing"
    yield words, act(after, who, at, job._replace(kinds=moved)), None


_UNSEIZED = frozenset({"rules-before-hold", "delete-by-name", "check-then-delete"})


def _attach_taps(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``TapDriver.seize``: what is gone, or not the row's, is not held; the release tells."""
    job: Job = s.actors[who].job
    mark = job.todo[0].mark
    tap = s.links[mark // 10 - 1]
    if tap is None or tap.mark != mark:
        yield f"{_NAMES[who]}: has nothing to hold", act(s, who, "remove", job), None
        return
    after = act(s, who, "seize-attach", job._replace(aux=tap.name))
    yield f"{_NAMES[who]}: looks at the device", after, None


def _seize_attach(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``tap.hold``: by name; where somebody has it open, all of the VM is kept."""
    job: Job = s.actors[who].job
    index = next((i for i, tap in enumerate(s.links) if tap and tap.name == job.aux), -1)
    tap = s.links[index] if index >= 0 else None
    if tap is None:
        after = act(s, who, "remove", job._replace(aux=None))
        yield f"{_NAMES[who]}: its name is gone", after, None
    elif tap.holder:
        after = act(s, who, "remove", job._replace(kinds="", aux=None))
        yield f"{_NAMES[who]}: EBUSY, keeps all of the VM", after, None
    else:
        held = _link(s, index, tap._replace(holder=str(who)))
        after = act(held, who, "seize-check", job._replace(aux=(tap.name, index)))
        yield f"{_NAMES[who]}: attaches to {tap.name}", after, None


def _seize_check(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``tap.hold``: is what is held what was looked at, and does it carry the mark?"""
    job: Job = s.actors[who].job
    name, held = job.aux
    if _is_it(s, job.todo[0].mark, name) or "no-check-after-attach" in weak:
        after = act(s, who, "remove", job._replace(grip=held, aux=None))
        yield f"{_NAMES[who]}: holds the device", after, None
        return
    after = _drop_hold(s, held) if s.links[held] else s
    yield f"{_NAMES[who]}: it is another", act(after, who, "remove", job._replace(aux=None)), None


def _is_it(s: State, mark: int, name: str) -> bool:
    tap = s.links[mark // 10 - 1]
    return tap is not None and tap.name == name and tap.mark == mark


def _tap_held(s: State, who: int, job: Job, weak: frozenset[str]) -> Iterator[Step]:
    """``_release_held``: one more look at the device that was seized."""
    mark, held = job.todo[0].mark, job.grip
    assert held is not None
    tap = s.links[mark // 10 - 1]
    if (tap is not None and tap.mark == mark) or "no-check-after-attach" in weak:
        after = act(s, who, "drop", job._replace(aux=held, grip=None))
        yield f"{_NAMES[who]}: looks at the held device", after, None
        return
    after = _drop_hold(s, held) if s.links[held] else s
    left = job._replace(grip=None)
    yield f"{_NAMES[who]}: the held device changed", act(after, who, "remove", left), None


def _loose(s: State, who: int, target: Target, weak: frozenset[str]) -> Iterator[Step]:
    """``_Worker._loose``: what no live row speaks of; an entry of a VM under the VM's lock."""
    job: Job = s.actors[who].job
    says, onward = _NAMES[who], job._replace(todo=job.todo[1:])
    go = act(s, who, "remove", job._replace(kinds=target.kinds))
    if target.kinds != "r" or rows_of(s, target.mark) is None or "leftovers-unexamined" in weak:
        yield f"{says}: turns to what no row speaks of", go, None
    elif s.vm_lock == who:
        yield f"{says}: unlocks the VM", s._replace(vm_lock=-1), None
    elif s.vm_lock >= 0:
        yield f"{says}: the VM is locked, skips its leftover", act(s, who, "claim", onward), None
    elif any(rows and not_dead(s, rows, weak) for rows in s.rows):  # _needed_now
        yield f"{says}: it serves the VM, skips it", act(s, who, "claim", onward), None
    else:
        yield f"{says}: locks the VM for its leftover", go._replace(vm_lock=who), None


def _remove(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``_remove_attached``: in ``release_order`` firewall, process, device; then the tombstones."""
    job: Job = s.actors[who].job
    if not job.kinds:
        yield from _forget(s, who)
        return
    if job.kinds[0] == "p":  # has no object of its own: nothing is done, so nobody can come between
        job = job._replace(kinds=job.kinds[1:], gone=job.gone + "p")
        if not job.kinds:
            yield from _forget(act(s, who, "remove", job), who)
            return
    kind = job.kinds[0]
    rest = job._replace(kinds=job.kinds[1:])
    if kind == "r":
        yield from _rule_read(s, who, rest, weak)
    elif job.grip is not None:
        yield from _tap_held(s, who, rest, weak)
    else:
        yield from _tap_look(s, who, rest, weak)


def _rule_read(s: State, who: int, job: Job, weak: frozenset[str]) -> Iterator[Step]:
    """``_release_elements.swap``: the generation, then each element with its comment."""
    mark = job.todo[0].mark
    nonce = "marks-without-nonce" not in weak
    # without a nonce all objects of one row id look alike
    hits = [
        e
        for e in s.table
        if e[1] == mark or (not nonce and e[1] % 10 == mark % 10 and e[1] not in (STRANGER, OTHER))
    ]
    if not hits:
        yield (
            f"{_NAMES[who]}: no such rule",
            act(s, who, "remove", job._replace(gone=job.gone + "r")),
            None,
        )
        return
    aux = hits[0][0] if "delete-by-handle" in weak else "fresh"
    yield f"{_NAMES[who]}: reads the rule", act(s, who, "rule-act", job._replace(aux=aux)), None


def _rule_act(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """The batch with the generation in it: refused (ERESTART) if anything changed since."""
    job: Job = s.actors[who].job
    if job.aux == "stale":
        again = job._replace(kinds="r" + job.kinds, aux=None)
        yield f"{_NAMES[who]}: the ruleset changed, reads again", act(s, who, "remove", again), None
        return
    if job.aux == "fresh":
        mark = job.todo[0].mark
        hits = [e for e in s.table if e[1] == mark] or [
            e for e in s.table if e[1] % 10 == mark % 10
        ]
    else:
        hits = [e for e in s.table if e[0] == job.aux]
    done = job._replace(gone=job.gone + "r", aux=None)
    if not hits:
        yield f"{_NAMES[who]}: the rule is gone", act(s, who, "remove", done), None
        return
    bad = _torn(s, hits[0])
    left = tuple(entry for entry in s.table if entry != hits[0])
    after = _firewall(act(s, who, "remove", done), left)
    yield f"{_NAMES[who]}: deletes the rule with mark {hits[0][1]}", after, bad


def _tap_look(s: State, who: int, job: Job, weak: frozenset[str]) -> Iterator[Step]:
    """``release_one``: GET by index, then the mark."""
    mark = job.todo[0].mark
    index = mark // 10 - 1
    tap, name = s.links[index], name_of(mark // 10)
    if "delete-by-name" in weak:
        index = next((i for i, t in enumerate(s.links) if t and t.name == name), -1)
        if index < 0:
            yield (
                f"{_NAMES[who]}: no such device",
                act(s, who, "remove", job._replace(gone=job.gone + "t")),
                None,
            )
        else:
            after = act(_link(s, index, None), who, "remove", job._replace(gone=job.gone + "t"))
            yield f"{_NAMES[who]}: deletes device {name}", after, _cut(s, index, who)
        return
    if tap is None:
        taken = any(t and t.name == name for t in s.links)
        gone = job if taken else job._replace(gone=job.gone + "t")
        yield f"{_NAMES[who]}: no such device", act(s, who, "remove", gone), None
    elif tap.mark != mark:
        yield f"{_NAMES[who]}: the device lacks the mark", act(s, who, "remove", job), None
    elif "check-then-delete" in weak:
        if tap.holder:
            yield f"{_NAMES[who]}: the device is held", act(s, who, "remove", job), None
        else:
            yield f"{_NAMES[who]}: nobody holds the device", act(s, who, "dellink", job), None
    else:
        yield (
            f"{_NAMES[who]}: looks at the device",
            act(s, who, "attach", job._replace(aux=tap.name)),
            None,
        )


def _dellink(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """RTM_DELLINK succeeds on a device in use."""
    job: Job = s.actors[who].job
    index = job.todo[0].mark // 10 - 1
    bad = _cut(s, index, who) if s.links[index] else None
    after = act(_link(s, index, None), who, "remove", job._replace(gone=job.gone + "t"))
    yield f"{_NAMES[who]}: RTM_DELLINK", after, bad


def _attach(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``tun.attach``: by name, the kernel knows no other way; EBUSY while it is held."""
    job: Job = s.actors[who].job
    index = next((i for i, tap in enumerate(s.links) if tap and tap.name == job.aux), -1)
    if index < 0:  # a ghost is made, and goes as the descriptor is closed
        yield (
            f"{_NAMES[who]}: its name is gone",
            act(s, who, "remove", job._replace(aux=None)),
            None,
        )
        return
    tap = s.links[index]
    assert tap is not None
    if tap.holder:
        yield (
            f"{_NAMES[who]}: EBUSY, it is in use",
            act(s, who, "remove", job._replace(aux=None)),
            None,
        )
        return
    after = _link(s, index, tap._replace(holder=str(who)))
    yield (
        f"{_NAMES[who]}: attaches to {tap.name}",
        act(after, who, "check", job._replace(aux=(tap.name, index))),
        None,
    )


def _check(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """GET by index again: is what is held what was looked at, and does it carry the mark?"""
    job: Job = s.actors[who].job
    name, held = job.aux
    mark = job.todo[0].mark
    if _is_it(s, mark, name) or "no-check-after-attach" in weak:
        yield f"{_NAMES[who]}: it is the device", act(s, who, "drop", job._replace(aux=held)), None
        return
    after = _drop_hold(s, held) if s.links[held] else s
    yield f"{_NAMES[who]}: it is another", act(after, who, "remove", job._replace(aux=None)), None


def _drop(s: State, who: int, weak: frozenset[str]) -> Iterator[Step]:
    """``TUNSETPERSIST`` 0 and close: the device goes; a GET makes sure."""
    job: Job = s.actors[who].job
    bad = _cut(s, job.aux, who) if s.links[job.aux] else None
    after = _link(s, job.aux, None)
    gone = job._replace(gone=job.gone + "t", aux=None)
    yield f"{_NAMES[who]}: lets the device go", act(after, who, "remove", gone), bad


def _forget(s: State, who: int) -> Iterator[Step]:
    """``intents.forget``: what is gone becomes a tombstone, the rest stays releasing."""
    job: Job = s.actors[who].job
    target = job.todo[0]
    if job.grip is not None and s.links[job.grip]:
        s = _drop_hold(s, job.grip)  # TapDriver.let_go
    onward = job._replace(todo=job.todo[1:], gone="", grip=None, aux=None)
    if target.loose or not job.gone:
        lock = -1 if target.loose and s.vm_lock == who else s.vm_lock
        yield f"{_NAMES[who]}: goes on", act(s, who, "claim", onward, vm_lock=lock), None
        return
    bad = _closed_early(s, target.mark, job.gone)
    after = _set(s, target.mark, job.gone, "x")
    yield f"{_NAMES[who]}: tombstones for {job.gone}", act(after, who, "claim", onward), bad


def _ended(s: State, who: int) -> State:
    """``Operation.end``, ``apply._tidy``, and the locks fall; a start that resolved goes on."""
    operation = s.actors[who].operation
    if operation:
        s = _close(s, operation)
    resolved = who in (S1, S2) and s.rows[who] is None
    if who == GC or resolved:
        s = _tidy(s, operation)
    if resolved:
        return act(s, who, "recheck", operation=0)
    lock = -1 if s.vm_lock == who else s.vm_lock
    return act(s, who, "done" if who in (S1, S2) else "idle", operation=0, vm_lock=lock)


def _tidy(s: State, ended: int) -> State:
    """``intents.close_idle``: interrupted operations that no row speaks of any more."""
    speaks = {
        operation
        for rows in s.rows
        if rows
        for state, operation in (rows.t, rows.r, rows.p)
        if state in "ir"
    }
    idle = s.opened - speaks - _running(s, frozenset()) - {ended}
    return _write(s, opened=s.opened - idle) if idle else s


_LOOKS = {
    "before": _before, "links": _links, "table": _table, "rows": _read, "operations": _operations,
    "locks": _locks, "again": _again, "again-table": _again_table, "pids": _look_at_pids,
    "holders": _look_at_holders, "since": _since, "begin": _begins,
}  # fmt: skip
_RELEASING: dict[str, Any] = {
    **dict.fromkeys(_LOOKS, _looking),
    "seize": _attach_taps, "seize-attach": _seize_attach, "seize-check": _seize_check,
    "chunk": _chunk, "claim": _claim, "remove": _remove,
    "rule-act": _rule_act, "dellink": _dellink, "attach": _attach, "check": _check, "drop": _drop,
}  # fmt: skip
_MAKING: dict[str, Any] = {
    "intend": _intend, "early": _early, "make": _make, "mark": _mark, "persist": _persist,
    "element": _element, "spawn": _spawn, "note": _note, "open": _open, "commit": _commit,
    **{name: (lambda s, who, _, weak, f=function: f(s, who, weak)) for name, function in _RELEASING.items()},
}  # fmt: skip


# -- what is not hvtx -----------------------------------------------------------------------------------


def crash(s: State, who: int) -> Step:
    """SIGKILL: descriptors are closed, locks fall; a gate that was not opened will exit."""
    for index, tap in enumerate(s.links):
        if tap and tap.holder == str(who):
            s = _drop_hold(s, index)
    lock = -1 if s.vm_lock == who else s.vm_lock
    at = "done" if who in (S1, S2) else "idle"
    after = act(s, who, at, operation=0, vm_lock=lock, budget=_spend(s, "crashes"))
    return f"{_NAMES[who]}: KILLED", after, None


def guests(s: State) -> Iterator[Step]:
    """VM processes: a gate whose start is gone exits, a VM opens its device, and dies."""
    for index, proc in enumerate(s.procs):
        tap = s.links[index]
        if proc == "gate" and not s.actors[index].operation:
            yield f"gate {index + 1}: exits", s._replace(procs=_with(s.procs, index, "dead")), None
        elif proc in RUNS:
            yield f"VM {index + 1}: dies", _kill(s, index), None
        if proc == "run" and tap and tap.name == name_of(index + 1) and not tap.holder:
            after = _link(s, index, tap._replace(holder="V"))
            yield (
                f"VM {index + 1}: opens its device",
                after._replace(procs=_with(s.procs, index, "att")),
                None,
            )


def strangers_at_links(s: State) -> Iterator[Step]:
    """Somebody else renames, deletes, unmarks, takes a name with or without the mark."""
    spent = s._replace(budget=_spend(s, "links"))
    for index in (0, 1):
        tap, rows = s.links[index], s.rows[index]
        name = name_of(index + 1)
        if tap and tap.persistent:
            if tap.name == name:
                yield (
                    f"stranger: renames {name}",
                    _link(spent, index, tap._replace(name="other")),
                    None,
                )
            if tap.mark:
                yield (
                    f"stranger: unmarks {tap.name}",
                    _link(spent, index, tap._replace(mark=0)),
                    None,
                )
            yield f"stranger: deletes {tap.name}", _link(spent, index, None), None
        if rows and s.links[2] is None and not (tap and tap.name == name):
            for mark in (0, rows.mark):
                words = "with its mark" if mark else "without a mark"
                yield (
                    f"stranger: makes {name} {words}",
                    _link(spent, 2, Tap(name, mark, True, "")),
                    None,
                )


def strangers_at_rules(s: State, weak: frozenset[str]) -> Iterator[Step]:
    """Somebody else adds, deletes, saves, and restores what was saved."""
    spent = s._replace(budget=_spend(s, "rules"))
    if not any(mark == STRANGER for _, mark, _ in s.table):
        yield (
            "stranger: adds a rule",
            _firewall(spent, (*s.table, (_handle(s, weak), STRANGER, False))),
            None,
        )
    for entry in s.table:
        if entry[1] not in (STRANGER, OTHER):
            left = tuple(e for e in s.table if e != entry)
            yield f"stranger: deletes the rule with mark {entry[1]}", _firewall(spent, left), None
    marks = tuple(mark for _, mark, _ in s.table)
    if marks != s.saved:
        yield "stranger: saves the rules", spent._replace(saved=marks), None
    if s.saved is not None and s.saved != marks:
        numbered = enumerate(s.saved, start=1)  # after flush and reload handles begin again
        table = tuple(
            (n if "delete-by-handle" in weak else 0, mark, mark not in (STRANGER, OTHER))
            for n, mark in numbered
        )
        yield "stranger: flushes and restores the saved rules", _firewall(spent, table), None


def strangers_at_devices(s: State) -> Iterator[Step]:
    """Some process opens a device of ours; it lets go of it at will."""
    for index in (0, 1):
        tap = s.links[index]
        if tap and tap.holder == "X":
            yield f"stranger: closes {tap.name}", _drop_hold(s, index), None
        elif tap and tap.persistent and not tap.holder and s.budget.holds:
            after = _link(s, index, tap._replace(holder="X"))
            yield f"stranger: opens {tap.name}", after._replace(budget=_spend(s, "holds")), None


def reboot(s: State) -> Step:
    """Only the store, its copies and somebody else's saved rules outlive it."""
    actors = tuple(
        Actor("done")
        if active(s, who) and who in (S1, S2)
        else Actor("idle")
        if active(s, who)
        else a
        for who, a in enumerate(s.actors)
    )
    other = tuple(entry for entry in s.table if entry[1] == OTHER)  # it starts at boot, too
    after = s._replace(
        links=(None, None, None),
        table=other,
        procs=tuple("dead" if proc else "" for proc in s.procs),
        pids=("", ""),
        actors=actors,
        vm_lock=-1,
        boot=s.boot + 1,
        mark=0,
        budget=_spend(s, "reboots"),
    )
    return "REBOOT", after, None


def chance(s: State) -> Iterator[Step]:
    """Pids come round again, and a store is exchanged with its copy while nobody works with it."""
    for index, proc in enumerate(s.procs):
        if s.budget.pids and proc == "dead" and not s.pids[index]:
            rows = s.rows[index]
            spent = s._replace(budget=_spend(s, "pids"))
            yield (
                f"stranger: gets the pid of VM {index + 1}",
                spent._replace(pids=_with(s.pids, index, "other")),
                None,
            )
            if rows and rows.ident is not None and rows.ident != s.boot:
                after = spent._replace(pids=_with(s.pids, index, "same"))
                yield f"stranger: gets the pid and the start time of VM {index + 1}", after, None
    if s.budget.swaps:
        spent = s._replace(budget=_spend(s, "swaps"))
        if s.copy is None:
            yield "admin: copies the store", spent._replace(copy=((s.rows, s.opened), s.seq)), None
        elif s.copy[0][0] != s.rows and not any(active(s, who) for who in range(4)):
            (rows, opened), seq = s.copy
            after = spent._replace(
                rows=rows, opened=opened, seq=seq, copy=((s.rows, s.opened), s.seq), forked=True
            )
            yield "admin: exchanges the store and its copy", after, None


_ACTORS = (start, start, stop, collect)


def steps(s: State, weak: frozenset[str]) -> Iterator[Step]:
    """Everything that may happen next."""
    for who, function in enumerate(_ACTORS):
        if s.actors[who].at != "done":
            yield from function(s, who, weak)
        if s.budget.crashes and active(s, who):
            yield crash(s, who)
    yield from guests(s)
    if s.budget.links:
        yield from strangers_at_links(s)
    if s.budget.rules:
        yield from strangers_at_rules(s, weak)
    yield from strangers_at_devices(s)
    if s.budget.reboots:
        yield reboot(s)
    yield from chance(s)


# -- liveness: after the last crash --------------------------------------------------------------------------


def settle(
    s: State, weak: frozenset[str], *, meddled: bool, limit: int = 120
) -> tuple[State, str | None]:
    """`recover`, then `gc` twice, with nobody beside them and no crash; what they did not do.

    Once is enough but where a restore put the object of an earlier start into the place of a later
    one's: the first gc removes it, and only then it can be seen that the row's own is gone.
    """
    quiet = s._replace(budget=World(), saved=None)
    for verb in ("recover", "gc", "gc"):
        quiet = act(quiet, GC, "before", Job(recover=verb == "recover"))
        for _ in range(limit):
            if quiet.actors[GC].at == "idle":
                break
            step = next((x for x in guests(quiet) if x[0].endswith("exits")), None)
            quiet = (step or next(collect(quiet, GC, weak)))[1]
        else:
            return quiet, f"{verb} does not end"
    if plan(at_once(quiet, weak), _planning(weak)).acting():
        return quiet, "after recover and gc a plan is not empty"
    return quiet, next((bad for n in (1, 2) if (bad := _remains(quiet, n, meddled=meddled))), None)


def _remains(s: State, generation: int, *, meddled: bool) -> str | None:
    """What a generation left that nothing excuses; said without asking the planner.

    ``meddled``: others may have taken a mark away, so that a bare device proves nothing.
    """
    rows, tap = s.rows[generation - 1], s.links[generation - 1]
    name, alien = name_of(generation), s.links[2]
    if rows is None:
        return "a device of ours is left, off the record" if tap and not s.forked else None
    live = alive(s, generation)
    open_rows = [kind for kind in KINDS if getattr(rows, kind)[0] != "x"]
    if live:
        places = {mark for _, mark, _ in s.table if mark not in (STRANGER, OTHER)}
        taken = {
            "t": tap.mark != rows.mark if tap else alien is not None and alien.name == name,
            "r": bool(places) and rows.mark not in places,
            "p": False,
        }
        done = all(getattr(rows, kind)[0] == "c" or taken[kind] for kind in KINDS)
        return "a live VM's rows are not completed" if not done and not s.forked else None
    excused = (
        (tap is not None and (tap.holder == "X" or (tap.mark != rows.mark and tap.mark == 0)))
        or (alien is not None and alien.name == name)
        or any(mark not in (STRANGER, OTHER, rows.mark) for _, mark, _ in s.table)
    )
    if tap is not None and tap.mark == 0 and not meddled:
        return "an unmarked device of ours is left"
    if excused or s.forked:
        return None
    if tap is not None:
        return "a device of a dead VM is left"
    if any(mark == rows.mark for _, mark, _ in s.table) and not any(alive(s, n) for n in (1, 2)):
        return "a rule of a dead VM is left"  # in a live one's place it serves that
    return "rows of a dead VM are left" if open_rows else None


# -- the search -------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What a search saw."""

    states: int
    settled: int  # states from which recover and gc were run to their end
    seconds: float
    violations: dict[str, list[str]]  # each with the shortest way to it


def search(
    world: World, weak: frozenset[str] = frozenset(), *, until: str = "", limit: int = 400_000
) -> Found:
    """Breadth first through all states; stops at the violation ``until`` if one is named.

    Raises AssertionError beyond ``limit`` states: a world that is too large proves nothing.
    """
    begun = time.monotonic()
    collecting = gc.isenabled()
    gc.disable()  # states are immutable and live to the end: there is nothing to find
    try:
        return _Search(world, weak).run(until, limit, begun)
    finally:
        if collecting:
            gc.enable()


class _Search:
    def __init__(self, world: World, weak: frozenset[str]) -> None:
        self.weak, self.meddled = weak, bool(world.links)
        first = _first(world, weak)
        self.before: dict[State, tuple[State, str] | None] = {first: None}
        self.queue = deque([first])
        self.violations: dict[str, list[str]] = {}
        self.settled: dict[Any, str | None] = {}
        self.so: dict[Any, frozenset[str]] = {}

    def run(self, until: str, limit: int, begun: float) -> Found:
        before, queue = self.before, self.queue
        while queue and until not in self.violations:
            s = queue.popleft()
            self.look(s)
            for words, after, bad in steps(s, self.weak):
                if bad:
                    self.note(bad, s, words)
                heard = self.heard(after)
                if heard not in before:
                    before[heard] = (s, words)
                    queue.append(heard)
            assert len(before) < limit, f"more than {limit} states"
        seconds = time.monotonic() - begun
        return Found(len(before), len(self.settled), seconds, self.violations)

    def heard(self, s: State) -> State:
        """With what was to be said just now, for each collector that is looking."""
        if not s.budget.told or not any(a.at in _LOOKING for a in s.actors):
            return s
        key = (s.rows, s.links, s.table, s.procs, s.pids, s.opened, s.boot, s.vm_lock)
        key += tuple(a.operation for a in s.actors)
        now = self.so.get(key)
        if now is None:
            now = self.so[key] = told(at_once(s, frozenset()), frozenset(), acting=True)
        if not now:
            return s
        return _tell(s, lambda look: look._replace(so=look.so | now))

    def look(self, s: State) -> None:
        """What a state by itself says; and, where nobody works, what recovery makes of it."""
        bad = off_record(s)
        if bad:
            self.note(bad, s)
        if trusted(s, self.weak) and not any(active(s, who) for who in range(4)):
            key = (s.rows, s.links, s.table, s.procs, s.pids, s.opened, s.boot, s.forked)
            if key not in self.settled:
                self.settled[key] = settle(s, self.weak, meddled=self.meddled)[1]
            bad = self.settled[key]
            if bad:
                self.note(bad, s, "recover, gc")

    def note(self, bad: str, s: State, *last: str) -> None:
        """Breadth first, so the first way to a violation is a shortest."""
        if bad not in self.violations:
            self.violations[bad] = [*_way(self.before, s), *last]


def _first(world: World, weak: frozenset[str]) -> State:
    """An empty host but for another installation's rule; or generation 1 as its start left it."""
    numbered = "delete-by-handle" in weak
    s = State(budget=world, table=((int(numbered), OTHER, False),))
    if not world.running:
        return s
    done = ("c", 1)
    return s._replace(
        rows=(Rows(done, done, done, 0, 0, 11), None),
        links=(Tap(name_of(1), 11, True, ""), None, None),
        table=(*s.table, (2 * numbered, 11, False)),
        procs=("run", ""),
        actors=(Actor("done"), *s.actors[1:]),
        seq=3,
        mark=3,
    )


def _way(before: dict[State, tuple[State, str] | None], s: State) -> list[str]:
    words = []
    while (step := before[s]) is not None:
        s, said = step
        words.append(said)
    return words[::-1]
