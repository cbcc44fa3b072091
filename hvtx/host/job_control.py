"""Job control: Ctrl-Z is deferred while other processes wait for this one.

Who stops a command inside a commit would hold up every writer until it is continued. SIGSTOP cannot
be kept away (signal(7)); what a terminal sends can, and comes when the moment is over.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_OF_A_TERMINAL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


@contextmanager
def going_on() -> Iterator[None]:
    """Hold back what would stop this thread from the keyboard; nests."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_A_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
