"""QEMU's machine protocol, as little of it as starting and stopping needs; and unix sockets.

JSON objects, one a line (docs/interop/qmp-spec.rst of QEMU): a greeting, then
``qmp_capabilities``, after which commands are taken; events come between answers and are passed
over. QEMU speaks with one client at a time; the next one waits without a greeting.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Any, Self

from hvtx.errors import HostRefused

_LONGEST_LINE = 1 << 20  # bytes; answers to the commands used here have a few hundred
_BUSY = 0.005  # seconds between looks at a socket where others wait already

Dialogue = Generator[bytes, bytes, str]
"""A conversation without its socket: yields what to send (or nothing), is sent what came in
(nothing: the other side has closed), and returns the word that was asked for, empty if the answer
has none. ConnectionError if what came is no answer."""


def connect(directory: str, name: str, seconds: float) -> socket.socket:
    """Connect to the unix socket ``name`` in ``directory``, with ``seconds`` as its timeout.

    The directory is the VM process's, so what is there must be a socket: a link could lead to that
    of another VM. The way through ``/proc/self/fd`` leads to what was looked at, and keeps the
    address short: it may have 107 bytes (unix(7)). Raises OSError: nothing there, or no socket;
    nobody listening, not allowed.
    """
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        there = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)
    try:
        if not stat.S_ISSOCK(os.fstat(there).st_mode):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "it is no socket", name)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(seconds)
            link.connect(f"/proc/self/fd/{there}")
        except BaseException:
            link.close()
            raise
        return link
    finally:
        os.close(there)


def connect_first(directory: str, names: tuple[str, ...], seconds: float) -> socket.socket:
    """Connect to the first of ``names`` that is there, as :func:`connect` does."""
    for name in names[:-1]:
        try:
            return connect(directory, name, seconds)
        except FileNotFoundError:
            continue
    return connect(directory, names[-1], seconds)


def patiently(directory: str, names: tuple[str, ...], seconds: float) -> socket.socket:
    """The same; where others wait to be accepted already, wait with them. TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return connect_first(directory, names, max(0.001, deadline - time.monotonic()))
        except BlockingIOError as problem:  # its backlog is full: unix(7), EAGAIN
            if time.monotonic() + _BUSY > deadline:
                raise TimeoutError("others speak with it") from problem
            time.sleep(_BUSY)


def asks_status() -> Dialogue:
    """Ask QEMU for its run state: ``running``, ``internal-error`` … (query-status)."""
    waiting = b""
    asked: bytes = b""
    while True:
        while b"\n" not in waiting:
            came = yield asked
            asked = b""
            if not came:
                raise ConnectionError("QEMU closed the connection")
            waiting += came
            if len(waiting) > _LONGEST_LINE:
                raise ConnectionError("QEMU sent a line without an end")
        line, _, waiting = waiting.partition(b"\n")
        said = parsed(line)
        if "QMP" in said:
            asked = b'{"execute": "qmp_capabilities", "id": "qmp_capabilities"}\n'
        elif "event" in said:
            continue
        elif said.get("id") == "qmp_capabilities":
            asked = b'{"execute": "query-status", "id": "query-status"}\n'
        elif said.get("id") == "query-status":
            return status_in(said.get("return"))


def status_in(answer: object) -> str:
    """The run state in the ``return`` of query-status; empty if it has none."""
    word = answer.get("status") if isinstance(answer, dict) else None
    return word if isinstance(word, str) else ""


def parsed(line: bytes) -> dict[str, Any]:
    """A line as an object; ConnectionError if it is none, however it was made up."""
    import json

    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise ConnectionError("QEMU sent something that is no JSON") from problem
    if not isinstance(found, dict):
        raise ConnectionError("QEMU sent something that is no JSON object")
    return found


class Qmp:
    """A conversation with one QEMU; everything in it ends ``seconds`` after its beginning.

    OSError (TimeoutError, ConnectionError among them) whenever QEMU does not answer.
    """

    def __init__(self, directory: str, name: str | tuple[str, ...], seconds: float) -> None:
        """Connect, take the greeting, and make QEMU ready for commands.

        Of several names, the first that is there is taken.
        """
        self._deadline = time.monotonic() + seconds
        self._waiting = b""
        names = (name,) if isinstance(name, str) else name
        self._link = patiently(directory, names, seconds)
        try:
            self._line()  # the greeting
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

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
        """Close the connection; QEMU runs on."""
        self._link.close()

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Give a command; its ``return``. HostRefused if QEMU says no, in its own words."""
        import json

        asked: dict[str, Any] = {"execute": command, "id": command}
        if arguments:
            asked["arguments"] = dict(arguments)
        self._limit()
        self._link.sendall(json.dumps(asked).encode() + b"\n")
        while True:
            answer = self._line()
            if "event" in answer or answer.get("id") not in (None, command):
                continue
            if "error" in answer:
                said = answer["error"]
                words = said.get("desc") if isinstance(said, dict) else None
                raise HostRefused(
                    f"QEMU refused {command}: {words or 'no reason given'}",
                    hint="the VM's log may tell why: hvtx vm logs NAME",
                )
            return answer.get("return")

    def status(self) -> str:
        """QEMU's run state; empty if it does not say."""
        try:
            return status_in(self.execute("query-status"))
        except HostRefused:
            return ""

    def wait_event(self, seconds: float) -> bool:
        """Whether QEMU tells of an event within that time. ConnectionError if it has ended."""
        ends = time.monotonic() + seconds
        while True:
            if b"\n" in self._waiting:
                line, _, self._waiting = self._waiting.partition(b"\n")
                if "event" in parsed(line):
                    return True
                continue
            left = ends - time.monotonic()
            if left <= 0:
                return False
            self._link.settimeout(left)
            try:
                self._more()
            except TimeoutError:
                return False

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("QEMU did not answer in time")
        self._link.settimeout(left)

    def _line(self) -> dict[str, Any]:
        """The next object; bounded in time and length."""
        while b"\n" not in self._waiting:
            self._limit()
            self._more()
        line, _, self._waiting = self._waiting.partition(b"\n")
        return parsed(line)

    def _more(self) -> None:
        piece = self._link.recv(65536)
        if not piece:
            raise ConnectionError("QEMU closed the connection")
        self._waiting += piece
        if len(self._waiting) > _LONGEST_LINE:
            raise ConnectionError("QEMU sent a line without an end")
