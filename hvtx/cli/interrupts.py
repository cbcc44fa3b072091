"""Ctrl-C in the middle of a command, as an error like others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.errors import HvtxError


@contextmanager
def interruptible() -> Iterator[None]:
    """Run a command; raises HvtxError where Ctrl-C ended it."""
    try:
        yield
    except KeyboardInterrupt as problem:
        raise _interrupted() from problem
    except RuntimeError as problem:
        # what asyncio, in pyroute2, makes of Ctrl-C; nothing else stops its loop
        if "Event loop stopped before" not in str(problem):
            raise
        raise _interrupted() from problem


def _interrupted() -> HvtxError:
    hint = (
        "unfinished work was rolled back; committed work was kept. `hvtx intents` shows "
        "whether `hvtx recover` is needed"
    )
    error = HvtxError("interrupted", hint=hint, code="interrupted")
    error.exit_code = 130
    return error
