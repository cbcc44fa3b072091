"""QEMU's machine protocol, as little of it as starting and stopping needs.

JSON objects, one a line (docs/interop/qmp-spec.rst of QEMU): a greeting, then
``qmp_capabilities``, after which commands are taken; events come between answers and are passed
over. QEMU speaks with one client at a time; the next one waits without a greeting.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from types import TracebackType

from hvtx.errors import HostRefused
from hvtx.host.monitor_socket import MOST, Dialogue, MonitorSocket, parsed, sentence, word
from hvtx.model.typed import Any, Self

_MOST_OBJECTS = 1000  # objects in a talk; QEMU sends some ten

_Said = Generator[bytes, bytes, dict[str, Any]]


class Stream:
    """What came of one QEMU, cut into its objects (pure)."""

    def __init__(self) -> None:
        """Begin before the greeting."""
        self._waiting = bytearray()
        self._came = 0
        self._number = 0

    def take(self, came: bytes) -> None:
        """Take what came. ConnectionError if that is the end."""
        if not came:
            raise ConnectionError("QEMU closed the connection")
        self._came += len(came)
        if self._came > MOST:
            raise ConnectionError("QEMU talks without an end")
        self._waiting += came

    def next(self) -> dict[str, Any] | None:
        """The next object; None until its line has come. ConnectionError."""
        end = self._waiting.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._waiting[:end])
        del self._waiting[: end + 1]
        self._number += 1
        if self._number > _MOST_OBJECTS:
            raise ConnectionError("QEMU talks without an end")
        return parsed(line)

    def wait(self, asked: bytes = b"") -> _Said:
        """Send ``asked``, and wait for the next object."""
        while (said := self.next()) is None:
            self.take((yield asked))
            asked = b""
        return said


def _greeting(stream: Stream) -> _Said:
    """Wait for the greeting and make QEMU ready for commands."""
    said = yield from stream.wait()
    while "QMP" not in said:
        said = yield from stream.wait()
    return (yield from _execution(stream, "qmp_capabilities"))


def _execution(stream: Stream, command: str, arguments: Mapping[str, Any] | None = None) -> _Said:
    """Give a command; the answer. HostRefused if QEMU says no, in its own words."""
    import json

    given = {"arguments": dict(arguments)} if arguments else {}
    asked = json.dumps({"execute": command, "id": command, **given}).encode() + b"\n"
    while True:
        said = yield from stream.wait(asked)
        asked = b""
        if "event" in said or said.get("id", command) != command:
            continue
        if "error" in said:
            told = said["error"]
            words = sentence(told.get("desc")) if isinstance(told, dict) else ""
            raise HostRefused(
                f"QEMU refused {command}: {words or 'no reason given'}",
                hint="the VM's log may tell why: hvtx vm logs NAME",
            )
        if "return" not in said:
            raise ConnectionError("QEMU sent something that is no answer")
        return said


def asks_status() -> Dialogue:
    """Ask QEMU for its run state: ``running``, ``internal-error`` … (query-status)."""
    stream = Stream()
    try:
        yield from _greeting(stream)
        return _status_in((yield from _execution(stream, "query-status")))
    except HostRefused:
        return ""


def _status_in(answer: dict[str, Any]) -> str:
    """The run state in an answer to query-status; empty if it has none."""
    found = answer["return"]
    return word(found.get("status")) if isinstance(found, dict) else ""


class Qmp:
    """A conversation with one QEMU; everything in it ends ``seconds`` after its beginning.

    OSError (TimeoutError, ConnectionError among them) whenever QEMU does not answer.
    """

    def __init__(self, directory: str, name: str | tuple[str, ...], seconds: float) -> None:
        """Connect to it, or to the first of several that is there; make QEMU ready for commands."""
        names = (name,) if isinstance(name, str) else name
        self._stream = Stream()
        self._talk = MonitorSocket(directory, names, seconds)
        try:
            self._talk.hold(_greeting(self._stream))
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
        self._talk.close()

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Give a command. HostRefused if QEMU says no, in its own words."""
        self._talk.hold(_execution(self._stream, command, arguments))

    def status(self) -> str:
        """QEMU's run state; empty if it does not say."""
        with suppress(HostRefused):
            return _status_in(self._talk.hold(_execution(self._stream, "query-status")))
        return ""

    def wait_event(self, seconds: float) -> bool:
        """Whether QEMU tells of an event within that time. ConnectionError if it has ended."""
        ends = time.monotonic() + seconds
        while True:
            said = self._stream.next()
            if said is not None:
                if "event" in said:
                    return True
            elif time.monotonic() >= ends:
                return False
            else:
                with suppress(TimeoutError):
                    self._stream.take(self._talk.receive(ends))
