"""Run a forked command under ptrace; end it, or signal it, before its nth system call.

ptrace(2): the child asks to be traced and stops; PTRACE_SYSCALL then stops it at the entry and the
exit of every system call (told from signals by PTRACE_O_TRACESYSGOOD). PTRACE_O_EXITKILL lets no
traced child outlive the test. Only the main thread is stepped; SIGKILL ends all of them.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from integration.program import Ran, child, text_of

_TRACEME, _SYSCALL, _SETOPTIONS = 0, 24, 0x4200
_SYSGOOD, _EXITKILL = 0x1, 0x100000
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.restype = ctypes.c_long
_LIBC.ptrace.argtypes = [ctypes.c_long] * 4
_AT_SYSCALL = signal.SIGTRAP | 0x80


class Stepped(NamedTuple):
    """How a run ended: the number of system calls that it began, and what it left if it ended."""

    calls: int
    killed: bool
    ran: Ran


def run_stepped(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    kill_at: int | None = None,
    signals: Mapping[int, int] = MappingProxyType({}),
) -> Stepped:
    """Run a command line; SIGKILL it before its system call number ``kill_at`` (from 1).

    ``signals``: what it is sent before other calls, by their number.
    """
    out, err = os.memfd_create("out"), os.memfd_create("err")
    pid = os.fork()
    if pid == 0:
        _LIBC.ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        child(arguments, environment, out, err)
    os.waitpid(pid, 0)
    _LIBC.ptrace(_SETOPTIONS, pid, 0, _SYSGOOD | _EXITKILL)
    calls, entering, deliver = 0, False, 0
    while True:
        _LIBC.ptrace(_SYSCALL, pid, 0, deliver)
        _, status = os.waitpid(pid, 0)
        deliver = 0
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            code = os.waitstatus_to_exitcode(status)
            return Stepped(calls, False, Ran(code, text_of(out), text_of(err)))
        if os.WSTOPSIG(status) != _AT_SYSCALL:
            deliver = os.WSTOPSIG(status)
            continue
        entering = not entering
        if not entering:
            continue
        calls += 1
        if calls in signals:
            os.kill(pid, signals[calls])
        if calls == kill_at:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Stepped(calls, True, Ran(-signal.SIGKILL, text_of(out), text_of(err)))
