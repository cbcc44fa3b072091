"""QEMU's machine protocol, as little of it as starting and stopping needs; and unix sockets.

JSON objects, one a line (docs/interop/qmp-spec.rst of QEMU): a greeting, then
``qmp_capabilities``, after which commands are taken; events come between answers and are passed
over. QEMU speaks with one client at a time; the next one waits without a greeting.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from hvtx.errors import HostRefused

_LONGEST_LINE = 1 << 20  # bytes; answers to the commands used here have a few hundred


def connect(directory: str, name: str, seconds: float) -> socket.socket:
    """Connect to the unix socket ``name`` in ``directory``, with ``seconds`` as its timeout.

    The way through ``/proc/self/fd`` keeps the address short, whatever the directory's length: it
    may have 107 bytes (unix(7)). Raises OSError: nothing there, nobody listening, not allowed.
    """
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(seconds)
            link.connect(f"/proc/self/fd/{place}/{name}")
        except BaseException:
            link.close()
            raise
        return link
    finally:
        os.close(place)


class Qmp:
    """A conversation with one QEMU; everything in it ends ``seconds`` after its beginning.

    OSError (TimeoutError, ConnectionError among them) whenever QEMU does not answer.
    """

    def __init__(self, directory: str, name: str, seconds: float) -> None:
        """Connect, take the greeting, and make QEMU ready for commands."""
        self._deadline = time.monotonic() + seconds
        self._waiting = b""
        self._link = connect(directory, name, seconds)
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
                words = answer["error"].get("desc", "no reason given")
                raise HostRefused(
                    f"QEMU refused {command}: {words}",
                    hint="the VM's log may tell why: hvtx vm logs NAME",
                )
            return answer.get("return")

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("QEMU did not answer in time")
        self._link.settimeout(left)

    def _line(self) -> dict[str, Any]:
        """The next object; bounded in time and length."""
        import json

        while b"\n" not in self._waiting:
            self._limit()
            piece = self._link.recv(65536)
            if not piece:
                raise ConnectionError("QEMU closed the connection")
            self._waiting += piece
            if len(self._waiting) > _LONGEST_LINE:
                raise ConnectionError("QEMU sent a line without an end")
        line, _, self._waiting = self._waiting.partition(b"\n")
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
        raise ConnectionError("QEMU sent something that is no JSON object")
