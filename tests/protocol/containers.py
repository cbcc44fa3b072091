"""An attachment as a model: what differs from a VM, in every interleaving of runtimes and collectors.

One interface of a container in one network. ADD, DEL, GC with a list and hvtx's own gc go one step
at a time (a transaction, a request to the kernel, a look), and each may be killed between two. The
container's network namespace has a path, which may lead to another one later; it ends when nothing
holds it, with the pair that was put into it, and its id may be another one's after that. Strangers
remove pairs; the kernel gives ids, refuses removals, misses ids in its dumps.

What is concluded from a look is asked of the program's own planner (``judge_vm``).
:func:`search` returns the shortest way to each violation. ``weak`` names rules that are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from hvtx.model.resource import Resource
from hvtx.model.resource import State as RowState
from hvtx.model.vm import Epoch, Liveness, ProcessFacts
from hvtx.planner.states import judge_vm
from tests.protocol.searching import Found, explore

RULES = frozenset(
    {
        "path-as-proof",  # it lives as long as its path leads to a namespace
        "list-is-proof",  # a runtime's GC takes what its list has not
        "failed-look-is-dead",  # ids that could not be listed are not there
        "dump-believed",  # what a dump of ids lacks is not asked for by itself
        "cookie-before-pair",  # it is that of the namespace that the id was given to
        "no-cookie",  # an id that is there is its first owner's
        "unfound-is-dead",  # who holds the id was not found, so it is another one
        "unfinished-lives",  # a killed ADD is judged by its namespace
        "given-up-lives",  # a killed DEL is judged by its namespace
        "add-over-living",  # a second ADD takes the place of the first
        "no-id-when-made",  # the pair goes wherever the path leads by then
        "row-after-making",  # the pair is made before its row is written
        "close-before-removal",  # the row goes before the pair
        "refusal-is-done",  # what the kernel refused to remove is answered with 0
        "absent-is-error",  # a DEL of what is not there is refused
        "release-by-key",  # whatever row the container has by now goes, not the one that was judged
        "no-vm-lock",  # nobody waits for who works on the attachment
        "no-operation-lock",  # an operation that runs is taken for one that was killed
        "no-second-look",  # gc acts on what it saw before it had the lock
        "no-swap-at-commit",  # ADD commits whatever became of its row
        "ids-before-record",  # gc lists the ids, then reads which are wanted
    }
)
_LIFE = Epoch(1, "boot", 1, recovered=True)
_STATES = {
    "intended": RowState.INTENDED, "committed": RowState.COMMITTED, "releasing": RowState.RELEASING
}  # fmt: skip


class Box(NamedTuple):
    """A network namespace; its number in the state is its cookie, which is never another one's."""

    lives: bool = False
    nsid: int | None = None
    named: bool = False  # the runtime's path leads to it
    found: bool = True  # a process or a mount holds it, not only a descriptor


class Row(NamedTuple):
    """What is on record: the attachment's rows, which change together."""

    mark: int
    state: str
    actor: int  # whose operation it is
    nsid: int
    cookie: int | None


class Actor(NamedTuple):
    """A command that runs; ``at`` is its next step."""

    verb: str  # add, del, gc, GC (of a list that has not this container)
    at: str = "begin"
    seen: Row | None = None
    ids: frozenset[int] | None = None  # that a look saw, where it came before the record
    answer: str = ""
    then: str = ""  # after a release
    of: int | None = None  # the mark that a DEL is about


class World(NamedTuple):
    """Which commands are given, in whatever order, and how often each thing may happen."""

    verbs: tuple[str, ...]
    kills: int = 0
    ends: int = 0  # of a namespace
    begins: int = 0  # another one, to which the path leads from there on
    numbers: int = 0  # the kernel gives an id by itself, the lowest that is free
    unpaths: int = 0  # the path goes, and the namespace lives
    thefts: int = 0  # a stranger removes the pair
    hides: int = 0  # a namespace is held by a descriptor alone
    misses: int = 0  # a dump lacks an id
    failures: int = 0  # of a look
    refusals: int = 0  # of a removal


class State(NamedTuple):
    """Everything."""

    actors: tuple[Actor, ...]
    budget: World
    boxes: tuple[Box, Box] = (Box(lives=True, named=True), Box())
    row: Row | None = None
    pairs: frozenset[tuple[int, int]] = frozenset()  # mark, namespace
    lock: int | None = None
    marks: int = 0
    up: frozenset[tuple[int, int]] = frozenset()  # what ADD told, mark and namespace
    given_up: frozenset[int] = frozenset()  # by the runtime's DEL
    stolen: frozenset[int] = frozenset()
    meant: tuple[int, ...] = ()  # the namespace of each mark


_STEP = tuple[str, State]
_Weak = frozenset[str]


def _spend(s: State, what: str) -> State:
    return s._replace(budget=s.budget._replace(**{what: getattr(s.budget, what) - 1}))


def _actor(s: State, who: int, **changes: Any) -> State:
    changed = s.actors[who]._replace(**changes)
    return s._replace(actors=(*s.actors[:who], changed, *s.actors[who + 1 :]))


def _box(s: State, which: int, **changes: Any) -> State:
    boxes = [*s.boxes]
    boxes[which] = boxes[which]._replace(**changes)
    return s._replace(boxes=(boxes[0], boxes[1]))


def _end(s: State, who: int, answer: str) -> State:
    """A command ends, and its locks fall."""
    s = _actor(s, who, at="", answer=answer, seen=None, ids=None, then="")
    return s._replace(lock=None) if s.lock == who else s


# -- looks -----------------------------------------------------------------------------------------


@cache
def _judged(row: Row, facts: ProcessFacts) -> Liveness:
    """The program's own word."""
    spec, observed = {"nsid": row.nsid, "path": ""}, {"nsid": row.nsid}
    state = _STATES[row.state]
    of = Resource(1, "netns", "n", state, "m", spec, observed, 1, _LIFE.id, "vm", "net")
    return judge_vm("cni", [of], life=_LIFE, lives={1: _LIFE}, facts={1: facts})[0]


def _there(s: State, weak: _Weak) -> frozenset[int]:
    """The ids of the namespaces that are there."""
    if "path-as-proof" in weak:
        named = any(box.lives and box.named for box in s.boxes)
        return frozenset([s.row.nsid] if named and s.row is not None else ())
    return frozenset(box.nsid for box in s.boxes if box.lives and box.nsid is not None)


def _verdicts(
    s: State, row: Row, weak: _Weak, ids: frozenset[int] | None = None
) -> Iterator[tuple[str, State, Liveness]]:
    """What a look may conclude, and what happened during it."""
    exists = row.nsid in (_there(s, weak) if ids is None else ids)
    asked = row
    if row.state == "intended" and "unfinished-lives" in weak:
        asked = row._replace(state="committed")
    if row.state == "releasing" and "given-up-lives" in weak:
        asked = row._replace(state="committed")
    another = False
    if exists and row.cookie is not None and not any(mark == row.mark for mark, _ in s.pairs):
        holders = [n for n, box in enumerate(s.boxes) if box.lives and box.nsid == row.nsid]
        if holders and s.boxes[holders[0]].found:
            another = holders[0] != row.cookie and "no-cookie" not in weak
        elif "unfound-is-dead" in weak:
            another = True
    yield "", s, _judged(asked, ProcessFacts(exists, another=another))
    if s.budget.failures:
        broken = ProcessFacts(False, error="" if "failed-look-is-dead" in weak else "ENOBUFS")
        yield ", which fails", _spend(s, "failures"), _judged(asked, broken)
    if s.budget.misses:
        facts = ProcessFacts("dump-believed" not in weak and exists, another=another)
        yield ", whose dump lacks the id", _spend(s, "misses"), _judged(asked, facts)


# -- commands --------------------------------------------------------------------------------------


def _moves(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    me = s.actors[who]
    if me.at:
        name = f"{me.verb} {who}"
        for words, after in _STEPS[me.at](s, who, weak):
            yield f"{name} {words}", after


def _begin(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    me = s.actors[who]
    if me.verb in ("gc", "GC"):
        first = "ids" if "ids-before-record" in weak else "record"
        yield from _STEPS[first](s, who, weak)
    elif s.lock is None or "no-vm-lock" in weak:
        held = s if "no-vm-lock" in weak else s._replace(lock=who)
        yield "has its lock", _actor(held, who, at="look")


def _look(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    """ADD and DEL read the record."""
    me = s.actors[who]
    if me.verb == "del":
        if s.row is None:
            wrong = "refused" if "absent-is-error" in weak else "done"
            yield "finds nothing", _end(s, who, wrong)
        else:
            gone = s._replace(given_up=s.given_up | {s.row.mark})
            yield "finds it", _actor(gone, who, at="take", seen=s.row, then="done", of=s.row.mark)
        return
    if s.row is None:
        yield "finds nothing", _actor(s, who, at="intend")
        return
    for words, after, verdict in _verdicts(s, s.row, weak):
        if verdict is Liveness.DEAD or "add-over-living" in weak:
            yield (
                f"finds one{words}, dead",
                _actor(after, who, at="take", seen=s.row, then="intend"),
            )
        else:
            yield f"finds one{words}", _end(after, who, "refused")


def _opened(s: State) -> int | None:
    return next((n for n, box in enumerate(s.boxes) if box.lives and box.named), None)


def _intend(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    which = _opened(s)
    if which is None:
        yield "finds no namespace", _end(s, who, "refused")
        return
    known = s.boxes[which].nsid
    nsid = 100 + s.marks if known is None else known
    row = Row(s.marks, "intended", who, nsid, None)
    s = s._replace(marks=s.marks + 1, meant=(*s.meant, which))
    if "row-after-making" not in weak:
        s = s._replace(row=row)
    yield "writes its rows", _actor(s, who, at="number", seen=row)


def _number(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    """The namespace at the path gets the id."""
    row, which = s.actors[who].seen, _opened(s)
    assert row is not None
    if which is None:
        yield "finds no namespace", _undo(s, who, row)
    elif s.boxes[which].nsid in (None, row.nsid):
        after = _box(s, which, nsid=row.nsid)
        if "cookie-before-pair" in weak:
            noted = row._replace(cookie=which)
            row, after = noted, after._replace(row=noted if s.row == row else s.row)
        others = [one.nsid for n, one in enumerate(s.boxes) if one.lives and n != which]
        if row.nsid in others:  # ENOSPC
            yield "cannot give it the id", _undo(s, who, row)
        else:
            yield "gives it the id", _actor(after, who, at="make", seen=row)
    else:
        yield "finds another id", _undo(s, who, row)


def _make(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    row, which = s.actors[who].seen, _opened(s)
    assert row is not None
    if which is None or not (s.boxes[which].nsid == row.nsid or "no-id-when-made" in weak):
        yield "finds another namespace", _undo(s, who, row)
        return
    noted = row if "cookie-before-pair" in weak else row._replace(cookie=which)
    meant = tuple(which if n == row.mark else one for n, one in enumerate(s.meant))
    made = s._replace(row=noted if s.row == row else s.row, meant=meant)
    made = made._replace(pairs=s.pairs | {(row.mark, which)})
    yield "makes the pair", _actor(made, who, at="commit", seen=noted)


def _commit(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    row = s.actors[who].seen
    assert row is not None
    if s.row == row or {"no-swap-at-commit", "row-after-making"} & weak:
        where = {which for mark, which in s.pairs if mark == row.mark} or {s.meant[row.mark]}
        up = s.up | {(row.mark, min(where))}
        done = s._replace(row=row._replace(state="committed"), up=up)
        yield "commits", _end(done, who, "done")
    else:
        yield "finds its rows taken", _end(s, who, "refused")


def _undo(s: State, who: int, row: Row) -> State:
    return _actor(s, who, at="take", seen=row, then="refused")


def _take(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    """Rows become releasing, if they are as they were seen."""
    me, row = s.actors[who], s.row
    if row is None or not (row == me.seen or "release-by-key" in weak):
        answer = "again" if me.verb == "add" else "done"
        yield "finds its rows taken", _end(s, who, answer)
        return
    taken = row._replace(state="releasing", actor=who)
    first = "close" if "close-before-removal" in weak else "remove"
    yield "begins to release", _actor(s._replace(row=taken), who, at=first, seen=taken)


def _remove(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    me = s.actors[who]
    assert me.seen is not None
    mark = me.seen.mark
    after = "" if "close-before-removal" in weak else "close"
    left = s._replace(pairs=frozenset(pair for pair in s.pairs if pair[0] != mark))
    yield "removes the pair", _actor(left, who, at=after) if after else _released(left, who)
    if s.budget.refusals and left.pairs != s.pairs:
        refused = _spend(s, "refusals")
        answer = "done" if "refusal-is-done" in weak else "again"
        yield "is refused the removal", _end(refused, who, answer)


def _close(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    gone = s._replace(row=None) if s.row == s.actors[who].seen else s
    if "close-before-removal" in weak:
        yield "closes the rows", _actor(gone, who, at="remove")
    else:
        yield "closes the rows", _released(gone, who)


def _released(s: State, who: int) -> State:
    then = s.actors[who].then
    return _actor(s, who, at="intend", seen=None) if then == "intend" else _end(s, who, then)


def _ids(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    yield "lists the ids", _actor(s, who, at="record", ids=_there(s, weak))


def _record(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    if s.row is None:
        yield "finds nothing", _end(s, who, "done")
    else:
        yield "reads the record", _actor(s, who, at="judge", seen=s.row)


def _judge(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    me = s.actors[who]
    assert me.seen is not None
    for words, after, goes in _goes(s, who, me.seen, weak, me.ids):
        if goes:
            yield f"plans to release{words}", _actor(after, who, at="lock", then="done", ids=None)
        else:
            yield f"keeps it{words}", _end(after, who, "kept")


def _goes(
    s: State, who: int, row: Row, weak: _Weak, ids: frozenset[int] | None = None
) -> Iterator[tuple[str, State, bool]]:
    """Whether gc takes a row: its operation runs no more, and its attachment is dead."""
    runs = row.state != "committed" and s.actors[row.actor].at != "" and row.actor != who
    if runs and "no-operation-lock" not in weak:
        yield "", s, False
    elif s.actors[who].verb == "GC" and "list-is-proof" in weak:
        yield "", s, True
    else:
        for words, after, verdict in _verdicts(s, row, weak, ids):
            yield words, after, verdict is Liveness.DEAD


def _locking(s: State, who: int, weak: _Weak) -> Iterator[_STEP]:
    me = s.actors[who]
    assert me.seen is not None
    if s.lock is not None and "no-vm-lock" not in weak:
        return
    held = s if "no-vm-lock" in weak else s._replace(lock=who)
    if "no-second-look" in weak:
        yield "has its lock", _actor(held, who, at="take")
        return
    same = s.row == me.seen or ("release-by-key" in weak and s.row is not None)
    if not same:
        yield "has its lock, and finds another row", _end(held, who, "done")
        return
    for words, after, goes in _goes(held, who, me.seen, weak):
        if goes:
            yield f"has its lock{words}", _actor(after, who, at="take")
        else:
            yield f"has its lock, and keeps it{words}", _end(after, who, "kept")


_STEPS: dict[str, Callable[[State, int, _Weak], Iterator[_STEP]]] = {
    "begin": _begin, "look": _look, "intend": _intend, "number": _number, "make": _make,
    "commit": _commit, "take": _take, "remove": _remove, "close": _close, "ids": _ids,
    "record": _record, "judge": _judge, "lock": _locking,
}  # fmt: skip


# -- everything else -------------------------------------------------------------------------------


def _world(s: State) -> Iterator[_STEP]:
    b = s.budget
    for who, actor in enumerate(s.actors):
        if b.kills and actor.at not in ("", "begin"):
            yield f"{actor.verb} {who} is killed", _end(_spend(s, "kills"), who, "killed")
    for which, box in enumerate(s.boxes):
        if not box.lives:
            continue
        if b.ends:
            over = _box(_spend(s, "ends"), which, lives=False, nsid=None, named=False)
            pairs = frozenset(pair for pair in s.pairs if pair[1] != which)
            yield f"namespace {which} ends", over._replace(pairs=pairs)
        if b.numbers and box.nsid is None:
            taken = {one.nsid for one in s.boxes if one.lives}
            lowest = next(n for n in range(2) if n not in taken)
            yield f"the kernel numbers {which}", _box(_spend(s, "numbers"), which, nsid=lowest)
        if b.unpaths and box.named:
            yield f"the path of {which} goes", _box(_spend(s, "unpaths"), which, named=False)
        if b.hides and box.found:
            yield f"a descriptor holds {which}", _box(_spend(s, "hides"), which, found=False)
    if b.begins and not s.boxes[1].lives:
        begun = _box(_box(_spend(s, "begins"), 0, named=False), 1, lives=True, named=True)
        yield "another namespace begins", begun
    if b.thefts:
        for mark, which in s.pairs:
            gone = _spend(s, "thefts")._replace(pairs=s.pairs - {(mark, which)})
            yield "a stranger removes the pair", gone._replace(stolen=s.stolen | {mark})


# -- what must hold --------------------------------------------------------------------------------

TAKEN = "what lives, and nobody gave up, is not attached"
OFF = "a pair is off the record"
SAID = "DEL said done, and something is left"
REFUSED = "a DEL of what is not there was refused"
LEFT = "something is left of what is dead or was given up"


def violation(s: State) -> str | None:
    """What is wrong in a state."""
    for mark, which in s.up:
        if not s.boxes[which].lives or mark in s.given_up:
            continue
        if s.row is None or (s.row.mark, s.row.state) != (mark, "committed"):
            return TAKEN
        if (mark, which) not in s.pairs and mark not in s.stolen:
            return TAKEN
    for mark, _ in s.pairs:
        made = next((a for a in s.actors if a.seen is not None and a.seen.mark == mark), None)
        if (s.row is None or s.row.mark != mark) and made is None:
            return OFF
    for actor in s.actors:
        if actor.verb == "del" and actor.answer == "refused":
            return REFUSED
        if actor.answer == "done" and actor.of is not None:
            there = {mark for mark, _ in s.pairs} | ({s.row.mark} if s.row is not None else set())
            if actor.of in there:
                return SAID
    return None


def left(s: State, weak: _Weak) -> str | None:
    """Where no command runs: what one more gc leaves that it should have taken."""
    if s.row is None or any(a.at for a in s.actors):
        return None
    quiet = s._replace(budget=World(()))
    ((_, _, verdict),) = _verdicts(quiet, s.row, weak)
    if verdict is Liveness.DEAD:
        return None
    if s.row.state != "committed":
        return LEFT
    meant = s.boxes[s.meant[s.row.mark]]
    holder = next((b for b in s.boxes if b.lives and b.nsid == s.row.nsid), None)
    hidden = holder is not None and not holder.found  # whose id it is cannot be seen: a known limit
    return LEFT if not meant.lives and not hidden else None


def search(world: World, weak: _Weak = frozenset(), *, most: int = 400_000) -> Found:
    """Breadth first; the shortest way to the first state in which something is wrong."""
    assert weak <= RULES
    begin = State(tuple(Actor(verb) for verb in world.verbs), world)

    def steps(state: State) -> Iterator[tuple[str, State]]:
        for who in range(len(state.actors)):
            yield from _moves(state, who, weak)
        yield from _world(state)

    return explore(begin, steps, lambda state: violation(state) or left(state, weak), most)
