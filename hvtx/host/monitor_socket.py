"""Monitor sockets of hypervisors: what they send is untrusted data.

A guest may have broken out of the program that answers. So for both protocols there is one way to
connect, one deadline for a whole talk however many reads it takes, one limit on its size, one
parser that takes only small plain objects, and one form for words that go on from here.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from collections.abc import Generator
from types import TracebackType

from hvtx.model.typed import Any, NoReturn, Self, TypeVar

MOST = 1 << 20  # bytes in a talk; Cloud Hypervisor tells the whole configuration with the state
_DEEPEST = 32  # objects and lists in one another; what is asked for has three
_LONGEST_WORD = 64
_LONGEST_SENTENCE = 200
_BUSY = 0.005  # seconds between looks at a socket where others wait already
_PIECE = 65536

_T = TypeVar("_T")
Dialogue = Generator[bytes, bytes, str]
"""A conversation without its socket: yields what to send (or nothing), is sent what came in
(nothing: the other side has closed), and returns the word that was asked for, empty if the answer
has none. ConnectionError if what came is no answer, or more than ``MOST`` bytes."""


# -- what is said ----------------------------------------------------------------------------------


def parsed(text: bytes) -> dict[str, Any]:
    """A JSON object; ConnectionError if it is none, is too deep, or has a key twice."""
    import json

    try:
        _refuse_depth(text)
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError, OverflowError) as problem:
        raise ConnectionError("it sent invalid JSON") from problem
    if not isinstance(found, dict):
        raise ConnectionError("it sent invalid JSON object")
    return found


def _refuse_depth(text: bytes) -> None:
    """Look at brackets outside of strings, if there are enough to be too deep."""
    if text.count(b"[") + text.count(b"{") <= _DEEPEST:
        return
    depth = 0
    for found in re.finditer(rb'"(?:[^"\\]+|\\.)*"?|[\[{\]}]', text, re.DOTALL):
        if (bracket := found[0]) in b"[{":
            depth += 1
            if depth > _DEEPEST:
                raise ValueError("too deep")
        elif bracket in b"]}":
            depth -= 1


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def word(found: object) -> str:
    """A short word of printable ASCII; empty if it is anything else."""
    fine = isinstance(found, str) and len(found) <= _LONGEST_WORD
    return str(found) if fine and re.fullmatch(r"[ -~]*", str(found)) else ""


def sentence(found: object) -> str:
    """Text for a message, short and printable; empty if it is no text."""
    if not isinstance(found, str):
        return ""
    return "".join(c if c.isprintable() else "?" for c in found[:_LONGEST_SENTENCE])


# -- where it is said ------------------------------------------------------------------------------


def connect(directory: str, name: str, seconds: float) -> socket.socket:
    """Connect to the unix socket ``name`` in ``directory``, with ``seconds`` as its timeout.

    The directory is the hypervisor's, who may have put a link to a socket of somebody else there:
    no link is followed. The way through ``/proc/self/fd`` keeps the address short, whatever the
    directory's length: it may have 107 bytes (unix(7)). Raises OSError: nothing there, no socket,
    nobody listening, not allowed.
    """
    path = os.path.join(directory, name)
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        seen = os.fstat(place)
        if not stat.S_ISSOCK(seen.st_mode):
            raise ConnectionRefusedError(f"{path} is not a socket")
        if seen.st_nlink > 1:  # a hard link, which may be of somebody else's socket
            raise ConnectionRefusedError(f"{path} is a socket that has {seen.st_nlink} names")
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(seconds)
            link.connect(f"/proc/self/fd/{place}")
        except BaseException:
            link.close()
            raise
        return link
    finally:
        os.close(place)


def connect_first(directory: str, names: tuple[str, ...], seconds: float) -> socket.socket:
    """Connect to the first of ``names`` that is there, as :func:`connect` does."""
    for name in names[:-1]:
        try:
            return connect(directory, name, seconds)
        except FileNotFoundError:
            continue
    return connect(directory, names[-1], seconds)


def _patiently(directory: str, names: tuple[str, ...], deadline: float) -> socket.socket:
    """The same; where others wait to be accepted already, wait with them. TimeoutError."""
    while True:
        try:
            return connect_first(directory, names, max(0.001, deadline - time.monotonic()))
        except BlockingIOError as problem:  # its backlog is full: unix(7), EAGAIN
            if time.monotonic() + _BUSY > deadline:
                raise TimeoutError("another client is connected to it") from problem
            time.sleep(_BUSY)


class MonitorSocket:
    """A connection to one hypervisor; everything in it ends ``seconds`` after its beginning.

    OSError (TimeoutError, ConnectionError among them) whenever it does not answer in time.
    """

    def __init__(self, directory: str, names: tuple[str, ...], seconds: float) -> None:
        """Connect to the first of ``names`` that is there."""
        self._deadline = time.monotonic() + seconds
        self._link = _patiently(directory, names, self._deadline)

    def __enter__(self) -> Self:
        """Return itself, connected."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; the hypervisor runs on."""
        self._link.close()

    def hold(self, dialogue: Generator[bytes, bytes, _T]) -> _T:
        """Hold a conversation to its end, and give what it returns."""
        try:
            asked = next(dialogue)
            while True:
                self.send(asked)
                asked = dialogue.send(self.receive())
        except StopIteration as end:
            found: _T = end.value
            return found

    def send(self, text: bytes) -> None:
        """Send all of it."""
        if text:
            self._limit(self._deadline)
            self._link.sendall(text)

    def receive(self, until: float | None = None) -> bytes:
        """Take what comes next, nothing if it has closed; ``until`` is a moment before the end."""
        self._limit(self._deadline if until is None else min(until, self._deadline))
        return self._link.recv(_PIECE)

    def _limit(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("it did not answer in time")
        self._link.settimeout(left)
