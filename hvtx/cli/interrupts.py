"""Ctrl-C in the middle of a command, as an error like others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.errors import HvtxError

_HINT = (
    "what was being made was taken back, what was committed stands, and a removal that was begun"
    " waits: `hvtx intents` shows whether one does, `hvtx recover` ends it"
)


@contextmanager
def interruptible() -> Iterator[None]:
    """Run a command; raises HvtxError where Ctrl-C ended it."""
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
    """Ctrl-C, and what became of the work."""
    error = HvtxError("interrupted", hint=hint, code="interrupted")
    error.exit_code = 130
    return error
