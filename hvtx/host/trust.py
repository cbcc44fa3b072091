"""Users who could change a file: its owner, its mode, its access control list.

Root, and whoever runs this, are trusted; so is a group whose id is 0 or the caller's own. A
directory that everybody may write counts as safe where it is sticky (``/tmp``): nobody can replace
another's file there, so the file's own owner decides. What a path leads through is for
:mod:`hvtx.host.paths`.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from struct import iter_unpack

_LIST = "system.posix_acl_access"
# linux/posix_acl_xattr.h: a version, then tag, permissions and id of each entry
_VERSION = (2).to_bytes(4, "little")
_USER, _OWNING_GROUP, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10
_WRITE = 2
_FRESH = 1.0  # seconds that the number of a file system is taken for the same one's
_mounters: dict[int, tuple[float, int | None]] = {}  # a start walks through /run twenty times


def problem_of(seen: os.stat_result, where: str | int, *, groups: bool = False) -> str | None:
    """Why somebody else could change what was ``seen``, in words; None if nobody could.

    ``where`` is its path, or a descriptor of it (``O_PATH`` will do). With ``groups`` the owning
    group may write it whichever it is, as on Debian ``staff`` may write ``/usr/local/bin``.
    """
    if (problem := foreign_owner(seen)) is not None:
        return problem
    if stat.S_ISDIR(seen.st_mode) and seen.st_mode & stat.S_ISVTX:
        return None
    return open_to_others(seen, where, groups=groups)


def foreign_owner(seen: os.stat_result) -> str | None:
    """Whether it belongs to somebody who is not trusted, in words."""
    if seen.st_uid in (0, os.geteuid()):
        return None
    return f"it belongs to user {seen.st_uid}"


def open_to_others(seen: os.stat_result, where: str | int, *, groups: bool = False) -> str | None:
    """Who else may write it, in words, whether or not it is sticky; None if nobody may."""
    mode = stat.S_IMODE(seen.st_mode)
    if mode & stat.S_IWOTH:
        return f"it is world-writable (mode {mode:04o})"
    if not mode & stat.S_IWGRP:  # these bits are the mask of a list: no entry grants more
        return None
    try:
        entries = _entries(where)
    except OSError as problem:
        return f"its access control list cannot be read: {problem.strerror}"
    if entries is None:
        return None if groups else _group(seen.st_gid, f"mode {mode:04o}")
    mask = next((allowed for tag, allowed, _ in entries if tag == _MASK), _WRITE)
    for tag, allowed, number in entries:
        if not allowed & mask & _WRITE:
            continue
        who = None
        if tag == _USER and number not in (0, os.geteuid()):
            who = f"user {number} may write it (by its access control list: getfacl)"
        elif tag == _GROUP:
            who = _group(number, "by its access control list: getfacl")
        elif tag == _OWNING_GROUP and not groups:
            who = _group(seen.st_gid, f"mode {mode:04o}")
        if who is not None:
            return who
    return None


def _group(number: int, why: str) -> str | None:
    return None if number in (0, os.getegid()) else f"group {number} may write it ({why})"


def _entries(where: str | int) -> list[tuple[int, int, int]] | None:
    """Tag, permissions and id of each entry of an access control list; None without one.

    Raises OSError, also for a list in a form that is not known.
    """
    path = f"/proc/self/fd/{where}" if isinstance(where, int) else where
    try:
        listed = os.getxattr(path, _LIST)
    except OSError as problem:
        if problem.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
    if listed[:4] != _VERSION or len(listed) % 8 != 4:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG), path)
    return list(iter_unpack("<HHI", listed[4:]))


def mounter_of(device: int) -> int | None:
    """Who mounted the file system with that ``st_dev``, if it is one that any user can mount.

    Such a one (FUSE) says of its files what its mounter likes, whose they are too. None: root did.
    """
    if os.major(device):
        return None  # it is on a disk
    now = time.monotonic()
    asked, mounter = _mounters.get(device, (now - _FRESH, None))
    if now - asked < _FRESH:
        return mounter
    try:
        with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounter = find_mounter(file.read(), f"0:{os.minor(device)}")
    except OSError:
        return None
    _mounters[device] = now, mounter
    return mounter


def find_mounter(mountinfo: str, device: str) -> int | None:
    """The same of a text in the form of proc(5), mountinfo, and a ``major:minor`` in it (pure)."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if left.split(" ")[2:3] != [device] or not right.startswith("fuse"):
            continue
        for option in right.rpartition(" ")[2].split(","):
            name, _, value = option.partition("=")
            if name == "user_id" and value.isascii() and value.isdigit() and len(value) < 11:
                return int(value) or None
    return None
