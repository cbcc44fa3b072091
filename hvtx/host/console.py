"""A terminal, or a pair of pipes, joined to a VM's serial console."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator

LEAVE = b"\x1d"  # Ctrl-]
_QUIET_SECONDS = 1.0
_PIECE = 65536


def bridge(link: socket.socket, source: int = 0, sink: int = 1) -> None:
    """Copy ``source`` to the console and the console to ``sink`` until one of them ends.

    With a terminal at ``source``, keys go through one by one and Ctrl-] leaves. Without one, the
    end of the input is not the end: what the guest still says is copied until it is silent for a
    second, so that a command can be piped in and its answer be read.
    """
    interactive = _is_terminal(source)
    if interactive:
        sys.stderr.write("Connected to the console; Ctrl-] leaves it.\r\n")
        sys.stderr.flush()
    with _raw(source) if interactive else contextlib.nullcontext():
        _copy(link, source, sink, interactive)


def _copy(link: socket.socket, source: int, sink: int, interactive: bool) -> None:
    """Until one of them ends. A VM that takes no keys is no reason not to see Ctrl-]."""
    link.setblocking(False)
    poll = select.poll()
    open_ = _is_open(source)
    waiting: bytes | None = b""  # keys that the VM has not taken
    while waiting is not None:
        poll.register(link, select.POLLIN | (select.POLLOUT if waiting else 0))
        if open_ and (interactive or not waiting):
            poll.register(source, select.POLLIN)
        ready = dict(poll.poll(None if open_ else int(_QUIET_SECONDS * 1000)))
        if not ready:
            return
        if ready.get(link.fileno(), 0) & ~select.POLLOUT and not _forward(link, sink):
            return
        if source in ready:
            poll.unregister(source)
            keys = _read(source)
            typed, leave, _ = keys.partition(LEAVE) if interactive else (keys, b"", b"")
            waiting = (waiting + typed)[:_PIECE]  # what is typed beyond that is lost
            if leave or (interactive and not keys):
                _sent(link, waiting)
                return
            open_ = bool(keys)
        waiting = _sent(link, waiting)


def _sent(link: socket.socket, keys: bytes) -> bytes | None:
    """Send as many keys as the VM takes; the rest, None if it has ended."""
    try:
        return keys[link.send(keys) :] if keys else keys
    except BlockingIOError:
        return keys
    except OSError:
        return None


def _forward(link: socket.socket, sink: int) -> bool:
    """Copy what the guest said; False when it will say no more, or nobody listens."""
    try:
        data = link.recv(_PIECE)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(sink, rest) :]
    except OSError:
        return False
    return bool(data)


def _is_open(source: int) -> bool:
    """Whether ``source`` is; a service's standard input may be closed."""
    try:
        os.fstat(source)
    except OSError:
        return False
    return True


def _read(source: int) -> bytes:
    try:
        return os.read(source, _PIECE)
    except OSError:
        return b""


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


@contextlib.contextmanager
def _raw(source: int) -> Iterator[None]:
    """Every key as it is typed; the terminal is as it was at the end."""
    before = termios.tcgetattr(source)
    tty.setraw(source)
    try:
        yield
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)
        sys.stderr.write("\r\n")
