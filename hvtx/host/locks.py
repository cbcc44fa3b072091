"""Locks that fall with their process: open-file-description locks on single bytes of a file.

An OFD lock belongs to the open file, not to the process and not to the path: it is released by the
kernel when the last descriptor of that open file is closed, however the process ended, and closing
*another* descriptor of the same file does not drop it (fcntl(2), "Open file description locks").
Offsets are 40 bit numbers: an operation's id, or a hash of a name; a collision only makes two
things wait for each other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from _weakref import ref  # of weakref's own classes none is needed
from binascii import crc32
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from hvtx.errors import Busy, StoreError

_FLOCK = struct.Struct("hhqqi4x")
_SETLK, _GETLK = 37, 36  # F_OFD_SETLK, F_OFD_GETLK
NAMES = 1 << 32  # offsets below are operation ids


class LockFile:
    """A file whose bytes are locks.

    Who takes a byte twice gives it back twice: the kernel knows one lock of an open file, and what
    takes a byte for a while must not give back what its caller holds. A process that was forked
    from this one has none of them: it would keep them for its life.
    """

    def __init__(self, path: str, *, make: bool = True) -> None:
        """Open (and, with ``make``, make, mode 0600) the file; raises OSError."""
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
        self.descriptor = os.open(path, flags, 0o600)
        self._taken: Counter[int] = Counter()  # how often each byte was taken and not given back
        self._listed = ref(self, _files.discard)
        _files.add(self._listed)

    def try_lock(self, offset: int, *, shared: bool = False) -> bool:
        """Take the byte if nobody holds it; raises StoreError where it cannot be locked at all."""
        kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        try:
            fcntl.fcntl(self.descriptor, _SETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0))
        except OSError as problem:
            if problem.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise StoreError(
                f"{self.path} cannot be locked: {problem.strerror}",
                hint="put the state and run directories on a file system that has locks",
            ) from problem
        self._taken[offset] += 1
        return True

    def lock(self, offset: int, seconds: float, what: str, *, shared: bool = False) -> None:
        """Take the byte, waiting for at most ``seconds``; raises Busy naming ``what``."""
        _wait(lambda: self.try_lock(offset, shared=shared), seconds, what, self.path, offset)

    def held_elsewhere(self, offset: int) -> bool:
        """Whether another open file holds the byte."""
        probe = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        answer = fcntl.fcntl(self.descriptor, _GETLK, probe)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def held_within(self, first: int, end: int) -> bool:
        """Whether another open file holds a byte from ``first`` on and before ``end``."""
        if first >= end:
            return False
        probe = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, end - first, 0)
        answer = fcntl.fcntl(self.descriptor, _GETLK, probe)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def any_held(self) -> bool:
        """Whether another open file holds any byte."""
        probe = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(self.descriptor, _GETLK, probe)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def unlock(self, offset: int) -> None:
        """Give the byte back, once; where the kernel cannot, it falls with the process."""
        self._taken[offset] -= 1
        if self._taken[offset] > 0:
            return
        del self._taken[offset]
        request = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, offset, 1, 0)
        # what the lock was for is done: this must not be taken for its failure
        with suppress(OSError):
            fcntl.fcntl(self.descriptor, _SETLK, request)

    def close(self) -> None:
        """Give everything back."""
        _files.discard(self._listed)
        os.close(self.descriptor)


def lock_whole(descriptor: int, path: str, seconds: float, what: str) -> None:
    """Take flock(2) of the file at ``path``, which is open as ``descriptor``.

    It waits for at most ``seconds``. Raises Busy naming ``what``, OSError.
    """

    def attempt() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    _wait(attempt, seconds, what, path, None)


def _wait(
    attempt: Callable[[], bool], seconds: float, what: str, path: str, offset: int | None
) -> None:
    """Try until it is had, for at most ``seconds``; ``offset``: the byte, None of the whole."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    while not attempt():
        if time.monotonic() >= deadline:
            from hvtx.host import lock_holder

            if offset is None:
                holder = lock_holder.of_file(path)
            else:
                holder = lock_holder.of_byte(path, offset)
            message, hint = lock_holder.told(what, holder)
            raise Busy(message, hint=hint)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


_files: set[ref[LockFile]] = set()


def _forget_inherited() -> None:
    """In a forked child: the kernel gives a lock back only when every copy is closed."""
    for one in list(_files):
        file = one()
        if file is not None:
            with suppress(OSError):
                file.close()


os.register_at_fork(after_in_child=_forget_inherited)


def name_offset(kind: str, name: str) -> int:
    """Where the lock of a named thing lies; kinds: ``vm``, ``network``, ``all``."""
    return NAMES + (crc32(f"{kind}/{name}".encode()) & 0xFFFFFFFF)
