"""The search that the models share: every state that steps lead to, breadth first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

State = TypeVar("State", bound=Hashable)


class Found(NamedTuple):
    """What a search came to."""

    states: int
    violation: str | None
    way: tuple[str, ...]


def explore(
    begin: State,
    steps: Callable[[State], Iterable[tuple[str, State]]],
    judge: Callable[[State], str | None],
    most: int,
) -> Found:
    """The shortest way to the first state that ``judge`` says something of, if there is one.

    ``steps`` gives what may happen next, in words, and the state then. AssertionError beyond
    ``most`` states.
    """
    before: dict[State, tuple[State, str] | None] = {begin: None}
    todo = deque([begin])
    while todo:
        state = todo.popleft()
        wrong = judge(state)
        if wrong:
            return Found(len(before), wrong, _way(before, state))
        for what, after in steps(state):
            if after not in before:
                before[after] = (state, what)
                todo.append(after)
        assert len(before) <= most, "the world is too large to be searched"
    return Found(len(before), None, ())


def _way(before: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    way = []
    at = before[state]
    while at is not None:
        way.append(at[1])
        at = before[at[0]]
    return tuple(reversed(way))
