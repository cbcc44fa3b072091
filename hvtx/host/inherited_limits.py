"""Process attributes inherited from the caller: limits, niceness, processors, personality.

A VM that somebody starts from a shell with a limit on CPU time, or from a timer with a low
priority, is to live as one that the host started at boot does.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

from hvtx.host import children, descriptors, system_call

_SPARE = 64  # files that a starter opens beside those that it holds
_ASK = 0xFFFFFFFF  # personality(2): what it is
_OF_A_PROCESS = 1  # IOPRIO_WHO_PROCESS
_IO_PRIORITY = {"x86_64": (251, 252), "aarch64": (30, 31)}  # ioprio_set, ioprio_get by machine
_OPEN = 524288  # systemd's DefaultLimitNOFILE=1024:524288
# By name without RLIMIT_: soft and hard. As the kernel gives them to the first process
# (include/asm-generic/resource.h), and systemd to a service. No core dump unless the program asks:
# one of a VM holds the guest's memory. None is what the first process may have.
_USUAL: dict[str, tuple[int | None, int | None]] = {
    "CPU": (-1, -1),
    "FSIZE": (-1, -1),
    "DATA": (-1, -1),
    "STACK": (8 << 20, -1),
    "CORE": (0, -1),
    "RSS": (-1, -1),
    "AS": (-1, -1),
    "NPROC": (None, None),
    "NOFILE": (1024, _OPEN),
    "MEMLOCK": (8 << 20, 8 << 20),
    "SIGPENDING": (None, None),
    "MSGQUEUE": (819200, 819200),
    "NICE": (0, 0),
    "RTPRIO": (0, 0),
    "RTTIME": (-1, -1),
}


@contextlib.contextmanager
def usual_limits() -> Iterator[int]:
    """What is started inside has the usual resource limits, as far as we may raise our own.

    A soft limit can be raised up to the hard one; that only with CAP_SYS_RESOURCE. Who holds many
    files (sockets of ports) could open no more below the usual limit: what is started has a higher
    one then, which is given here, and which :func:`in_shell` takes back. Its addresses are chosen
    by chance, whatever whoever started us has asked for (``setarch -R``, a debugger).
    """
    with children.spawning, _usual_personality():
        yield from _usual_limits()


@contextlib.contextmanager
def _usual_personality() -> Iterator[None]:
    """The usual personality (PER_LINUX, no flag) of this thread, and of what it starts."""
    personality, _ = system_call.found("personality")
    before = personality(_ASK)
    if before <= 0:  # as usual, or refused
        yield
        return
    personality(0)
    try:
        yield
    finally:
        personality(before)


def _usual_limits() -> Iterator[int]:
    import resource

    files = _files()
    before: list[tuple[int, tuple[int, int]]] = []
    try:
        for number, usual in _numbered():
            has = resource.getrlimit(number)
            if number == resource.RLIMIT_NOFILE:
                usual = (files, usual[1])  # noqa: PLW2901
            if has != usual and _changed(number, has, *usual):
                before.append((number, has))
        yield files
    finally:
        for number, has in before:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(number, has)


@functools.cache
def _numbered() -> list[tuple[int, tuple[int | None, int | None]]]:
    import resource

    return [(getattr(resource, f"RLIMIT_{name}"), usual) for name, usual in _USUAL.items()]


def in_shell(script: str, files: int) -> str:
    """A script for a shell that is started in :func:`usual_limits`: with the usual one of files.

    ``files`` is what that gave.
    """
    if files <= descriptors.USUAL:
        return script
    return f"ulimit -S -n {descriptors.USUAL}; {script}"


def _files() -> int:
    """How many files may be open: as usual, or as many as are by now and some."""
    try:
        return max(descriptors.USUAL, descriptors.highest() + 1 + _SPARE)
    except OSError:
        return descriptors.USUAL


def _changed(number: int, has: tuple[int, int], soft: int | None, hard: int | None) -> bool:
    """Change our own limit from what it ``has``; the hard one is never lowered: that would stay."""
    import resource

    hard = _of_init(number, has[1]) if hard is None else hard
    for limit in dict.fromkeys((_higher(has[1], hard), has[1])):
        wanted = (_lower(limit if soft is None else soft, limit), limit)
        if wanted == has:
            return False
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(number, wanted)
            return True
    return False


def _of_init(number: int, otherwise: int) -> int:
    import resource

    try:
        return resource.prlimit(1, number)[1]
    except (OSError, ValueError):
        return otherwise


def _higher(one: int, other: int) -> int:
    """The greater of two limits, of which -1 is none at all."""
    return -1 if -1 in (one, other) else max(one, other)


def _lower(one: int, other: int) -> int:
    if one == -1:
        return other
    return one if other == -1 else min(one, other)


def forget(pid: int) -> None:
    """Give ``pid``, a child that has just been started, the priorities and processors of all.

    As far as that is allowed: to become less nice takes CAP_SYS_NICE. The kernel's choice of whom
    to end when memory runs out forgets its starter, too.
    """
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(pid) != os.SCHED_OTHER:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, pid):
            os.setpriority(os.PRIO_PROCESS, pid, 0)
    machine = os.uname().machine
    if machine in _IO_PRIORITY:
        syscall, _ = system_call.found()
        change, ask = _IO_PRIORITY[machine]
        if syscall(ask, _OF_A_PROCESS, pid) > 0:
            syscall(change, _OF_A_PROCESS, pid, 0)  # none: as its niceness says
    with contextlib.suppress(OSError):
        every = os.sched_getaffinity(1)
        if os.sched_getaffinity(pid) != every:
            os.sched_setaffinity(pid, every)
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "r+b", 0) as score:
        if score.read(8).strip() != b"0":
            score.write(b"0")
