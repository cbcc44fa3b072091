"""A file system of a user's own (FUSE), in a mount namespace that ends with the test.

It has a directory with a link in it and says whatever its maker likes: that all is root's, say. It
answers what a look asks and nothing else (linux/fuse.h); silent, it answers nothing any more, as a
server of a network file system that is gone. Who asks such a one waits and cannot even be killed:
so the server is a process of its own that ends after some seconds, and with it what waits for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import stat
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from integration import lab

DEVICE = Path("/dev/fuse")
_LIBC = ctypes.CDLL(None, use_errno=True)
_PRIVATE, _RECURSIVE = 1 << 18, 1 << 14
_LOOKUP, _FORGET, _GETATTR, _READLINK, _INIT, _FORGET_MANY = 1, 2, 3, 5, 26, 42
_NAME = b"link"
SECONDS = 10  # that a server serves


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    words = (source.encode(), target.encode(), kind.encode(), flags, options.encode())
    lab._check(_LIBC.mount(*words), f"mount {target}")


class Server:
    """What is mounted by ``user`` at a directory, with a link to ``leads``; owned by ``owner``."""

    def __init__(
        self, at: Path, user: int, leads: str, *, owner: int = 0, others: bool = False
    ) -> None:
        """Mount it; ``others`` may look, too (`allow_other`)."""
        self._leads, self._owner = leads.encode(), owner
        self._silent = mmap.mmap(-1, 1)
        self._device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40755,user_id={user},group_id={user}"
        _mount("x", str(at), "fuse", 0, options + ",allow_other" * others)
        self._pid = os.fork()
        if self._pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            with contextlib.suppress(BaseException):
                self._serve()
            os._exit(0)
        os.close(self._device)

    def fall_silent(self) -> None:
        """Answer nothing any more."""
        self._silent[0] = 1

    def close(self) -> None:
        """End it: who asks now is told that nobody is there."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _attributes(self, node: int) -> bytes:
        """``struct fuse_attr``: of the directory, 1, or of the link."""
        mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFLNK | 0o777
        size = 0 if node == 1 else len(self._leads)
        return struct.pack(
            "<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, self._owner, self._owner, 0, 512, 0
        )

    def _answer(self, what: int, node: int, asked: bytes) -> bytes | int:
        if what == _INIT:
            return struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *([0] * 8))
        if what == _GETATTR:
            return struct.pack("<Q2I", 0, 0, 0) + self._attributes(node)
        if what == _LOOKUP and asked.rstrip(b"\0") == _NAME:
            return struct.pack("<4Q2I", 2, 0, 0, 0, 0, 0) + self._attributes(2)
        if what == _READLINK:
            return self._leads
        return errno.ENOENT if what == _LOOKUP else errno.ENOSYS

    def _serve(self) -> None:
        while True:
            asked = os.read(self._device, 1 << 17)  # an error once it is unmounted
            _, what, unique, node = struct.unpack_from("<2I2Q", asked)
            if what in (_FORGET, _FORGET_MANY) or self._silent[0]:
                continue
            answer = self._answer(what, node, asked[40:])
            error, body = (-answer, b"") if isinstance(answer, int) else (0, answer)
            os.write(self._device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


def apart(test: Callable[[], None]) -> None:
    """Call ``test`` in a child in a mount namespace of its own; it fails as the child does.

    Nor may it wait for an answer that never comes.
    """
    began = time.monotonic()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            lab.unshare(lab.CLONE_NEWNS)
            _mount("none", "/", "none", _PRIVATE | _RECURSIVE, "")
            test()
            code = 0
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-8000:])
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        words = said.read().decode(errors="replace")
    os.waitpid(pid, 0)
    assert not words, words
    assert time.monotonic() - began < SECONDS, "it waited until nobody was there to answer"
