"""Standard output and error, as a program that changes a host needs them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hvtx.cli.names import printed
from hvtx.cli.render import folded
from hvtx.errors import OutputLost
from hvtx.model.typed import Any, NamedTuple


def open_what_is_closed() -> None:
    """Lead to /dev/null what the caller closed: the next file to be opened would be in its place.

    The lowest number is given first, so each gets its own.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for the process's life


class _Stream:
    """A standard stream with another ``write`` and ``flush``."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Answers(_Stream):
    """Standard output: a full disk of the caller's is told from one of hvtx's own."""

    @property
    def buffer(self) -> Answers:
        """The stream of bytes below, guarded alike."""
        return Answers(self.stream.buffer)

    def write(self, text: str | bytes) -> int:
        """Write it; raises OutputLost, BrokenPipeError."""
        with _lost():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush; raises OutputLost, BrokenPipeError."""
        with _lost():
            self.stream.flush()


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise OutputLost(problem) from problem


class Messages(_Stream):
    """Standard error: a message that cannot be told stops no deed and changes no exit code."""

    def write(self, text: str) -> int:
        """Write it if that is possible."""
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that is possible."""
        with suppress(OSError):
            self.stream.flush()


def never_fail_to_write() -> None:
    """What a terminal's encoding lacks is shown as ``?``: no deed may end in a half-told error."""
    for stream in (sys.stdout, sys.stderr):
        inner = getattr(stream, "stream", stream)
        if isinstance(inner, io.TextIOWrapper):
            inner.reconfigure(errors="replace")


# -- beside an answer ------------------------------------------------------------------------------

# Warnings, and notes of what was done as well, are said at once; but with ``--json`` when the
# command ends. Where that fails, standard error is to hold one object and nothing else: it has them
# as ``notices``. Else they are said then, as text.


class Notice(NamedTuple):
    """A sentence; ``level`` is ``warning`` or ``note``."""

    level: str
    message: str


_held: list[list[Notice]] = []  # nothing in it: what is said is said at once


def hold_notices() -> None:
    """Keep what is said from now on until :func:`say_held`."""
    _held[:] = [[]]


def say_beside(level: str, words: str) -> None:
    """A warning or a note."""
    notice = Notice(level, printed("".join(c if c.isprintable() else "?" for c in words)))
    if _held:
        _held[0].append(notice)
    else:
        _write(notice)


def taken_notices() -> list[Notice]:
    """What was kept, which nobody else will tell by now."""
    found = _held[0] if _held else []
    _held[:] = [[]] if _held else []
    return found


def say_held() -> None:
    """Say what was kept, and keep nothing any more."""
    for notice in taken_notices():
        _write(notice)
    _held.clear()


def _write(notice: Notice) -> None:
    import click  # writes it in the encoding of whoever reads standard error

    click.echo(folded(f"{notice.level}: {notice.message}"), err=True)
