"""Two commands of the program against each other: one is stopped before a system call of its own.

ptrace(2) stops the first before its nth call, the second runs until it ends or waits for the first,
then both go on. Only calls that others could notice count: stopping before one that works on the
process's own memory is the same schedule as stopping before the next that does not. A second that
sleeps several times in a row waits for a lock; what it waits for, the first must still give back.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from integration.lab.program import Ran, child, text_of

_TRACEME, _DETACH, _SYSCALL, _SETOPTIONS, _GET_INFO = 0, 17, 24, 0x4200, 0x420E
_SYSGOOD, _EXITKILL = 0x1, 0x100000
_AT_SYSCALL = signal.SIGTRAP | 0x80
_ENTRY = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.restype = ctypes.c_long
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_ulong, ctypes.c_void_p]

# asm/unistd_64.h: memory, signals, identity, time, limits, and descriptors of one's own. On other
# machines every call counts: more schedules, the same ones among them.
_OWN_CALLS = {
    5, 8, 9, 10, 11, 12, 13, 14, 25, 28, 32, 33, 39, 63, 79, 96, 98, 99, 102, 104, 107, 108, 110,
    131, 186, 202, 204, 213, 218, 228, 230, 233, 273, 291, 292, 302, 318, 334,
}  # fmt: skip
_NEWFSTATAT, _AT_EMPTY_PATH, _NANOSLEEP = 262, 0x1000, {35, 230}
_X86 = platform.machine() == "x86_64"
_WAITS = 4  # sleeps in a row by which a command is taken to wait for the other
_WAITS_IN_ALL = 40  # or in all: between two attempts SQLite opens its index again
DEADLINE = 120.0  # seconds for both to end, after which they wait for each other for ever


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info (linux/ptrace.h), of an entry."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


class Stuck(AssertionError):
    """The two did not end: each waits for the other."""


class Traced:
    """The command line in a forked child, under ptrace until it is let go."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.arguments = arguments
        self._out, self._err = os.memfd_create("out"), os.memfd_create("err")
        self.pid = os.fork()
        if self.pid == 0:
            _LIBC.ptrace(_TRACEME, 0, 0, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            child(arguments, environment, self._out, self._err)
        os.waitpid(self.pid, 0)
        self._ptrace(_SETOPTIONS, _SYSGOOD | _EXITKILL)
        self.calls = 0  # calls that others could notice
        self.code: int | None = None
        self._held = True
        self._deliver = 0

    def _ptrace(self, request: int, data: int) -> None:
        if _LIBC.ptrace(request, self.pid, 0, data) < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"ptrace {request}: {os.strerror(code)}")

    def _next_entry(self) -> _Info | None:
        """Go on to the entry of the next system call; None at the end."""
        while True:
            self._ptrace(_SYSCALL, self._deliver)
            self._deliver = 0
            _, status = os.waitpid(self.pid, 0)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self.code, self._held = os.waitstatus_to_exitcode(status), False
                return None
            if os.WSTOPSIG(status) != _AT_SYSCALL:
                self._deliver = os.WSTOPSIG(status)
                continue
            info = _Info()
            size = ctypes.sizeof(info)
            if _LIBC.ptrace(_GET_INFO, self.pid, size, ctypes.addressof(info)) < 0:
                raise OSError(ctypes.get_errno(), "PTRACE_GET_SYSCALL_INFO")
            if info.op == _ENTRY:
                return info

    def go_to(self, call: int) -> bool:
        """Go on until just before noticeable call number ``call`` (from 1); False: it ended."""
        while True:
            info = self._next_entry()
            if info is None:
                return False
            self.calls += _is_noticed(info)
            if self.calls == call:
                return True

    def go_on(self) -> bool:
        """Go on to the end, or until it waits for somebody; whether it ended."""
        sleeps = in_all = 0
        while sleeps < _WAITS and in_all < _WAITS_IN_ALL:
            info = self._next_entry()
            if info is None:
                return True
            if info.number in _NANOSLEEP:
                sleeps += 1
                in_all += 1
            elif _is_noticed(info) and info.number != 72:  # fcntl: the look at the lock
                sleeps = 0
        return False

    def let_go(self) -> None:
        """Trace it no longer."""
        if self._held:
            self._ptrace(_DETACH, self._deliver)
            self._held = False

    def end(self, deadline: float) -> Ran:
        """Wait for its end; raises Stuck after ``deadline`` (monotonic seconds)."""
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise Stuck(f"hvtx {' '.join(self.arguments)} does not end")
            else:
                time.sleep(0.002)
        return Ran(self.code, text_of(self._out), text_of(self._err))

    def abandon(self) -> None:
        """End it if it has not ended."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.code = -signal.SIGKILL


def _is_noticed(info: _Info) -> bool:
    if not _X86:
        return True
    if info.number == _NEWFSTATAT:
        return not info.arguments[3] & _AT_EMPTY_PATH
    return info.number not in _OWN_CALLS


class Played(NamedTuple):
    """What the two left, and whether the second had to wait for the first."""

    first: Ran
    second: Ran
    waited: bool


def count_calls(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command line whole; how many of its system calls others could notice."""
    traced = Traced(arguments, environment)
    traced.go_to(-1)
    ran = traced.end(time.monotonic() + DEADLINE)
    assert ran.code == 0, ran
    return traced.calls


def play(
    first: Sequence[str], second: Sequence[str], environment: Mapping[str, str], *, at: int
) -> Played | None:
    """Stop ``first`` before its call ``at``, run ``second``, let both end; None: it ended before.

    Raises Stuck where neither gets on.
    """
    one = Traced(first, environment)
    two: Traced | None = None
    try:
        if not one.go_to(at):
            one.end(time.monotonic() + DEADLINE)
            return None
        two = Traced(second, environment)
        ended = two.go_on()
        one.let_go()
        two.let_go()
        deadline = time.monotonic() + DEADLINE
        return Played(one.end(deadline), two.end(deadline), not ended)
    finally:
        one.abandon()
        if two is not None:
            two.abandon()
