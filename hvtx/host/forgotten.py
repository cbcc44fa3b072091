"""The file that tells which reservations a running dnsmasq should have forgotten, and its lock.

Who removes a reservation adds a line before, who starts dnsmasq again empties it before: both under
the file's lock, so that no reservation is read that no line tells of.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from hvtx.host.job_control import going_on
from hvtx.host.locks import lock_whole

MOST = 1 << 16  # bytes: then dnsmasq is started again at the next occasion, whoever it is


def read(path: str) -> str:
    """All lines; empty where there is no file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def locked(path: str, seconds: float) -> Iterator[int]:
    """Hold the file's lock, waiting for at most ``seconds``; a descriptor to append with.

    Raises Busy, OSError.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    with going_on():  # every start and stop in the network would wait for a Ctrl-Z in here to end
        try:
            lock_whole(descriptor, path, seconds, path)
            yield descriptor
        finally:
            os.close(descriptor)


def empty(path: str) -> None:
    """Forget all lines; the file stays, since its lock may be held. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, 0)
