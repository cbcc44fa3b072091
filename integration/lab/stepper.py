"""Run a forked command under ptrace; end it, or signal it, before its nth system call.

ptrace(2): the child asks to be traced and stops; PTRACE_SYSCALL then stops it at the entry and the
exit of every system call (told from signals by PTRACE_O_TRACESYSGOOD). PTRACE_O_EXITKILL lets no
traced child outlive the test. Threads are stepped too (PTRACE_O_TRACECLONE): their calls count in
the order in which they come, and SIGKILL ends all of them. Processes that the command starts (the
gate of a VM, iptables-save) are left alone, unless ``children`` are asked for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from hvtx.host import procfs
from integration.lab import syscalls
from integration.lab.crash_state import offspring
from integration.lab.program import Ran, child, text_of

_TRACEME, _CONT, _DETACH, _SYSCALL = 0, 7, 17, 24
_SETOPTIONS, _GETEVENTMSG, _SYSCALL_INFO = 0x4200, 0x4201, 0x420E
_SYSGOOD, _FORK, _VFORK, _CLONE, _EXEC, _EXITKILL = 0x1, 0x2, 0x4, 0x8, 0x10, 0x100000
_EVENT_FORK, _EVENT_VFORK, _EVENT_EXEC = 1, 2, 4
_WALL = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.restype = ctypes.c_long
_LIBC.ptrace.argtypes = [ctypes.c_long] * 4
_AT_SYSCALL = signal.SIGTRAP | 0x80
_LONGEST = 60.0  # seconds that a stepped command may take
_INFO = struct.Struct("=B3xIQQQ6Q")  # struct ptrace_syscall_info at an entry


class Stepped(NamedTuple):
    """How a run ended: the number of system calls that it began, and what it left if it ended."""

    calls: int
    killed: bool
    ran: Ran
    threads: int = 1
    telling: int = 0  # places at which something may have changed since the one before
    inert: bool = False  # the last call before the kill changes nothing that outlives a process


class _Tracee:
    """One traced thread."""

    def __init__(self) -> None:
        self.entering = False
        self.last: syscalls.Call | None = None


class Stepper:
    """One run; subclasses decide at each entry of a system call whether it ends there."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        kill_at: int | None = None,
        watch: Callable[[syscalls.Call], bool] | None = None,
        watch_from: int = 0,
        signals: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """``kill_at``: before that call. ``signals``: what it is sent before other calls. ``watch`` is told of each call that may have changed
        something, before the next one, while all stands still; the run ends there if it says so.
        It is told of none before call number ``watch_from``.
        """
        self.arguments, self.environment = arguments, environment
        self.kill_at, self.watch, self.watch_from = kill_at, watch, watch_from
        self.signals = signals
        self.count = self.told = 0
        self.inert = False
        self.tracees: dict[int, _Tracee] = {}
        self.most = 1
        self.pid = 0

    options = _SYSGOOD | _EXITKILL | _CLONE

    def run(self) -> Stepped:
        """Fork, step, reap."""
        out, err = os.memfd_create("out"), os.memfd_create("err")
        self.pid = os.fork()
        if self.pid == 0:
            _LIBC.ptrace(_TRACEME, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            child(self.arguments, self.environment, out, err)
        os.waitpid(self.pid, 0)
        _LIBC.ptrace(_SETOPTIONS, self.pid, 0, self.options)
        self.tracees[self.pid] = _Tracee()
        _LIBC.ptrace(_SYSCALL, self.pid, 0, 0)
        code = self._until_it_ends()
        return Stepped(
            self.count, code is None,
            Ran(-signal.SIGKILL if code is None else code, text_of(out), text_of(err)),
            self.most, self.told, self.inert,
        )  # fmt: skip

    def _until_it_ends(self) -> int | None:
        """Its exit code; None if it was killed on the way."""
        deadline = time.monotonic() + _LONGEST
        while True:
            tid, status = self._next(deadline)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                del self.tracees[tid]
                if tid == self.pid:
                    return os.waitstatus_to_exitcode(status)
                continue
            deliver = 0
            if os.WSTOPSIG(status) == _AT_SYSCALL:
                tracee = self.tracees[tid]
                tracee.entering = not tracee.entering
                if tracee.entering and self._enters(tid, tracee):
                    self._kill()
                    return None
            elif status >> 16:
                self._happened(status >> 16, tid)
                if tid not in self.tracees:
                    continue
            elif os.WSTOPSIG(status) != signal.SIGSTOP or tid == self.pid:
                deliver = os.WSTOPSIG(status)
            _LIBC.ptrace(_SYSCALL, tid, 0, deliver)

    def _next(self, deadline: float) -> tuple[int, int]:
        """The next thread that stops; others of our children are not waited for."""
        if len(self.tracees) == 1:
            (tid,) = self.tracees
            return os.waitpid(tid, _WALL)
        while time.monotonic() < deadline:
            for tid in tuple(self.tracees):
                found, status = os.waitpid(tid, _WALL | os.WNOHANG)
                if found:
                    return found, status
            os.sched_yield()
        self._kill()
        raise AssertionError(f"{self.arguments} does not end within {_LONGEST:g} s")

    def _happened(self, event: int, tid: int) -> None:
        """A new thread: it stops by itself, and is stepped like the others."""
        message = ctypes.c_ulong()
        _LIBC.ptrace(_GETEVENTMSG, tid, 0, ctypes.addressof(message))
        new = int(message.value)
        os.waitpid(new, _WALL)
        self.tracees[new] = _Tracee()
        self._met(event, new)
        self.most = max(self.most, len(self.tracees))
        _LIBC.ptrace(_SYSCALL, new, 0, 0)

    def _met(self, event: int, tid: int) -> None:
        """For subclasses: who it is."""

    def _enters(self, tid: int, tracee: _Tracee) -> bool:
        """Count a call that begins; whether the run ends here."""
        self.count += 1
        if self.count in self.signals:
            os.kill(self.pid, self.signals[self.count])
        here = self.count == self.kill_at
        if self.watch is not None or here or self.count + 1 == self.kill_at:
            last, tracee.last = tracee.last, _entry(tid)
            if last is not None and not syscalls.is_inert(last):
                self.told += 1
                if self.watch and self.count >= self.watch_from and self.watch(last):
                    self.inert = False
                    return True
            self.inert = len(self.tracees) == 1 and last is not None and syscalls.is_inert(last)
        return here

    def _kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        for tid in sorted(self.tracees, reverse=True):  # the leader is seen to end last
            try:
                while not _is_end(os.waitpid(tid, _WALL)[1]):
                    pass
            except ChildProcessError:
                continue
        self.tracees.clear()


def _is_end(status: int) -> bool:
    return os.WIFEXITED(status) or os.WIFSIGNALED(status)


def _entry(tid: int) -> syscalls.Call:
    """Number and arguments of the call that a stopped thread is about to make."""
    buffer = ctypes.create_string_buffer(96)
    _LIBC.ptrace(_SYSCALL_INFO, tid, 96, ctypes.addressof(buffer))
    _, _, _, _, number, *arguments = _INFO.unpack_from(buffer)
    return syscalls.Call(number, tuple(arguments))


def run_stepped(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    kill_at: int | None = None,
    watch: Callable[[syscalls.Call], bool] | None = None,
    watch_from: int = 0,
    signals: Mapping[int, int] = MappingProxyType({}),
) -> Stepped:
    """Run a command line; SIGKILL it before its system call number ``kill_at`` (from 1)."""
    return Stepper(
        arguments,
        environment,
        kill_at=kill_at,
        watch=watch,
        watch_from=watch_from,
        signals=signals,
    ).run()


class ChildStepper(Stepper):
    """Steps what a command starts, too: the gate until it is the VM, iptables-save, the VM's logger
    until it starts its first copier.

    Before call number ``kill_at`` of such children (counted together) either the child is killed
    or, with ``parent``, the command, while the child goes on. Whoever outlives the command (a
    logger does) goes on without being traced.
    """

    options = Stepper.options | _FORK | _VFORK | _EXEC

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        kill_at: int | None = None,
        parent: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(arguments, environment)
        self.child_kill_at, self.parent = kill_at, parent
        self.child_calls = 0
        self.children: dict[int, int] = {}  # with the number of programs that each became
        self.words: tuple[str, ...] = ()  # the command line of the child that was killed

    def _until_it_ends(self) -> int | None:
        try:
            return super()._until_it_ends()
        finally:
            self._let_all_go()

    def _happened(self, event: int, tid: int) -> None:
        if event == _EVENT_EXEC:
            if tid in self.children:
                self.children[tid] += 1
                if self.children[tid] == 2:  # the gate has opened: this is the VM
                    self._let_go(tid)
            return
        super()._happened(event, tid)
        if event == _EVENT_FORK and tid in self.children:  # its work has begun, and has no end
            self._let_go(tid)

    def _met(self, event: int, tid: int) -> None:
        if event in (_EVENT_FORK, _EVENT_VFORK):
            self.children[tid] = 0
        if event == _EVENT_FORK:
            self._let_go(tid)

    def _let_go(self, tid: int) -> None:
        """Trace a child no longer, whether it stands still or runs."""
        if _LIBC.ptrace(_DETACH, tid, 0, 0) != 0:  # only what stands still can be let go
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(tid, signal.SIGSTOP)
                os.waitpid(tid, _WALL)
                _LIBC.ptrace(_DETACH, tid, 0, 0)
                os.kill(tid, signal.SIGCONT)
        self.tracees.pop(tid, None)
        self.children.pop(tid, None)

    def _let_all_go(self) -> None:
        for tid in self.children.keys() & self.tracees.keys():
            self._let_go(tid)

    def _kill(self) -> None:
        self._let_all_go()
        super()._kill()
        # one that the command had just begun, of which we have not been told
        for pid in offspring():
            with suppress(FileNotFoundError):
                if f"\nTracerPid:\t{os.getpid()}\n" in Path(f"/proc/{pid}/status").read_text():
                    self._let_go(pid)

    def _enters(self, tid: int, tracee: _Tracee) -> bool:
        if tid not in self.children:
            return super()._enters(tid, tracee)
        self.child_calls += 1
        if self.child_calls != self.child_kill_at:
            return False
        if not self.parent:
            self.words = procfs.command_line(tid)
            os.kill(tid, signal.SIGKILL)
            return False
        os.kill(self.pid, signal.SIGKILL)
        self._let_go(tid)
        return True
