"""Which system calls leave nothing behind when their process is killed right after them.

Such a call is *inert*: it reads, or changes only what dies with the process (memory, descriptors,
locks, signal masks). To be killed after it is to be killed before it. What is not listed counts as
telling. `test_syscalls` checks the list by killing at every call: no state may be met behind an
inert call only.

Two things need a word. Descriptors die with the process, so `close` is inert: what closing does
(a device that does not persist goes, a pipe ends, a lock falls), the kill does as well. Memory that
is shared through a file is written without a call: SQLite's `-shm`, which is built anew from the log
by whoever opens a store that nobody has open.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Call(NamedTuple):
    """A system call about to be made: its number and six arguments."""

    number: int
    arguments: tuple[int, ...]


# x86-64: arch/x86/entry/syscalls/syscall_64.tbl
_INERT = {
    "read": 0, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "pread64": 17, "readv": 19, "access": 21, "pipe": 22, "select": 23,
    "sched_yield": 24, "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33, "nanosleep": 35,
    "getpid": 39, "socket": 41, "connect": 42, "recvfrom": 45, "recvmsg": 47, "bind": 49,
    "getsockname": 51, "getpeername": 52, "socketpair": 53, "exit": 60, "uname": 63, "fcntl": 72,
    "flock": 73, "fsync": 74, "fdatasync": 75, "getdents": 78, "getcwd": 79, "chdir": 80,
    "readlink": 89, "umask": 95, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98,
    "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108,
    "getppid": 110, "getpgrp": 111, "getpgid": 121, "getsid": 124, "capget": 125,
    "sigaltstack": 131, "statfs": 137, "fstatfs": 138, "sched_getparam": 143,
    "sched_getscheduler": 145, "prctl": 157, "arch_prctl": 158, "gettid": 186, "futex": 202,
    "sched_setaffinity": 203, "sched_getaffinity": 204, "getdents64": 217, "set_tid_address": 218,
    "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "epoll_wait": 232, "epoll_ctl": 233, "newfstatat": 262,
    "readlinkat": 267, "faccessat": 269, "pselect6": 270, "ppoll": 271, "unshare": 272,
    "set_robust_list": 273, "epoll_pwait": 281, "eventfd2": 290, "epoll_create1": 291, "dup3": 292,
    "pipe2": 293, "prlimit64": 302, "setns": 308, "getrandom": 318, "memfd_create": 319,
    "membarrier": 324, "statx": 332, "rseq": 334, "pidfd_open": 434, "close_range": 436,
    "pidfd_getfd": 438, "faccessat2": 439,
}  # fmt: skip
_OPENAT, _IOCTL, _GETSOCKOPT, _SETSOCKOPT = 257, 16, 55, 54
_NUMBERS = frozenset(_INERT.values()) if os.uname().machine == "x86_64" else frozenset[int]()
_FILE_ONLY = {18, 77}  # pwrite64, ftruncate: nobody writes settings of the kernel with them
_SOL_SOCKET, _SOL_NETLINK = 1, 270
_LOOKING = {0x5401, 0x5413, 0x5450, 0x5451, 0x541B, 0x800454D2}  # terminals, FIOCLEX, TUNGETIFF


def is_inert(call: Call) -> bool:
    """Whether a kill right after the call leaves what a kill right before it leaves."""
    if not _NUMBERS:
        return False  # the table is another machine's: every call counts
    if call.number == _OPENAT:
        return not call.arguments[2] & (os.O_CREAT | os.O_TRUNC)
    if call.number == _IOCTL:
        return call.arguments[1] & 0xFFFFFFFF in _LOOKING
    if call.number in (_GETSOCKOPT, _SETSOCKOPT):
        # levels of the address families: reading a legacy table makes it
        return call.arguments[1] in (_SOL_SOCKET, _SOL_NETLINK)
    return call.number in _NUMBERS


def is_of_files(call: Call) -> bool:
    """Whether the call can have changed nothing but what is inside a file."""
    return bool(_NUMBERS) and call.number in _FILE_ONLY
