"""Files beside the store that are given up when its disk is full.

Whatever ends, frees or reads must work on a full disk (docs/adr/0020). Writing a change takes room
for SQLite's log, so ``<state-dir>/reserve`` holds some, allocated and unused. Who ends or frees
something removes it when room is low; whoever has written, and finds room, makes it again. Who
makes something new is refused while room is low.

A disk can be out of inodes as well, with room left: SQLite makes two files whenever it opens a
store, for its log and the log's index. ``<state-dir>/reserve.0`` … ``reserve.7`` are empty, and are
given up with the reserve.

1 MiB, or twice the store if that is more, at most 16 MiB, and never more than an eighth of the
disk; on a disk too small for 128 KiB there is none.
"""

from __future__ import annotations

import os
from contextlib import suppress

from hvtx.host import paths

FILE = "reserve"
LOW = 192 << 10  # bytes: below this nothing new is begun
LOW_INODES = 8  # below this nothing new is begun either; a VM's start takes up to five
_LEAST, _USUAL, _MOST = 128 << 10, 1 << 20, 16 << 20
_SPARES = tuple(f"{FILE}.{number}" for number in range(8))


def room(directory: str) -> int | None:
    """Bytes that this user can still write there; None where the file system does not say."""
    return _room_and_size(directory)[0]


def _room_and_size(directory: str) -> tuple[int | None, int]:
    try:
        seen = os.statvfs(directory)
    except OSError:
        return None, 0
    if not seen.f_blocks:
        return None, 0
    blocks = seen.f_bfree if os.geteuid() == 0 else seen.f_bavail
    return blocks * seen.f_frsize, seen.f_blocks * seen.f_frsize


def inodes(directory: str) -> int | None:
    """Files that this user can still make there; None where the file system has no such limit."""
    try:
        seen = os.statvfs(directory)
    except OSError:
        return None
    if not seen.f_files:
        return None
    return seen.f_ffree if os.geteuid() == 0 else seen.f_favail


def _wanted(disk: int, store: int) -> int:
    """How great the reserve of a store is on a disk, both in bytes (pure)."""
    wanted = min(max(_USUAL, 2 * store), _MOST, disk // 8) & ~0xFFFF
    return wanted if wanted >= _LEAST else 0


def is_low(directory: str) -> bool:
    """Whether there is too little room to begin something new."""
    left = room(directory)
    return (left is not None and left < LOW) or lacks_inodes(directory)


def lacks_inodes(directory: str) -> bool:
    """Whether there are too few inodes to begin something new."""
    files = inodes(directory)
    return files is not None and files < LOW_INODES


def may_begin(directory: str, *, exists: bool) -> bool:
    """Whether something new may begin; ``exists``: the store does.

    What the reserve gave back, when it was given up, is not for this.
    """
    if not exists:  # nor need its directory
        directory = paths.nearest(directory)
    files = inodes(directory)
    if files is not None:
        owed = len(_SPARES) if exists and not _is_spared(directory) else 0
        if files < LOW_INODES + owed:
            return False
    left, disk = _room_and_size(directory)
    if left is None:
        return True
    owed = 0 if not exists or is_there(directory) else _wanted(disk, 0)
    return left >= LOW + owed


def is_there(directory: str) -> bool:
    """Whether the reserve is there."""
    return os.path.lexists(os.path.join(directory, FILE))


def _is_spared(directory: str) -> bool:
    """Whether the spare inodes are there, all: the last is made last and removed first."""
    return os.path.lexists(os.path.join(directory, _SPARES[-1]))


def give_up(directory: str) -> bool:
    """Remove the reserve; whether any of it was there."""
    gone = False
    for name in (*reversed(_SPARES), FILE):
        with suppress(OSError):
            os.unlink(os.path.join(directory, name))
            gone = True
    return gone


def make(directory: str, store_size: int) -> None:
    """Make the reserve, or a small one greater, where there is room for it; else leave all as is.

    Raises nothing: it is made after a change, which stands.
    """
    _spare_inodes(directory)
    path = os.path.join(directory, FILE)
    try:
        here = os.lstat(path).st_size
    except OSError:
        here = 0
    if here >= max(_USUAL, store_size):
        return
    left, disk = _room_and_size(directory)
    wanted = _wanted(disk, store_size)
    if wanted <= here or left is None or left < wanted - here + LOW:
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(OSError):
        descriptor = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, wanted)
        except OSError:
            os.unlink(path)
        finally:
            os.close(descriptor)


def _spare_inodes(directory: str) -> None:
    """Make the empty files, where all of them leave enough."""
    if _is_spared(directory):
        return
    files = inodes(directory)
    if files is None or files < len(_SPARES) + LOW_INODES:
        return
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(OSError):
        for name in _SPARES:
            os.close(os.open(os.path.join(directory, name), flags, 0o600))
