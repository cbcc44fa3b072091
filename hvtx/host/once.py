"""What is looked up once while VMs are started: where programs are, and what this thread may do.

Whoever could change the first is trusted, or it would not have been taken (``program.find``); the
second is changed by hvtx's own hand, which forgets it (``capabilities.only_for_children``). Kept by
one thread, and for as long as one verb starts VMs: a program that has hvtx as a library may have
become another user by its next call.
"""

from __future__ import annotations

from _thread import _local  # of threading's own classes none is needed
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hvtx.model.typed import Any, TypeVar

T = TypeVar("T")


class _Here(_local):
    answers: dict[Any, Any] | None = None  # None: nothing is kept


_here = _Here()


@contextmanager
def kept() -> Iterator[None]:
    """Inside, the answers of :func:`recall` are kept; also as a decorator."""
    if _here.answers is not None:
        yield
        return
    _here.answers = {}
    try:
        yield
    finally:
        _here.answers = None


def recall(key: Any, look: Callable[[], T]) -> T:
    """What ``look`` said when it was last asked for ``key``, else what it says now.

    None is not kept: what is not there may come.
    """
    answers = _here.answers
    if answers is None:
        return look()
    if key in answers:
        kept: T = answers[key]
        return kept
    found = look()
    if found is not None:
        answers[key] = found
    return found


def forget(key: Any) -> None:
    """Look anew when it is asked for again."""
    if _here.answers is not None:
        _here.answers.pop(key, None)
