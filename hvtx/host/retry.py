"""Retry policies for what the kernel asks to be asked again.

The first attempt is direct; tenacity is imported only when it failed in a way worth repeating.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from hvtx.host.netlink import DumpInterrupted

T = TypeVar("T")

TRANSIENT = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ERESTART})


def transient(problem: BaseException) -> bool:
    """Whether asking again can help."""
    if isinstance(problem, DumpInterrupted):
        return True
    return isinstance(problem, OSError) and problem.errno in TRANSIENT


def persistently(action: Callable[[], T], *, attempts: int = 12, seconds: float = 2.0) -> T:
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
