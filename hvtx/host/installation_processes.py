"""Processes of an installation, by their command line and environment."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Collection

from hvtx.host import mounts
from hvtx.host.procfs import proc_is_foreign, read_whole
from hvtx.model.typed import NamedTuple

# Bytes of arguments or environment: execve(2) takes no more of both together (_STK_LIM / 4 * 3 in
# the kernel's fs/exec.c). Any process can show terabytes later: PR_SET_MM_MAP of prctl(2).
_MOST = 6 << 20
_NAMED = 4  # of those that cannot be looked into
_ENDED = (errno.ENOENT, errno.ESRCH)
# Of the first interface, and of its others; HVTX_TAP_USER is a setting of hvtx's own.
_TAP = re.compile(rb"HVTX_TAP(?:_[0-9]+)?=(.+)", re.DOTALL)


class Users(NamedTuple):
    """Processes in words; ``complete`` is false if some could not be looked into: ``unseen``."""

    found: tuple[str, ...]
    complete: bool
    unseen: tuple[str, ...] = ()  # as far as they are known

    @property
    def told_unseen(self) -> str:
        """Who could not be looked into, in brackets behind a word; of many the first."""
        more = f" and {len(self.unseen) - _NAMED} more" if len(self.unseen) > _NAMED else ""
        return f" ({', '.join(self.unseen[:_NAMED])}{more})" if self.unseen else ""


def of(installation: str, devices: Collection[str]) -> Users:
    """Processes that were given one of the devices as a VM's, or that work in a VM's directory.

    The first by their ``HVTX_TAP``, ``HVTX_TAP_2`` and so on. An environment is what a process
    began with, so that of a hypervisor which hvtx started tells.
    """
    place = f"/{installation}/vms/"
    values = {device.encode() for device in devices}
    # hvtx starts nobody as the first process, which may be greater than we are
    return _those(lambda pid: place in _link(f"/proc/{pid}/cwd") + "/" or _mentions(pid, values))


def at(directory: str) -> Users:
    """Processes that are at a VM's or a network's run-time directory.

    They work in it, have something below it open, or name it in their command line or in the
    environment that they began with.
    """
    whole, seen = os.path.realpath(directory), mounts.Mounts()
    here = _Place(directory, whole, seen, seen.place(whole))
    return _those(lambda pid: _is_at(pid, here))


def with_other_taps(known: Collection[str]) -> Users:
    """Processes of this network namespace that were given a TAP which is not ``known``.

    It is in their ``HVTX_TAP``, ``HVTX_TAP_2`` and so on. Who runs as a VM that is on
    no record may have none of its files, and not even its device, open.
    """
    values, here = {name.encode() for name in known}, _inode("/proc/thread-self/ns/net")
    return _those(
        lambda pid: not values.issuperset(_taps(pid)) and _inode(f"/proc/{pid}/ns/net") == here
    )


def _those(asked: Callable[[str], bool]) -> Users:
    """The processes of which it is so, but for this one and the first. Raises OSError."""
    found: list[str] = []
    unseen: list[str] = []
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    # the first is missing where hidepid hides other people's processes from us
    complete = "1" in pids and not proc_is_foreign()
    for name in pids:
        if int(name) in (1, os.getpid()):
            continue
        try:
            if asked(name):
                found.append(f"{_command(name)} (pid {name})")  # raises where it has ended
        except OSError as problem:
            if problem.errno not in _ENDED:
                unseen.append(_told(name))
    return Users(tuple(found), complete and not unseen, tuple(unseen))


def _told(pid: str) -> str:
    try:
        return f"{_command(pid)} (pid {pid})"
    except OSError:
        return f"pid {pid}"


class _Place(NamedTuple):
    """A directory, by its names and by its file system."""

    named: str
    whole: str  # without links
    seen: mounts.Mounts
    place: mounts.Place | None  # None: it is not known

    def holds(self, pid: str, path: str) -> bool:
        """Whether a link of a process leads into it, by whatever mount."""
        if self.place is None:
            return False
        other = self.seen.place_of(pid, path, self.place.device)
        return other is not None and _is_below(other.path, self.place.path)


def _is_at(pid: str, place: _Place) -> bool:
    works = _link(f"/proc/{pid}/cwd")
    links = [works, _link(f"/proc/{pid}/root")]
    links += [_link(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    # one that is being removed has .new behind its name
    if any(_is_below(link, place.whole) for link in links):
        return True
    if works and place.holds(pid, works):
        return True  # by another mount
    for what in ("cmdline", "environ"):
        words = read_whole(f"/proc/{pid}/{what}", _MOST)
        if any(os.fsencode(name) in words for name in (place.named, place.whole)):
            return True
    return False


def _is_below(path: str, directory: str) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in (directory, f"{directory}.new"))


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # a kernel thread, or it has ended
        return ""


def _mentions(pid: str, devices: Collection[bytes]) -> bool:
    return any(value in devices for value in _taps(pid))


def _taps(pid: str) -> list[bytes]:
    """The devices that a process was given as a VM's, by the environment that it began with."""
    # not taken apart at each end of a word: there may be nothing else in it
    words = (b"\0" + read_whole(f"/proc/{pid}/environ", _MOST)).split(b"\0HVTX_TAP")[1:]
    found = [_TAP.fullmatch(b"HVTX_TAP" + word.partition(b"\0")[0]) for word in words]
    return [each[1] for each in found if each is not None]


def _command(pid: str) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().rstrip("\n")
