"""Retry policies for what the kernel asks to be asked again.

The first attempt is direct; tenacity is imported only when it failed in a way worth repeating.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from hvtx.host.netlink import Channel, DumpInterrupted
from hvtx.model.typed import TypeVar

T = TypeVar("T")

TRANSIENT = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ERESTART})
# Beside eight processes that started and stopped VMs, 300 others up, on two busy processors, a stop
# ended with 9 after 20 interrupted dumps.
_DUMP_ATTEMPTS, _DUMP_SECONDS = 60, 5.0


def transient(problem: BaseException) -> bool:
    """Whether asking again can help."""
    if isinstance(problem, DumpInterrupted):
        return True
    return isinstance(problem, OSError) and problem.errno in TRANSIENT


def retry_transient(action: Callable[[], T], *, attempts: int = 12, seconds: float = 2.0) -> T:
    """Do ``action``, again after transient errors, with a growing random pause.

    Raises the last error when ``attempts`` or ``seconds`` are used up.
    """
    try:
        return action()
    except Exception as problem:
        if not transient(problem):
            raise
    from tenacity import (  # 70 ms, and hardly ever needed
        Retrying,
        retry_if_exception,
        stop_after_attempt,
        stop_after_delay,
        wait_random_exponential,
    )

    return Retrying(
        retry=retry_if_exception(transient),
        stop=stop_after_attempt(attempts) | stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=0.002, max=0.1),
        reraise=True,
    )(action)


def whole_dump(channel: Channel, kind: int, body: bytes) -> list[bytes]:
    """All answers of a dump; an interrupted one is asked for again, then DumpInterrupted."""
    return retry_transient(
        lambda: channel.dump(kind, body), attempts=_DUMP_ATTEMPTS, seconds=_DUMP_SECONDS
    )
