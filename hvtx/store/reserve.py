"""A file beside the store that is given up when its disk is full.

Whatever ends, frees or reads must work on a full disk (docs/adr/0020). Writing a change takes room
for SQLite's log, so ``<state-dir>/reserve`` holds some, allocated and unused. Who ends or frees
something removes it when room is low; whoever has written, and finds room, makes it again. Who
makes something new is refused while room is low.

1 MiB, or twice the store if that is more, at most 16 MiB, and never more than a quarter of the room
that is left; on a disk too small for 128 KiB there is none.
"""

from __future__ import annotations

import os
from contextlib import suppress

FILE = "reserve"
LOW = 192 << 10  # bytes: below this nothing new is begun
_LEAST, _USUAL, _MOST = 128 << 10, 1 << 20, 16 << 20


def room(directory: str) -> int | None:
    """Bytes that this user can still write there; None where the file system does not say."""
    try:
        seen = os.statvfs(directory)
    except OSError:
        return None
    if not seen.f_blocks:
        return None
    blocks = seen.f_bfree if os.geteuid() == 0 else seen.f_bavail
    return blocks * seen.f_frsize


def is_low(directory: str) -> bool:
    """Whether there is too little room to begin something new."""
    left = room(directory)
    return left is not None and left < LOW


def is_there(directory: str) -> bool:
    """Whether the reserve is there."""
    return os.path.lexists(os.path.join(directory, FILE))


def give_up(directory: str) -> bool:
    """Remove the reserve; whether it was there."""
    try:
        os.unlink(os.path.join(directory, FILE))
    except OSError:
        return False
    return True


def make(directory: str, store_size: int) -> None:
    """Make the reserve, or a small one greater, where there is room for it; else leave all as is.

    Raises nothing: it is made after a change, which stands.
    """
    path = os.path.join(directory, FILE)
    wanted = min(max(_USUAL, 2 * store_size), _MOST)
    try:
        here = os.lstat(path).st_size
    except OSError:
        here = 0
    if here * 2 > wanted:
        return
    wanted = min(wanted, (room(directory) or 0) // 4) & ~0xFFFF
    if wanted < _LEAST or wanted <= here:
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
