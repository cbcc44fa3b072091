"""Job control: Ctrl-Z is deferred while other processes wait for this one.

Who stops a command inside a commit would hold up every writer until it is continued. SIGSTOP cannot
be kept away (signal(7)); what a terminal sends can, and comes when the moment is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.host import signals

_OF_A_TERMINAL = (signals.SIGTSTP, signals.SIGTTIN, signals.SIGTTOU)


@contextmanager
def going_on() -> Iterator[None]:
    """Hold back what would stop this thread from the keyboard; nests."""
    before = signals.pthread_sigmask(signals.SIG_BLOCK, _OF_A_TERMINAL)
    try:
        yield
    finally:
        signals.pthread_sigmask(signals.SIG_SETMASK, before)
