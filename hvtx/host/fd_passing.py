"""Passing open descriptors to a VM process, whose user may not be able to open the files.

A descriptor that is opened again by ``/proc/self/fd/N``, as QEMU opens a kernel, asks for the
file's own permission bits once more (not for those of the directories above it). So of a file that
the user may not read a copy is handed over: a sealed one in memory, which anybody may open who has
the descriptor.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from hvtx.errors import HostRefused
from hvtx.host import named_files, paths, tun
from hvtx.model.passed_fds import TAP, TAP_QUEUE, VHOST, PassedDescriptors
from hvtx.model.user import User

_PIECE = 1 << 26
_SEALS = 0x0F  # F_SEAL_SEAL | SHRINK | GROW | WRITE
_F_ADD_SEALS = 1033


def open_all(handed: Sequence[PassedDescriptors], user: User | None) -> list[int]:
    """A descriptor for each, close-on-exec, to be closed by the caller.

    Raises HostRefused, or NotPermitted for a link of somebody else's that is not followed, naming
    the thing; nothing stays open then.
    """
    found: list[int] = []
    try:
        for one in handed:
            found.append(_opened(one, user))
    except paths.UnsafeError as unsafe:
        close_all(found)
        raise named_files.refused(one.what, one.path, unsafe) from unsafe
    except OSError as problem:
        close_all(found)
        raise HostRefused(
            f"the {one.what} {one.path} cannot be opened: {problem.strerror}",
            hint=_HINTS.get(one.what, "look at its permissions, and at those of its directories"),
        ) from problem
    except BaseException:
        close_all(found)
        raise
    return found


_HELD = "hvtx doctor looks at /dev/net/tun; hvtx gc --plan tells who holds a device"
_HINTS = {TAP: _HELD, TAP_QUEUE: _HELD}


def close_all(descriptors: Sequence[int]) -> None:
    """Close what was opened."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _opened(one: PassedDescriptors, user: User | None) -> int:
    if one.what in (TAP, TAP_QUEUE):
        return _tap(one.path, 2 if one.what == TAP_QUEUE else 1)
    if one.what == VHOST:
        return os.open(one.path, os.O_RDWR | os.O_CLOEXEC)
    access = os.O_RDWR if one.what == "disk" else os.O_RDONLY
    descriptor = named_files.open_file(
        one.path,
        access,
        disk=one.what in ("disk", "read-only disk"),
        bits=named_files.EXECUTE if one.what == "program" else None,
    )
    try:
        seen = os.fstat(descriptor)
        os.set_blocking(descriptor, True)
        if one.what not in ("kernel", "initrd") or user is None:
            return descriptor
        if user.may(stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, 4):
            return descriptor
        copy = _copied(descriptor, os.path.basename(one.path))
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return copy


def _tap(device: str, queues: int) -> int:
    descriptor = tun.open_device()
    try:
        tun.attach_free(descriptor, device, tun.tap_flags(queues))  # it was made just before
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _copied(source: int, name: str) -> int:
    """A sealed copy in memory."""
    import fcntl

    copy = os.memfd_create(name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        while os.sendfile(copy, source, None, _PIECE):
            pass
        fcntl.fcntl(copy, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy
