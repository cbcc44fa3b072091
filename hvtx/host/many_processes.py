"""Processes by the thousand: who of those that were identified before lives."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence

from hvtx.host import procfs
from hvtx.model.vm import Identity, ProcessFacts

_AT_ONCE = 256  # pidfds that are held at a time; a process may have 1,024 descriptors


def look_at_all(identities: Sequence[Identity]) -> list[ProcessFacts]:
    """What :func:`hvtx.host.procfs.look_again` says of each, asked of some hundred at once."""
    found: list[ProcessFacts] = []
    for at in range(0, len(identities), _AT_ONCE):
        found += _look_at_some(identities[at : at + _AT_ONCE])
    return found


def _look_at_some(identities: Sequence[Identity]) -> list[ProcessFacts]:
    """Hold all of their pidfds, and ask those once that are the processes that are meant."""
    here = procfs.pid_namespace()
    opened: list[int] = []
    meant: dict[int, Identity] = {}
    poll = select.poll()
    try:
        for identity in identities:
            if identity.inode and identity.pid > 0 and identity.pidns in (0, here):
                with contextlib.suppress(OSError):  # it is looked at in the other way
                    descriptor = os.pidfd_open(identity.pid)
                    opened.append(descriptor)
                    if procfs.pidfs_inode(descriptor) == identity.inode:
                        poll.register(descriptor, select.POLLIN)
                        meant[descriptor] = identity
        ended = dict(poll.poll(0))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    seen = {
        identity: ProcessFacts(True, identity.start, identity.inode, descriptor in ended)
        for descriptor, identity in meant.items()
    }
    return [seen.get(identity) or procfs.look_again(identity) for identity in identities]
