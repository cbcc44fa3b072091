"""Queries to the monitors of many hypervisors at once, bounded in time, by one loop.

Who does not answer in time costs its own time only, and those that hang hang together: a hundred
of them cost as long as one. An answer is a word of the hypervisor's; what it means is said
elsewhere (:mod:`hvtx.hypervisors.guest`).
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping

from hvtx.host import monitor_socket as sockets
from hvtx.host import qmp, vmm_api
from hvtx.host.monitor_socket import Dialogue
from hvtx.model.typed import NamedTuple

SECONDS = 0.5  # for one answer: QEMU gives it from its main loop, within a millisecond if idle
TOTAL_SECONDS = 5.0  # for all: thousands are asked in turns
AT_ONCE = 256  # as many descriptors, of the 1,024 that a process usually has
_BUSY_MS = 10
_PIECE = 65536

DIALOGUES: Mapping[str, Callable[[], Dialogue]] = {
    "qmp": qmp.asks_status,
    "firecracker api": lambda: vmm_api.asks_state(vmm_api.STATES["firecracker api"]),
    "cloud-hypervisor api": lambda: vmm_api.asks_state(vmm_api.STATES["cloud-hypervisor api"]),
}


class Question(NamedTuple):
    """Whom to ask, and how."""

    how: str  # a key of DIALOGUES
    directory: str
    sockets: tuple[str, ...]  # names in it; the first that is there is asked


class _Talk:
    """One question on its way to an answer."""

    def __init__(self, name: str, question: Question, deadline: float) -> None:
        self.name = name
        self.deadline = deadline
        self.link: socket.socket | None = None
        self._question = question
        self._dialogue = DIALOGUES[question.how]()

    def connect(self) -> socket.socket | None:
        """Connect and begin; None while others wait to be accepted. OSError."""
        question = self._question
        try:
            self.link = sockets.connect_first(question.directory, question.sockets, 0)
        except BlockingIOError:
            return None
        self._send(next(self._dialogue))
        return self.link

    def go_on(self) -> str | None:
        """Take what came; the word that was asked for, None before it is there. OSError."""
        if self.link is None:
            return None
        try:
            came = self.link.recv(_PIECE)
        except BlockingIOError:
            return None
        try:
            self._send(self._dialogue.send(came))
        except StopIteration as end:
            return str(end.value)
        return None

    def close(self) -> None:
        if self.link is not None:
            self.link.close()

    def _send(self, text: bytes) -> None:
        if text and self.link is not None:
            self.link.sendall(text)  # some dozens of bytes into an empty socket


class _Round:
    """The talks that are open."""

    def __init__(self) -> None:
        self.words: dict[str, str] = {}
        self._poll = select.poll()
        self._talks: dict[int, _Talk] = {}  # by descriptor
        self._outside: list[_Talk] = []  # not accepted yet

    def __len__(self) -> int:
        return len(self._talks) + len(self._outside)

    def begin(self, talk: _Talk) -> None:
        """Connect; who cannot be reached is left out."""
        try:
            link = talk.connect()
        except OSError:
            talk.close()
            return
        if link is None:
            self._outside.append(talk)
            return
        self._talks[link.fileno()] = talk
        self._poll.register(link, select.POLLIN)

    def step(self) -> None:
        """Wait until something comes or somebody's time is over."""
        outside, self._outside = self._outside, []
        now = time.monotonic()
        for talk in outside:
            if talk.deadline > now:
                self.begin(talk)
        if len(self):
            for number, _ in self._poll.poll(self._milliseconds(now)):
                self._take(number)
        now = time.monotonic()
        for number in [n for n, talk in self._talks.items() if talk.deadline <= now]:
            self._end(number)

    def _milliseconds(self, now: float) -> int:
        ends = min((talk.deadline for talk in self._talks.values()), default=now)
        left = max(0, int((ends - now) * 1000) + 1)
        if self._outside:
            return min(left, _BUSY_MS) if self._talks else _BUSY_MS
        return left

    def close(self) -> None:
        """Hang up on who has not answered."""
        for number in list(self._talks):
            self._end(number)

    def _take(self, number: int) -> None:
        talk = self._talks[number]
        try:
            word = talk.go_on()
        except OSError:
            self._end(number)
            return
        if word is not None:
            self.words[talk.name] = word
            self._end(number)

    def _end(self, number: int) -> None:
        self._poll.unregister(number)
        self._talks.pop(number).close()


def ask(
    questions: Mapping[str, Question],
    seconds: float = SECONDS,
    total: float = TOTAL_SECONDS,
    at_once: int = AT_ONCE,
) -> dict[str, str]:
    """The word of each that answered within ``seconds``, by the name of its question.

    Who cannot be reached, says nonsense, or is not come to within ``total`` seconds is left out.
    """
    ends = time.monotonic() + total
    waiting = list(questions.items())[::-1]
    open_ = _Round()
    try:
        while (waiting and time.monotonic() < ends) or len(open_):
            while waiting and len(open_) < at_once:
                name, question = waiting.pop()
                open_.begin(_Talk(name, question, time.monotonic() + seconds))
            open_.step()
    finally:
        open_.close()
    return open_.words


def ask_one(question: Question, seconds: float = SECONDS) -> str | None:
    """The word of one, None if it did not answer."""
    return ask({"": question}, seconds).get("")
