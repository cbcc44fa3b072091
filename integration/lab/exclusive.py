"""Was each name, port, address and MAC held by one at a time? A checker of histories.

Every command is an operation with the moments between which it happened (in the manner of Elle and
Knossos): one that ended well did happen, one that was killed may have. A key is a register that is
free or has one owner. The history is right if every operation that happened can be put at one
moment between its two, so that each found the register as it says. Keys are independent of each
other, so each is searched by itself, along the time, with all that is possible up to then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple


class Act(Enum):
    """What an operation does to a register."""

    ACQUIRE = "acquire"  # free before, the owner's after
    RELEASE = "release"  # the owner's before, free after
    LET_GO = "let go"  # likewise, if it is the owner's; else nothing
    READ = "read"  # sees whose it is


ANYBODY = "*"  # a read that saw that somebody has it, and not who
State = tuple[str, bool] | None  # owner, and whether the acquisition may still be taken back


class Operation(NamedTuple):
    """One act on one register between two moments; ``certain``: it did happen."""

    key: str
    act: Act
    owner: str | None
    began: int
    ended: int
    certain: bool
    what: str = ""


Possible = tuple[State, frozenset[int]]  # whose it is, which of the open operations have happened


def problems(history: Iterable[Operation]) -> list[str]:
    """For each key whose history is impossible: the operation at which it became so."""
    by_key: dict[str, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    found = (_problem(key, own) for key, own in sorted(by_key.items()))
    return [problem for problem in found if problem]


def _problem(key: str, history: Sequence[Operation]) -> str:
    moments = [(one.began, 0, n) for n, one in enumerate(history)]
    moments += [(one.ended, 1, n) for n, one in enumerate(history)]
    possible: set[Possible] = {(None, frozenset())}
    under_way: set[int] = set()
    for _, is_end, number in sorted(moments):
        if not is_end:
            under_way.add(number)
            continue
        reached = _closure(possible, under_way, history)
        under_way.discard(number)
        certain = history[number].certain
        possible = {
            (state, done - {number}) for state, done in reached if number in done or not certain
        }
        if not possible:
            states = sorted({"free" if s is None else s[0] for s, _ in reached})
            return f"{key}: impossible: {history[number]}; it was {' or '.join(states)}"
    return ""


def _closure(
    possible: set[Possible], under_way: set[int], history: Sequence[Operation]
) -> set[Possible]:
    """All that can be reached by letting operations that are under way happen, in any order."""
    reached, todo = set(possible), list(possible)
    while todo:
        state, done = todo.pop()
        for following in _steps(state, done, under_way, history):
            if following not in reached:
                reached.add(following)
                todo.append(following)
    return reached


def _steps(
    state: State, done: frozenset[int], under_way: set[int], history: Sequence[Operation]
) -> Iterator[Possible]:
    if state is not None and state[1]:
        yield None, done  # an interrupted acquisition is undone at any time
    for number in under_way - done:
        one = history[number]
        owner = state[0] if state else None
        if one.act is Act.ACQUIRE and owner is None and one.owner is not None:
            yield (one.owner, not one.certain), done | {number}
        elif one.act is Act.RELEASE and owner == one.owner:
            yield None, done | {number}
        elif one.act is Act.LET_GO:
            yield (None if owner == one.owner else state), done | {number}
        elif one.act is Act.READ and (owner == one.owner or (one.owner == ANYBODY and owner)):
            yield state, done | {number}
