"""Loggers of VMs among the processes that a test looks at: they end by themselves, a moment later."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable

from hvtx.host import logger, procfs


def is_logger(pid: int) -> bool:
    """Whether ``pid`` is the logger of some VM."""
    try:
        return procfs.command_line(pid)[1:4] == ("-c", logger.SCRIPT, logger.SIGNATURE)
    except OSError:
        return False


def is_ending(pid: int) -> bool:
    """Whether nobody can write any more to what logger ``pid`` reads."""
    try:
        pipe = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # it has ended
    try:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        return any(event & select.POLLHUP for _, event in poll.poll(0))
    finally:
        os.close(pipe)


def settled(pids: Iterable[int]) -> None:
    """Wait until loggers among ``pids`` whose VM has ended have ended too; within some seconds."""
    deadline = time.monotonic() + 10
    for pid in pids:
        while is_logger(pid) and is_ending(pid):
            assert time.monotonic() < deadline, f"logger {pid} does not end with its VM"
            time.sleep(0.001)
