"""What a hypervisor says is data of somebody else, who may say anything, at any speed, for ever.

Every lie is told over real sockets to each way of asking. It ends by its own in half a minute; hvtx
has hung up long before, which is what the liar reports. Nothing here reads a clock.
"""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.errors import HostRefused
from hvtx.host import console, monitor_socket, qmp, vmm_api
from hvtx.host.monitor_queries import Question, ask_one

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
TAKEN = b'{"return": {}, "id": "qmp_capabilities"}\r\n'
EVENT = b'{"event": "STOP"}\n'
OK = b"HTTP/1.1 200 \r\n"
STATUS = b'{"return": {"status": "running"}, "id": "query-status"}\n'
RUNNING = b'{"state": "Running"}'
SECONDS = 0.3
TURNS = 100  # of 0.3 s each: a liar's life


def answer(text: str) -> bytes:
    return text.encode() + b"\n"


def deep(number: int, *, end: bool) -> bytes:
    return b'{"return": ' + b"[" * number + (b"]" * number + b"}" if end else b"") + b"\n"


# What is said once, and nothing after it. The first answer is to qmp_capabilities.
QMP = {
    "nothing": b"",
    "half a greeting": GREETING[:9],
    "a text as error": GREETING + answer('{"error": "no"}'),
    "a list as error": GREETING + answer('{"error": ["no"], "id": "qmp_capabilities"}'),
    "null as error": GREETING + answer('{"error": null, "id": "qmp_capabilities"}'),
    "a number as error": GREETING + answer('{"error": 7}'),
    "a list as its words": GREETING + answer('{"error": {"desc": ["no"]}}'),
    "a text as answer": GREETING + answer('{"return": "no"}') * 9,
    "no answer": GREETING + answer("{}"),
    "an answer to others": GREETING + answer('{"return": {}, "id": "other"}') * 9,
    "an answer to a list": GREETING + answer('{"return": {}, "id": [{}]}') * 9,
    "lists": answer("[]") * 9,
    "deep lists": GREETING + deep(100_000, end=False),
    "deep whole lists": GREETING + deep(900, end=True),
    "NaN": GREETING + answer('{"return": NaN}'),
    "a huge number": GREETING + answer('{"return": ' + "1" * 5000 + "}"),
    "a huge float": GREETING + answer('{"return": 1e99999}') * 9,
    "no UTF-8": GREETING + b'{"return": "\xff"}\n',
    "UTF-32": GREETING + '{"return": "\ud800"}\n'.encode("utf-32", "surrogatepass"),
    "a key twice": GREETING + answer('{"return": {}, "return": {}}'),
    "a state as list": GREETING + TAKEN + STATUS.replace(b'"running"', b'["running"]'),
    "half a character": GREETING + TAKEN + STATUS.replace(b"running", rb"\ud800"),
    "commands of a terminal": GREETING + TAKEN + STATUS.replace(b"running", rb"\u001b[2J"),
    "a long word": GREETING + TAKEN + STATUS.replace(b"running", b"running" * 999),
    "greetings": GREETING * 2000,
    "events": EVENT * 2000,
}
# What is said again and again.
QMP_WITHOUT_END = {
    "events": (GREETING, EVENT * 1000),
    "dripping events": (GREETING + TAKEN, EVENT),
    "dripping blanks": (GREETING, b" "),
    "a greeting": (b"", b"x" * 65536),
    "a dripping greeting": (b"{", b" "),
}
HTTP = {
    "nothing": b"",
    "half a status": b"HTTP/1.1 2",
    "no status": OK.replace(b"200", b"2OO") + b"\r\n" + RUNNING,
    "another protocol": b"RTSP/1.0 200 \r\nContent-Length: 20\r\n\r\n" + RUNNING,
    "an absurd length": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a great length": OK + b"Content-Length: 99999999\r\n\r\n",
    "a negative length": OK + b"Content-Length: -1\r\n\r\n",
    "two lengths": OK + b"Content-Length: 20\r\nContent-Length: 2\r\n\r\n" + RUNNING,
    "pieces": OK + b"Transfer-Encoding: chunked\r\n\r\n14\r\n" + RUNNING + b"\r\n0\r\n\r\n",
    "go on": b"HTTP/1.1 100 Continue\r\n\r\n" * 99,
    "a great header": OK + b"X: y\r\n" * 9000,
    "deep lists": OK + b"Content-Length: 100000\r\n\r\n" + b"[" * 100_000,
    "NaN": OK + b'Content-Length: 14\r\n\r\n{"state": NaN}',
    "no UTF-8": OK + b'Content-Length: 14\r\n\r\n{"state": "\xff"}',
    "half a character": OK + b'Content-Length: 19\r\n\r\n{"state": "\\ud800"}',
    "a long word": OK + b"Content-Length: 9012\r\n\r\n" + RUNNING.replace(b"R", b"R" * 8993),
    "a huge number": OK + b"Content-Length: 5011\r\n\r\n" + b'{"state": ' + b"1" * 5000 + b"}",
}  # fmt: skip
HTTP_WITHOUT_END = {
    "a dripping status": (b"", b"H"),
    "dripping headers": (OK, b"X: y\r\n"),
    "headers": (OK, b"X: y\r\n" * 10_000),
    "a body": (OK + b"\r\n", b"x" * 65536),
    "a dripping body": (OK + b"Content-Length: 1000000\r\n\r\n", b" "),
}


class Liar:
    """A socket ``qmp.sock`` that says a thing to whoever connects, and another one for ever."""

    def __init__(self, place: Path, once: bytes, again: bytes = b"") -> None:
        self.place = str(place)
        self.ends = threading.Event()
        self.hung_up: list[bool] = []  # by client: whether it went before we did
        self._once, self._again = once, again
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(place / "qmp.sock"))
        self._server.listen()
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        while not self.ends.is_set():
            with suppress(OSError):
                link, _ = self._server.accept()
                thread = threading.Thread(target=self._talk, args=(link,))
                self._threads.append(thread)
                thread.start()

    def _talk(self, link: socket.socket) -> None:
        with link:
            link.settimeout(TURNS * SECONDS)
            try:
                link.sendall(self._once)
                self.hung_up.append(self._is_heard_out(link))
            except OSError:  # the client went in our middle
                self.hung_up.append(True)

    def _is_heard_out(self, link: socket.socket) -> bool:
        hasty = len(self._again) > 100
        for _ in range(100_000 if hasty else TURNS * 10):
            if self._again:
                link.sendall(self._again)
            came, _, _ = select.select([link], [], [], 0 if hasty else SECONDS / 10)
            if (came and not link.recv(65536)) or self.ends.is_set():
                return not self.ends.is_set()
        return False

    def close(self) -> None:
        """End it; whether each client had hung up by itself."""
        self.ends.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def liars(tmp_path: Path) -> Iterator[Callable[..., Liar]]:
    made: list[Liar] = []

    def make(*given: bytes) -> Liar:
        made.append(Liar(tmp_path, *given))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ask_qmp(place: str) -> str:
    """The word of QEMU by the talk that a start and a stop hold; empty if there is none."""
    try:
        with qmp.Qmp(place, ("qmp.sock",), SECONDS) as qemu:
            said = qemu.status()
            qemu.execute("system_powerdown")
            return said
    except (OSError, HostRefused):
        return ""


def settled(liar: Liar, clients: int) -> list[bool]:
    """Who hung up, once all have."""
    for _ in range(300):
        if len(liar.hung_up) >= clients:
            break
        liar.ends.wait(0.1)
    return liar.hung_up


@pytest.mark.parametrize("lie", QMP)
def test_a_lie_of_qemu(lie: str, liars: Callable[..., Liar]) -> None:
    liar = liars(QMP[lie])
    assert ask_one(Question("qmp", liar.place, ("qmp.sock",)), SECONDS) in (None, "")
    assert ask_qmp(liar.place) == ""
    assert settled(liar, 2) == [True, True]


@pytest.mark.parametrize("lie", QMP_WITHOUT_END)
def test_a_lie_of_qemu_without_an_end(lie: str, liars: Callable[..., Liar]) -> None:
    liar = liars(*QMP_WITHOUT_END[lie])
    assert ask_one(Question("qmp", liar.place, ("qmp.sock",)), SECONDS) in (None, "")
    assert ask_qmp(liar.place) == ""
    assert settled(liar, 2) == [True, True]


@pytest.mark.parametrize("lie", {**HTTP, **HTTP_WITHOUT_END})
def test_a_lie_over_http(lie: str, liars: Callable[..., Liar]) -> None:
    once, again = HTTP_WITHOUT_END.get(lie, (HTTP.get(lie, b""), b""))
    liar = liars(once, again)
    question = Question("cloud-hypervisor api", liar.place, ("qmp.sock",))
    assert ask_one(question, SECONDS) in (None, "")
    with suppress(OSError):  # it may say yes, and then not do it
        vmm_api.power_off(liar.place, "power-button api", SECONDS, "qmp.sock")
    assert settled(liar, 2) == [True, True]


def test_refusals_are_told_in_a_few_printable_words(liars: Callable[..., Liar]) -> None:
    told = json.dumps({"error": {"desc": "\x1b[2J\ud800 no\n" + "x" * 99_999}})
    liar = liars(GREETING + told.encode() + b"\n")
    with pytest.raises(HostRefused) as refused:
        qmp.Qmp(liar.place, ("qmp.sock",), 30)
    assert refused.value.message.startswith("QEMU refused qmp_capabilities: ?[2J? no?xxx")
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("text", [b"{}", b'{"a": "[[[[' + b"[" * 99 + b'\\""}', b'{"a": [[{}]]}'])
def test_brackets_in_texts_are_no_depth(text: bytes) -> None:
    assert monitor_socket.parsed(text) == json.loads(text)


# -- where it is said ------------------------------------------------------------------------------


def test_a_link_to_the_socket_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    """A hypervisor that is broken into would have another VM powered down by who stops its own."""
    other, own = tmp_path / "other", tmp_path / "own"
    other.mkdir()
    own.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(other / "qmp.sock"))
        server.listen()
        server.settimeout(0)
        (own / "qmp.sock").symlink_to(other / "qmp.sock")
        with pytest.raises(OSError, match="not a socket"):
            monitor_socket.connect(str(own), "qmp.sock", 1)
        assert ask_one(Question("qmp", str(own), ("qmp.sock",)), SECONDS) is None
        assert ask_qmp(str(own)) == ""
        with pytest.raises(OSError, match="not a socket"):
            vmm_api.power_off(str(own), "power-button api", SECONDS, "qmp.sock")
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_second_name_of_the_socket_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    """A hard link is no link that could be left unfollowed; what hypervisors make has one name."""
    (tmp_path / "other").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "other/service.sock"))
        server.listen()
        server.settimeout(0)
        os.link(tmp_path / "other/service.sock", tmp_path / "qmp.sock")
        with pytest.raises(OSError, match="a socket that has 2 names"):
            monitor_socket.connect(str(tmp_path), "qmp.sock", 1)
        assert ask_qmp(str(tmp_path)) == ""
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("what", ["a pipe", "a file", "a directory", "a link to itself"])
def test_what_is_no_socket_is_not_waited_for(tmp_path: Path, what: str) -> None:
    path = tmp_path / "qmp.sock"
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a file":
        path.write_text("x")
    elif what == "a directory":
        path.mkdir()
    else:
        path.symlink_to(path)
    with pytest.raises(OSError, match="not a socket"):
        monitor_socket.connect(str(tmp_path), "qmp.sock", 1)
    assert ask_one(Question("qmp", str(tmp_path), ("qmp.sock",)), SECONDS) is None
    assert ask_qmp(str(tmp_path)) == ""


def test_a_console_that_takes_no_keys_can_be_left() -> None:
    """In raw mode nothing but Ctrl-] would do it."""
    ours, theirs = socket.socketpair()
    keyboard, terminal = pty.openpty()
    sink = os.open(os.devnull, os.O_WRONLY)
    thread = threading.Thread(target=console.bridge, args=(ours, terminal, sink), daemon=True)
    try:
        with suppress(BlockingIOError):
            ours.setblocking(False)
            while True:
                ours.send(b"x" * 65536)
        thread.start()
        for _ in range(3000):
            if not termios.tcgetattr(terminal)[3] & termios.ICANON:
                break
            thread.join(0.01)
        os.write(keyboard, b"keys" + console.LEAVE)
        thread.join(30)
        assert not thread.is_alive()
    finally:
        theirs.close()
        thread.join(30)
        for descriptor in (keyboard, terminal, sink):
            os.close(descriptor)
        ours.close()


# -- anything at all -------------------------------------------------------------------------------

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([GREETING, TAKEN, EVENT, STATUS, OK, b"\r\n", RUNNING, b'{"error": "no"}\n',
                         b"Content-Length: 20\r\n", b'{"return": ', b"[", b"}", b"\n"]),
    ),
    max_size=12,
)  # fmt: skip


@given(PIECES)
def test_whatever_is_said_is_a_word_or_a_lost_connection(pieces: list[bytes]) -> None:
    for dialogue in (
        qmp.asks_status(),
        vmm_api.asks_state("/"),
        vmm_api.asks_power_off("power-button api"),
    ):
        next(dialogue)
        try:
            for piece in [*(p for p in pieces if p), b"", b""]:
                dialogue.send(piece)
        except StopIteration as end:
            assert monitor_socket.word(end.value) == end.value
        except ConnectionError:
            pass
