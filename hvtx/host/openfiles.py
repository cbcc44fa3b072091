"""Processes that have a file or a TAP device open, by ``/proc/PID/fd``."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from hvtx.host import procfs, system_call
from hvtx.host.procfs import field_of, proc_is_foreign, read_whole
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Identity

_TUNGETDEVNETNS = 0x54E3  # _IO('T', 227), include/uapi/linux/if_tun.h
_NS_GET_USERNS, _NS_GET_OWNER_UID = 0xB701, 0xB704  # include/uapi/linux/nsfs.h
_PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h
_LET_GO = (errno.ESRCH, errno.EBADF, errno.EBADFD)  # its process, its descriptor, its device went
_UID = struct.Struct("=I")
_SYS_PIDFD_GETFD = 438  # the same number on all architectures


class Holder(NamedTuple):
    """A process that has a TAP device open."""

    pid: int
    command: str  # its name as in /proc/<pid>/comm


class Holders(NamedTuple):
    """Who holds which device; ``complete`` is false if some process could not be looked into."""

    found: dict[str, tuple[Holder, ...]]
    complete: bool


def has_open(pid: int, suffix: str, path: str) -> bool:
    """Whether a process has a file open that was at ``…/suffix``, and is not what ``path`` is now.

    False where it cannot be inspected.
    """
    here = _inode(path)
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        link = f"/proc/{pid}/fd/{name}"
        try:
            target = os.readlink(link).removesuffix(" (deleted)")
        except OSError:
            continue
        if target.endswith(suffix) and _inode(link) not in (None, here):
            return True
    return False


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def tap_holders(names: Collection[str]) -> Holders:
    """Who has the TAP devices ``names`` of this network namespace open.

    Looks for descriptors of ``/dev/net/tun`` whose fdinfo names one of them in ``iff:``. A plan's
    evidence, not a lock: descriptors that are in flight through a socket, or that a kernel thread
    holds, are not in ``/proc``; only attaching to the device tells for certain.
    """
    found: dict[str, list[Holder]] = {}
    if not names:
        return Holders({}, True)
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    # pid 1 is missing where hidepid hides other people's processes from us
    complete = 1 in pids and not proc_is_foreign()
    wanted = frozenset(names)
    here = os.stat("/proc/thread-self/ns/net")
    for pid in pids:
        try:
            held = set(_held(pid, wanted, (here.st_dev, here.st_ino)))
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            complete = False
            continue
        for name in held:
            found.setdefault(name, []).append(Holder(pid, _name(pid)))
    return Holders({name: tuple(holders) for name, holders in found.items()}, complete)


def _held(pid: int, wanted: frozenset[str], here: tuple[int, int]) -> Iterator[str]:
    """Names among ``wanted`` that process ``pid`` has open in the namespace ``here``."""
    for task, number, name in _tuns(pid):
        if name in wanted and _is_here(pid, task, number, here):
            yield name


def open_devices(pid: int, user: int) -> set[str]:
    """The TUN and TAP devices that a process of ``user`` has open; raises OSError.

    Of whatever network namespace but those that the user made: it may have any device there.
    """
    return {
        name
        for task, number, name in _tuns(pid)
        if name and not _is_made_by(user, pid, task, number)
    }


def _is_made_by(user: int, pid: int, task: int, number: int) -> bool:
    """Whether a process's tun device is in a network namespace of a user namespace of ``user``'s.

    False where that cannot be told.
    """
    import fcntl

    try:
        with _device_namespace(pid, task, number) as namespace:
            owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
        try:
            told = fcntl.ioctl(owner, _NS_GET_OWNER_UID, bytes(_UID.size))
            return bool(_UID.unpack(told)[0] == user)
        finally:
            os.close(owner)
    except OSError:
        return False


def _tuns(pid: int) -> Iterator[tuple[int, int, str]]:
    """The tun descriptors of a process: the thread, the number, and the interface behind each."""
    for task, directory in _tables(pid):
        for number in os.listdir(directory + "fd"):
            try:
                link = os.readlink(f"{directory}fd/{number}")
                if not link.startswith("/") or "tun" not in link:
                    continue
                name = device_in(read_whole(f"{directory}fdinfo/{number}"))
            except FileNotFoundError:
                continue
            yield task, int(number), name


def device_in(fdinfo: bytes) -> str:
    """The interface behind a tun descriptor, by its fdinfo; empty if there is none (pure).

    Anybody can name a device in a namespace of their own, with bytes that are no text.
    """
    return field_of(fdinfo, b"iff:").decode(errors="surrogateescape")


def _tables(pid: int) -> Iterator[tuple[int, str]]:
    """Where the descriptors of a process are listed, by thread.

    Its own directory lists those of the leader thread, and none once that has exited: then each
    other thread has a list.
    """
    leader = f"/proc/{pid}/"
    yield pid, leader
    if not os.listdir(leader + "fd"):
        tasks = [int(task) for task in os.listdir(leader + "task")]
        yield from ((task, f"{leader}task/{task}/") for task in tasks if task != pid)


def _is_here(pid: int, task: int, number: int, here: tuple[int, int]) -> bool:
    """Whether the device behind a tun descriptor is in the namespace ``here``.

    The device itself is asked, wherever its holder is: anybody can have one of any name in a
    namespace of their own, and bring the descriptor here. Where that is not allowed the holder
    counts, since what may be in use is left alone; one that has let go of it does not.
    """
    try:
        with _device_namespace(pid, task, number) as namespace:
            device = os.fstat(namespace)
    except OSError as problem:
        return problem.errno not in _LET_GO
    return (device.st_dev, device.st_ino) == here


def sockets_of(identity: Identity) -> Iterator[int]:
    """A copy of each socket that a process has open, for the caller to close.

    None if the process is gone. Raises OSError, also where copies are not to be had.
    """
    process = procfs.open_checked(identity)
    if process is None:
        return
    try:
        for name in os.listdir(f"/proc/{identity.pid}/fd"):
            if os.readlink(f"/proc/{identity.pid}/fd/{name}").startswith("socket:"):
                yield _copy(process, int(name))
    finally:
        os.close(process)


def _copy(process: int, number: int) -> int:
    """A copy of the descriptor of a process (a pidfd). Raises OSError (pidfd_getfd(2))."""
    syscall, last_error = system_call.found()
    copy = int(syscall(_SYS_PIDFD_GETFD, process, number, 0))
    if copy < 0:
        raise OSError(last_error(), os.strerror(last_error()))
    return copy


@contextmanager
def _device_namespace(pid: int, task: int, number: int) -> Iterator[int]:
    """A descriptor of the namespace that a process's tun device is in; OSError if refused.

    Of a thread beside its leader, whose descriptors may be others, since Linux 6.9.
    """
    import fcntl

    process = os.pidfd_open(task, 0 if task == pid else _PIDFD_THREAD)
    try:
        copy = _copy(process, number)
    finally:
        os.close(process)
    try:
        namespace = fcntl.ioctl(copy, _TUNGETDEVNETNS)
    finally:
        os.close(copy)
    try:
        yield namespace
    finally:
        os.close(namespace)


def _name(pid: int) -> str:
    try:
        return read_whole(f"/proc/{pid}/comm").decode(errors="replace").rstrip("\n")
    except OSError:
        return "?"
