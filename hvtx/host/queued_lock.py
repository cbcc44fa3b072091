"""A lock that goes to whoever asked for it first: no writer starves among many.

Who finds the lock taken, or others waiting for it, holds a byte of the same file as a place in the
line: its number is the time at which it asked, so places are in the order of asking without any
memory that is shared. The lock is for whom nobody holds an earlier place. A place falls with its
process, as every lock here (:mod:`hvtx.host.locks`). The line decides about turns only: what keeps
two from holding the lock at once is the lock itself.
"""

from __future__ import annotations

import time

from hvtx.errors import Busy
from hvtx.host.locks import LockFile

PLACES = 1 << 40  # the first byte of the line; its bytes are microseconds since the host's start
_END = 1 << 62
_FIRST, _OTHERS = 0.0005, 0.002  # seconds between two looks: who is first in the line, who is not
PATIENCE = 50  # looks at a lock that is free, and that whoever is first in the line does not take


def take(file: LockFile, offset: int, seconds: float, what: str) -> None:
    """Take the byte in turn, waiting for at most ``seconds``; raises Busy naming ``what``.

    A waiter that is stopped or gets no processor holds nobody up for long: the lock is taken past
    it once it has been free for :data:`PATIENCE` looks.
    """
    if not file.held_within(PLACES, _END) and file.try_lock(offset):
        return
    deadline = time.monotonic() + seconds
    place = _line_up(file)
    passed = 0
    try:
        while True:
            first = not file.held_within(PLACES, place)
            if (first or passed >= PATIENCE) and file.try_lock(offset):
                return
            passed = 0 if first or file.held_elsewhere(offset) else passed + 1
            if time.monotonic() >= deadline:
                from hvtx.host import lock_holder

                holder = lock_holder.of_byte(file.path, offset)
                message, hint = lock_holder.told(what, holder)
                raise Busy(message, hint=hint)
            time.sleep(_FIRST if first else _OTHERS)
    finally:
        file.unlock(place)


def _line_up(file: LockFile) -> int:
    """Hold the place of this moment; its byte."""
    place = PLACES + time.monotonic_ns() // 1000
    while not file.try_lock(place):
        place += 1
    return place
