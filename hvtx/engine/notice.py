"""Warnings and notes of a verb that continues: for whoever called it, else for standard error."""

from __future__ import annotations

import sys
from _thread import _local
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Notices = Callable[[str, str], None]  # ``warning`` or ``note``, and a sentence


class _Here(_local):
    """Who is told in this thread; None: standard error."""

    notices: Notices | None = None


_here = _Here()


@contextmanager
def told_to(notices: Notices) -> Iterator[None]:
    """Tell ``notices`` what comes up inside, in this thread."""
    before, _here.notices = _here.notices, notices
    try:
        yield
    finally:
        _here.notices = before


def warning(words: str) -> None:
    """Something that is probably not meant."""
    _say("warning", words)


def note(words: str) -> None:
    """Something that was done beside what was asked for."""
    _say("note", words)


def _say(what: str, words: str) -> None:
    if _here.notices is not None:
        _here.notices(what, words)
        return
    plain = "".join(c if c.isprintable() else "?" for c in words)
    sys.stderr.write(f"{what}: {plain}\n")
