"""Run a forked command under ptrace with a system call of it failing.

The call is replaced by one that does not exist, and the error put into its place when that returns:
the kernel does nothing, and the command sees what it would see on a full disk, on a host out of
descriptors, beside a netlink socket that lost its answer. Threads are stepped too, each by itself;
processes that the command starts are left alone. The numbers and registers are those of x86-64.

Calls are told apart by :class:`Site`: what is done, and to what (`write` of the `store`, `send` to
`route`), and whether a thread does it that entered another namespace or filters its own calls, so
that the nth call of a site is the same in every run. Calls of other threads than the main one are
counted from then on: before, they come when they come.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from integration.lab.program import Ran, child, text_of
from integration.lab.stepper import (
    _AT_SYSCALL,
    _CLONE,
    _EXITKILL,
    _GETEVENTMSG,
    _LIBC,
    _SETOPTIONS,
    _SYSCALL,
    _SYSGOOD,
    _TRACEME,
    _WALL,
)

_PATIENCE = 120.0  # seconds
_GETREGS, _SETREGS, _DETACH = 12, 13, 17
SUPPORTED = platform.machine() == "x86_64"

# unistd_64.h: what each call does, by number; the first argument is a descriptor or, for those
# with a name in capitals, there is none.
_CALLS = {
    0: "read", 1: "write", 3: "close", 4: "STAT", 5: "stat", 6: "STAT", 7: "WAIT", 16: "ioctl", 17: "read",
    18: "write", 22: "PIPE", 23: "WAIT", 35: "WAIT", 61: "WAIT", 230: "WAIT", 247: "WAIT",
    270: "WAIT", 271: "WAIT", 41: "SOCKET", 44: "send", 45: "receive", 46: "send", 47: "receive", 49: "bind",
    54: "setsockopt", 55: "getsockopt", 56: "SPAWN", 57: "SPAWN", 58: "SPAWN", 72: "fcntl",
    73: "lock", 74: "sync", 75: "sync", 77: "resize", 82: "RENAME", 83: "MKDIR", 84: "RMDIR",
    87: "UNLINK", 90: "CHMOD", 217: "list", 257: "OPEN", 262: "STAT", 263: "UNLINK", 285: "resize",
    293: "PIPE", 308: "ENTER", 317: "FILTER", 321: "BPF", 424: "signal", 434: "IDENTIFY", 435: "SPAWN",
}  # fmt: skip
_AT = {257, 262, 263}  # the path is the second argument
_PATHS = {"STAT", "RENAME", "MKDIR", "RMDIR", "UNLINK", "CHMOD", "OPEN"}
_MMAP = 9
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_F_SETLK, _F_OFD_SETLK, _F_DUPFD_CLOEXEC = 6, 37, 1030
_SOCKETS = {(16, 0): "route", (16, 12): "netfilter", (2, 255): "xtables", (10, 255): "xtables"}
_TTY = range(0x5400, 0x5480)


class _Registers(ctypes.Structure):
    """``struct user_regs_struct`` of sys/user.h."""

    _fields_ = [
        (name, ctypes.c_ulong)
        for name in [
            "r15",
            "r14",
            "r13",
            "r12",
            "rbp",
            "rbx",
            "r11",
            "r10",
            "r9",
            "r8",
            "rax",
            "rcx",
            "rdx",
            "rsi",
            "rdi",
            "orig_rax",
            "rip",
            "cs",
            "eflags",
            "rsp",
            "ss",
            "fs_base",
            "gs_base",
            "ds",
            "es",
            "fs",
            "gs",
        ]
    ]


class Site(NamedTuple):
    """What a call does, and to what."""

    deed: str
    to: str
    inside: bool = False  # by a thread, in a namespace or with a filter that it alone has

    def __str__(self) -> str:
        return f"{self.deed} {self.to}{' inside' if self.inside else ''}"


class Fault(NamedTuple):
    """The ``nth`` call of a site (from 1) fails; ``lasting``: and all later ones like it."""

    site: Site
    nth: int
    errno: int
    lasting: bool = False

    def __str__(self) -> str:
        when = f"{self.nth} and on" if self.lasting else str(self.nth)
        return f"{errno.errorcode[self.errno]} at {self.site} {when}"


class Injected(NamedTuple):
    """How a run ended: the calls that it made, in order, and how many of them failed."""

    ran: Ran
    calls: list[Site]
    failed: int


# What a lasting condition covers beside the very call: a full disk fails whatever writes to it.
_DISK = frozenset({"create", "write", "sync", "resize", "mkdir", "rename", "unlink", "chmod"})
_DESCRIPTORS = frozenset({"open", "create", "socket", "pipe", "identify", "list"})
_OF_A_DISK = frozenset({errno.ENOSPC, errno.EROFS, errno.EIO})


def like(fault: Fault, site: Site) -> bool:
    """Whether what makes ``fault``, if it lasts, makes a call of ``site`` fail too (pure)."""
    if (site.deed, site.to) == (fault.site.deed, fault.site.to):
        return True
    if fault.errno == errno.EMFILE:
        return site.deed in _DESCRIPTORS
    if fault.errno in _OF_A_DISK and fault.site.deed in _DISK:
        return site.to == fault.site.to and site.deed in _DISK
    return False


class _Descriptors:
    """What a command's descriptors are, which its threads share."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.sockets: dict[int, str] = {}
        known = {**os.environ, **environment}
        self.places = [
            (known["HVTX_STATE_DIR"], "store"),
            (known["HVTX_RUN_DIR"], "run"),
            (known["XTABLES_LOCKFILE"], "xtables-lock"),
            ("/proc/sys", "setting"),
            ("/proc", "proc"),
            ("/dev/net/tun", "tun"),
            ("/memfd:", "output"),
            ("pipe:", "pipe"),
            ("anon_inode:", "process"),
            ("/dev/null", "null"),
            *((prefix, "code") for prefix in (sys.prefix, sys.base_prefix, "/usr", "/lib", "/etc")),
            (str(Path(__file__).parents[2]), "code"),
        ]


class _Tracee:
    """A thread of the child as it stands at a system call."""

    def __init__(self, tid: int, descriptors: _Descriptors, *, main: bool) -> None:
        self.tid = tid
        self._sockets, self._places = descriptors.sockets, descriptors.places
        self.entering = self.fails = False
        self._counts, self._inside = main, not main
        self.registers = _Registers()

    def fetch(self) -> _Registers:
        _LIBC.ptrace(_GETREGS, self.tid, 0, ctypes.addressof(self.registers))
        return self.registers

    def store(self) -> None:
        _LIBC.ptrace(_SETREGS, self.tid, 0, ctypes.addressof(self.registers))

    def note_socket(self) -> None:
        """After socket(2): which kind its descriptor is."""
        kind = (self.registers.rdi, self.registers.rdx)
        descriptor = ctypes.c_long(self.fetch().rax).value
        if descriptor >= 0:
            self._sockets[descriptor] = _SOCKETS.get(kind, "local")

    def site(self) -> Site | None:
        """What the call at hand is; None for what is of no interest."""
        self._counts = self._counts or _CALLS.get(self.registers.orig_rax) in ("ENTER", "FILTER")
        found = self._site() if self._counts else None
        return None if found is None else found._replace(inside=self._inside)

    def _site(self) -> Site | None:
        registers = self.registers
        number = registers.orig_rax
        if number == _MMAP:
            descriptor = ctypes.c_int(registers.r8 & 0xFFFFFFFF).value
            place = self._of_descriptor(descriptor) if descriptor >= 0 else ""
            return Site("map", place) if place == "store" else None
        deed = _CALLS.get(number)
        if deed is None:
            return None
        if deed in _PATHS:
            return self._by_path(deed, number)
        if deed.isupper():
            if deed == "WAIT":
                return Site("wait", "process")
            if deed == "SOCKET":
                return Site("socket", _SOCKETS.get((registers.rdi, registers.rdx), "local"))
            if deed == "BPF":
                return Site("bpf", "kernel")
            if deed == "ENTER":
                return Site("enter", "namespace")
            return Site(deed.lower(), "gate" if deed == "PIPE" else "process")
        return self._by_descriptor(deed)

    def _by_path(self, deed: str, number: int) -> Site | None:
        registers = self.registers
        place = self._of_path(registers.rsi if number in _AT else registers.rdi)
        if deed == "OPEN":
            creating = registers.rdx & _WRITING and place not in ("tun", "null", "proc")
            return Site("create" if creating else "open", place)
        return Site(deed.lower(), place) if place in ("store", "run") else None

    def _by_descriptor(self, deed: str) -> Site | None:
        registers = self.registers
        place = self._of_descriptor(registers.rdi)
        if deed == "ioctl" and registers.rsi in _TTY:
            return None
        if deed == "fcntl":
            if registers.rsi not in (_F_SETLK, _F_OFD_SETLK, _F_DUPFD_CLOEXEC):
                return None
            deed = "duplicate" if registers.rsi == _F_DUPFD_CLOEXEC else "lock"
        if deed == "close" and place != "xtables-lock":
            return None
        if place in ("code", "null") or (place == "process" and deed == "read"):
            return None
        return Site(deed, place)

    def _of_descriptor(self, descriptor: int) -> str:
        try:
            target = os.readlink(f"/proc/{self.tid}/fd/{descriptor}")
        except OSError:
            return "nothing"
        if target.startswith("socket:"):
            return self._sockets.get(descriptor, "local")
        return self._of_text(target)

    def _of_path(self, address: int) -> str:
        with open(f"/proc/{self.tid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            try:
                raw = memory.read(4096)
            except OSError:
                raw = b""
        return self._of_text(raw.partition(b"\0")[0].decode(errors="replace"))

    def _of_text(self, path: str) -> str:
        for prefix, place in self._places:
            if path.startswith(prefix):
                return place
        return "other"


def run_injected(
    arguments: Sequence[str], environment: Mapping[str, str], fault: Fault | None = None
) -> Injected:
    """Run a command line with ``fault``; without one, to learn which calls it makes."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)  # ends what hangs, and only that
        sys.unraisablehook = lambda _: None  # pytest's makes errors of what Python only warns of
        _LIBC.ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        child(arguments, environment, out, err)
    os.waitpid(pid, 0)
    _LIBC.ptrace(_SETOPTIONS, pid, 0, _SYSGOOD | _EXITKILL | _CLONE)
    steps = _Steps(pid, environment, fault)
    steps.go()
    status = os.waitpid(pid, 0)[1] if steps.status is None else steps.status
    code = os.waitstatus_to_exitcode(status)
    return Injected(Ran(code, text_of(out), text_of(err)), steps.calls, steps.failed)


class _Steps:
    """The way through a run's calls, until the child ends or a fault that does not last is past."""

    def __init__(self, pid: int, environment: Mapping[str, str], fault: Fault | None) -> None:
        self._pid, self._fault = pid, fault
        self._descriptors = _Descriptors(environment)
        self._tracees = {pid: _Tracee(pid, self._descriptors, main=True)}
        self._counts: Counter[Site] = Counter()
        self.calls: list[Site] = []
        self.failed = 0
        self.status: int | None = None  # of the child; None where it is left to be collected

    def go(self) -> None:
        """Step, until nothing is traced any more."""
        _LIBC.ptrace(_SYSCALL, self._pid, 0, 0)
        while self._tracees:
            tid, status = self._next()
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                del self._tracees[tid]
                if tid == self._pid:
                    self.status = status
                continue
            deliver = self._stands(self._tracees[tid], status)
            done = self._fault is not None and not self._fault.lasting and self.failed
            if done:
                del self._tracees[tid]
            _LIBC.ptrace(_DETACH if done else _SYSCALL, tid, 0, deliver)

    def _next(self) -> tuple[int, int]:
        """The next thread that stops or ends; others of our children are not waited for."""
        if len(self._tracees) == 1:
            (tid,) = self._tracees
            return os.waitpid(tid, _WALL)
        while True:  # the child's own alarm ends it
            for tid in tuple(self._tracees):
                found, status = os.waitpid(tid, _WALL | os.WNOHANG)
                if found:
                    return found, status
            os.sched_yield()

    def _stands(self, tracee: _Tracee, status: int) -> int:
        """What is to be done where a thread stands; the signal that it is to get."""
        if os.WSTOPSIG(status) == _AT_SYSCALL:
            tracee.entering = not tracee.entering
            if tracee.entering:
                self._enters(tracee)
            else:
                self._leaves(tracee)
            return 0
        if status >> 16:
            self._begins(tracee)
            return 0
        return os.WSTOPSIG(status)

    def _begins(self, parent: _Tracee) -> None:
        """A new thread, which stops by itself."""
        message = ctypes.c_ulong()
        _LIBC.ptrace(_GETEVENTMSG, parent.tid, 0, ctypes.addressof(message))
        tid = int(message.value)
        os.waitpid(tid, _WALL)
        self._tracees[tid] = _Tracee(tid, self._descriptors, main=False)
        _LIBC.ptrace(_SYSCALL, tid, 0, 0)

    def _enters(self, tracee: _Tracee) -> None:
        registers = tracee.fetch()
        site = tracee.site()
        if site is None:
            return
        self.calls.append(site)
        self._counts[site] += 1
        if self._fault is not None and _hit(self._fault, site, self._counts[site], self.failed):
            tracee.fails = True
            registers.orig_rax = ctypes.c_ulong(-1).value
            tracee.store()

    def _leaves(self, tracee: _Tracee) -> None:
        if tracee.fails:
            assert self._fault is not None
            tracee.fails = False
            tracee.fetch().rax = ctypes.c_ulong(-self._fault.errno).value
            tracee.store()
            self.failed += 1
        elif _CALLS.get(tracee.registers.orig_rax) == "SOCKET":
            tracee.note_socket()


def _hit(fault: Fault, site: Site, nth: int, failed: int) -> bool:
    if failed:
        return fault.lasting and like(fault, site)
    return site == fault.site and nth == fault.nth
