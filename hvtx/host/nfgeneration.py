"""Reads and changes under one generation of the nf_tables ruleset.

The kernel counts every commit to the ruleset of a network namespace (``NFT_MSG_GETGEN``); a batch
that carries a generation is refused with ERESTART if it is not the current one any more
(nf_tables_valid_genid). So what was read and what is done are of one state of the ruleset, or it
is read again.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping

from hvtx.host.netlink import DumpInterrupted
from hvtx.model.resource import Outcome
from hvtx.model.typed import NamedTuple, Protocol, TypeVar

ATTEMPTS = 60  # of a compare-and-swap or a consistent read, each a fraction of a millisecond
_PAUSE = 0.001  # seconds, after a lost race, growing with the attempts

# What a change of somebody else's in between looks like. ENOENT too: what was to be deleted or
# looked up has gone meanwhile, unless nothing has changed.
_MOVED = frozenset({errno.ERESTART, errno.ENOBUFS, errno.ENOENT, errno.EINTR})

T = TypeVar("T")


class Socket(Protocol):
    """What can be asked for the generation of the ruleset."""

    def generation(self) -> int:
        """The number of the last commit."""


class Stale(Exception):
    """What was read is no longer so."""


class StillChanging(Exception):
    """The ruleset changed at every attempt."""


class Acted(NamedTuple):
    """The result of an action that carried the generation itself, in its batch."""

    outcomes: Mapping[int, Outcome]


def consistently(socket: Socket, action: Callable[[int], T], attempts: int = ATTEMPTS) -> T:
    """What ``action(generation)`` gives, done until nothing changed meanwhile.

    An action that acts carries the generation in its batch, and says so by :class:`Acted`. Raises
    StillChanging after all attempts, and OSError for every other refusal.
    """
    generation = -1
    for attempt in range(attempts):
        try:
            generation = socket.generation()
            result = action(generation)
            if isinstance(result, Acted) or socket.generation() == generation:
                return result
        except (DumpInterrupted, Stale):
            pass
        except OSError as problem:
            if problem.errno not in _MOVED:
                raise
            if problem.errno == errno.ENOENT and socket.generation() == generation:
                raise
        time.sleep(_PAUSE * min(attempt, 10))
    raise StillChanging
