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
    link.setblocking(True)
    poll = select.poll()
    poll.register(link, select.POLLIN)
    open_ = _registered(poll, source)
    while True:
        ready = dict(poll.poll(None if open_ else int(_QUIET_SECONDS * 1000)))
        if not ready:
            return
        if link.fileno() in ready and not _forward(link, sink):
            return
        if source in ready:
            keys = _read(source)
            typed, leave, _ = keys.partition(LEAVE) if interactive else (keys, b"", b"")
            try:
                link.sendall(typed)
            except OSError:
                return  # the VM ended
            if leave or (interactive and not keys):
                return
            if not keys:
                poll.unregister(source)
                open_ = False


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


def _registered(poll: select.poll, source: int) -> bool:
    """Watch ``source``; False if it is closed, as a service's standard input may be."""
    try:
        os.fstat(source)
    except OSError:
        return False
    poll.register(source, select.POLLIN)
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
