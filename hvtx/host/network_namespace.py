"""Network namespaces of others, opened by a path that is checked to be one, and new ones.

A thread enters them, which ends there.

Constants are those of include/uapi/linux/{nsfs,sched}.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator

from hvtx.host import system_call
from hvtx.host.own_thread import in_own_thread
from hvtx.model.typed import TypeVar

_NS_GET_NSTYPE, _CLONE_NEWNET = 0xB703, 0x40000000

T = TypeVar("T")


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A descriptor of the network namespace at a path; no program that is started inherits it.

    Raises OSError: FileNotFoundError, PermissionError, ENOTTY where it is no network namespace.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not _is_network_namespace(descriptor):
            raise OSError(errno.ENOTTY, "it is no network namespace", path)
        yield descriptor
    finally:
        os.close(descriptor)


def _is_network_namespace(descriptor: int) -> bool:
    """Whether it is a file of nsfs, of a network namespace: by its file system, then by its type.

    In this order: the ioctl's number may mean something to a device that is no nsfs, of which the
    kernel has one, with a device number of its own (fs/nsfs.c, nsfs_mnt). Raises OSError.
    """
    if os.fstat(descriptor).st_dev != os.stat("/proc/thread-self/ns/net").st_dev:
        return False
    return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET


def is_own(descriptor: int) -> bool:
    """Whether an open network namespace is the calling thread's. Raises OSError."""
    return os.path.samestat(os.fstat(descriptor), os.stat("/proc/thread-self/ns/net"))


def _enter(descriptor: int) -> None:
    """Have this thread work in a network namespace from here on. Raises OSError."""
    setns, last_error = system_call.found("setns")
    if setns(descriptor, _CLONE_NEWNET):
        code = last_error()
        raise OSError(code, f"the namespace cannot be entered: {os.strerror(code)}")


def enter_new() -> None:
    """Have this thread work in a network namespace of its own from here on. Raises OSError."""
    unshare, last_error = system_call.found("unshare")
    if unshare(_CLONE_NEWNET):
        code = last_error()
        raise OSError(code, f"no network namespace can be made: {os.strerror(code)}")


def inside(descriptor: int, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises in a network namespace: in a thread of its own, that ends.

    The calling thread stays where it is. Sockets that ``work`` opens belong to the namespace for as
    long as they live, whoever uses them. Raises OSError.
    """

    def run() -> T:
        _enter(descriptor)
        return work()

    try:
        return in_own_thread(run)
    except RuntimeError as problem:  # a limit of tasks
        raise OSError(errno.EAGAIN, f"no thread for the namespace: {problem}") from problem
