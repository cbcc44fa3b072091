"""Ctrl-C in the middle of a command, SIGTERM and SIGHUP, as an error like others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.api.calls import interrupted_by
from hvtx.errors import HvtxError

_HINT = (
    "what was being made was taken back, what was committed stands, and a removal that was begun"
    " waits: `hvtx intents` shows whether one does, `hvtx recover` ends it"
)


_NAMES = {1: "SIGHUP", 15: "SIGTERM"}  # those that the person did not type


@contextmanager
def interruptible() -> Iterator[None]:
    """Run a command; raises HvtxError where Ctrl-C ended it, or a signal that says the same."""
    try:
        yield
    except KeyboardInterrupt as problem:
        raise interrupted(_HINT) from problem
    except RuntimeError as problem:
        # what asyncio, in pyroute2, makes of Ctrl-C; nothing else stops its loop
        if "Event loop stopped before" not in str(problem):
            raise
        raise interrupted(_HINT) from problem


def interrupted(hint: str) -> HvtxError:
    """Ctrl-C or its like, and what became of the work."""
    name = _NAMES.get(interrupted_by())
    words = f"interrupted by {name}" if name else "interrupted"
    error = HvtxError(words, hint=hint, code="interrupted")
    error.exit_code = exit_code()
    return error


def exit_code() -> int:
    """That of a program which a signal ended, as a shell tells it."""
    return 128 + interrupted_by()
