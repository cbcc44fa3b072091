"""Loggers of VMs, and holders of ports, among the processes that a test looks at.

They end by themselves, a moment after their VM.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable
from pathlib import Path

from hvtx.drivers import portholder
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


def follows_the_dead(pid: int) -> bool:
    """Whether ``pid`` holds ports for a process that has ended, and so ends by itself."""
    try:
        words = procfs.command_line(pid)
        if portholder.SIGNATURE not in words:
            return False
        number = words[words.index(portholder.SIGNATURE) + 1]
        told = Path(f"/proc/{pid}/fdinfo/{number}").read_text() if number != "-" else ""
    except OSError:
        return False  # it has ended
    return "\nPid:\t-1\n" in told and not procfs.look(pid).ended


def settled(pids: Iterable[int]) -> None:
    """Wait until those among ``pids`` whose VM has ended have ended too; within some seconds."""
    deadline = time.monotonic() + 60
    for pid in pids:
        while (is_logger(pid) and is_ending(pid)) or _lets_go(pid):
            assert time.monotonic() < deadline, f"process {pid} does not end with its VM"
            time.sleep(0.001)


def _lets_go(pid: int) -> bool:
    """Whether ``pid`` holds ports no more in a moment: its VM has ended, or its starter."""
    return follows_the_dead(pid) or portholder.is_passing(pid)
