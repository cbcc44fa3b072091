"""Descriptors that a command may open: as many as its undo takes must be left before it begins.

With fewer it could make things and not take them back, since taking back opens files too: the
store's, a socket for each part of the kernel, the device itself.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hvtx.errors import HostRefused

TO_MAKE, TO_END, TO_UNDO = 22, 17, 12  # seen at most on either backend, and one or two to spare
_BESIDE = 42  # whatever else a start opens meanwhile: devices, pipes, modules
USUAL = 1024  # the soft limit of most processes; more would be a surprise to what is started here


def need(number: int) -> None:
    """Raise HostRefused unless this process may open ``number`` descriptors more.

    The soft limit is raised, if it is below the usual one and the hard one lets it.
    """
    if _is_room(_taken(), number):
        return
    import resource  # a millisecond that hardly anybody needs

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = USUAL if hard == resource.RLIM_INFINITY else min(USUAL, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        if _is_room(_taken(), number):
            return
    raise HostRefused(
        f"this process may open too few files: {number} more are needed, its limit is {soft}",
        hint="raise the limit on open files (ulimit -n 1024), or close some; nothing was done",
    )


SELECTED = 1024  # FD_SETSIZE: who waits by select(2) in C can use no descriptor from here on
_MANY = SELECTED // 2


@contextmanager
def room_for_ports(ports: int, sockets: int) -> Iterator[None]:
    """While ``sockets`` are opened for ``ports``: there is room for them, and to go on.

    The soft limit is raised as far as that takes; the hard one is somebody's decision. Low numbers
    stay free, where what is opened inside could take all of them: libnftables waits by select(2),
    and with a number from ``SELECTED`` on, glibc ends the process. Raises HostRefused, OSError.
    """
    taken = _taken()
    if not _is_room(taken, sockets + TO_MAKE + _BESIDE):
        _raise_limit(ports, sockets)
    kept: list[int] = []
    try:
        if taken + sockets > _MANY:
            kept.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            kept.extend(os.dup(kept[0]) for _ in range(TO_MAKE + _BESIDE - 1))
        yield
    finally:
        for one in kept:
            os.close(one)


def _raise_limit(ports: int, sockets: int) -> None:
    """Raise the soft limit for so many more. Raises HostRefused where the hard one is below it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = highest() + 1 + sockets + TO_MAKE + _BESIDE
    if hard == resource.RLIM_INFINITY or wanted <= hard:
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return
    most = max(0, (hard - (wanted - sockets)) * ports // sockets)
    held = "1 published port is" if ports == 1 else f"{ports} published ports are"
    fewer = f"at most {most} port{'s' * (most > 1)}" if most else "none"
    raise HostRefused(
        f"{held} held by {sockets} socket{'s' * (sockets > 1)}, and this process may have {hard}"
        " files open (the hard limit)",
        hint=f"raise that limit (ulimit -Hn {wanted}; LimitNOFILE={wanted} in a unit), or publish"
        f" {fewer}; nothing was done",
    )


def highest() -> int:
    """The highest number of a descriptor of this process."""
    return max(map(int, os.listdir("/proc/self/fd")), default=2)


def _taken() -> int:
    """How many descriptors this process has; one call since Linux 6.2 (fs/proc/fd.c).

    As many as it may have, where they cannot be counted for want of one.
    """
    try:
        return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")) - 1  # its own
    except OSError as problem:
        none_left = problem.errno in (errno.EMFILE, errno.ENFILE)
        return os.sysconf("SC_OPEN_MAX") if none_left else 0


def _is_room(taken: int, number: int) -> bool:
    limit = os.sysconf("SC_OPEN_MAX")  # the soft limit
    return limit < 0 or limit - taken >= number
