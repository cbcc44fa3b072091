"""Asking hypervisors: conversations as values, and many at once over real sockets."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from hvtx.host import monitor_queries, monitor_socket, qmp, vmm_api
from hvtx.host.monitor_queries import Question, ask, ask_one

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
TAKEN = b'{"return": {}, "id": "qmp_capabilities"}\r\n'
EVENT = b'{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}\r\n'


def said(status: str) -> bytes:
    answer = {"return": {"status": status, "running": False}, "id": "query-status"}
    return json.dumps(answer).encode() + b"\r\n"


def converse(dialogue: monitor_socket.Dialogue, pieces: list[bytes]) -> tuple[list[bytes], str]:
    """What was sent, and the word at the end."""
    sent = [next(dialogue)]
    try:
        for piece in [*pieces, b""]:
            sent += [dialogue.send(piece)]
    except StopIteration as end:
        return [text for text in sent if text], end.value
    raise AssertionError("no end")


def test_qemu_is_asked_after_its_greeting():
    sent, word = converse(qmp.asks_status(), [GREETING, TAKEN, said("internal-error")])
    assert word == "internal-error"
    assert [json.loads(text)["execute"] for text in sent] == ["qmp_capabilities", "query-status"]


def test_events_and_pieces_do_not_matter():
    whole = GREETING + EVENT + TAKEN + EVENT + said("paused")
    assert converse(qmp.asks_status(), [whole[n : n + 1] for n in range(len(whole))])[1] == "paused"


@pytest.mark.parametrize(
    "answer",
    [b'{"error": {"desc": "no"}, "id": "query-status"}\n', b'{"return": 7, "id": "query-status"}\n',
     b'{"return": {"status": 7}, "id": "query-status"}\n', b'{"error": "no", "id": "query-status"}\n'],
)  # fmt: skip
def test_an_answer_without_a_state_is_an_empty_word(answer):
    assert converse(qmp.asks_status(), [GREETING, TAKEN, answer])[1] == ""


@pytest.mark.parametrize(
    "nonsense",
    [b"", b"no JSON\n", b"[]\n", b"[" * 100_000 + b"\n", b"\xff\n", b"x" * ((1 << 20) + 1),
     b"1" * 5000 + b"\n"],
)  # fmt: skip
def test_nonsense_is_a_lost_connection(nonsense):
    with pytest.raises(ConnectionError):
        converse(qmp.asks_status(), [GREETING, nonsense])


def http(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


RUNNING = b'{"id": "web", "state": "Running", "vmm_version": "1.12.0", "app_name": "Firecracker"}'


def test_an_http_answer_ends_where_its_length_says():
    answer = http(RUNNING)
    pieces = [answer[n : n + 1] for n in range(len(answer))]
    sent, word = converse(vmm_api.asks_state("/"), pieces)
    assert word == "Running"
    assert sent == [b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"]


def test_an_http_answer_without_a_length_ends_with_the_connection():
    assert converse(vmm_api.asks_state("/"), [b"HTTP/1.1 200 \r\n\r\n" + RUNNING])[1] == "Running"


@pytest.mark.parametrize(
    "answer",
    [http(b"", "404 Not Found"), b"HTTP/1.1 404 \r\nServer: x\r\n\r\n", http(b"no JSON"), http(b"[]"),
     http(b'{"state": 7}'), http(b"[" * 100_000), http(RUNNING, "500 x"), b"x", http(RUNNING)[:-9],
     b"HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n" + RUNNING[:-1]],
)  # fmt: skip
def test_an_http_answer_without_a_state_is_an_empty_word(answer):
    assert converse(vmm_api.asks_state("/"), [answer])[1] == ""


def test_an_http_answer_without_an_end_is_cut_off():
    with pytest.raises(ConnectionError):
        converse(vmm_api.asks_state("/"), [b"HTTP/1.1 200 \r\n\r\n", *[b"x" * 65536] * 20])


# -- real sockets ----------------------------------------------------------------------------------


class Servers:
    """Listening sockets in directories of their own; who connects is kept waiting."""

    def __init__(self, place: Path, number: int, backlog: int = 8) -> None:
        self.stack = ExitStack()
        self.listening = []
        self.questions = {}
        for n in range(number):
            directory = place / str(n)
            directory.mkdir()
            server = self.stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            server.bind(str(directory / "qmp.sock"))
            server.listen(backlog)
            server.settimeout(30)
            self.listening.append(server)
            names = ("monitor.sock", "qmp.sock")
            self.questions[str(n)] = Question("qmp", str(directory), names)

    def accept(self, number: int) -> socket.socket:
        link = self.listening[number].accept()[0]
        link.settimeout(30)
        return self.stack.enter_context(closing(link))

    def answer(self, link: socket.socket, word: str) -> None:
        link.sendall(GREETING)
        link.recv(65536)
        link.sendall(TAKEN)
        link.recv(65536)
        link.sendall(said(word))


@pytest.fixture
def servers(tmp_path):
    made = []

    def make(number: int, backlog: int = 8) -> Servers:
        made.append(Servers(tmp_path, number, backlog))
        return made[-1]

    yield make
    for one in made:
        one.stack.close()


def in_background(target):
    kept = []
    thread = threading.Thread(target=lambda: kept.append(target()))
    thread.start()

    def result():
        thread.join(30)
        return kept[0]

    return result


def test_a_hundred_that_hang_are_asked_at_the_same_time(servers):
    """All of them are connected before any of them has answered or run out of time."""
    those = servers(100)
    result = in_background(lambda: ask(those.questions, 30))
    links = [those.accept(n) for n in range(100)]
    those.answer(links[7], "paused")
    for link in links:
        link.close()
    assert result() == {"7": "paused"}


def test_no_more_than_a_limit_at_once(servers):
    those = servers(5)
    result = in_background(lambda: ask(those.questions, 30, at_once=2))
    first, second = those.accept(0), those.accept(1)
    for server in those.listening[2:]:
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
        server.settimeout(30)
    first.close()
    second.close()
    for n in (2, 3, 4):
        those.answer(those.accept(n), "running")
    assert result() == {"2": "running", "3": "running", "4": "running"}


def test_who_hangs_is_left_out_and_the_others_are_not(servers):
    those = servers(3)
    result = in_background(lambda: ask(those.questions, 3))
    those.answer(those.accept(1), "running")
    assert result() == {"1": "running"}


def test_those_that_there_is_no_time_for_are_left_out(servers):
    those = servers(6)
    assert ask(those.questions, 0.1, total=0.15, at_once=1) == {}
    asked = 0
    for server in those.listening:
        server.settimeout(0)
        try:
            those.stack.enter_context(closing(server.accept()[0]))
            asked += 1
        except BlockingIOError:
            pass
    assert 1 <= asked < 6


def test_who_is_busy_is_waited_for(servers, monkeypatch):
    """A full backlog: connect(2) says EAGAIN at once; it is tried again while there is time."""
    those = servers(1, backlog=0)
    refused = threading.Event()
    connect = monitor_socket.connect_first

    def watched(*given):
        try:
            return connect(*given)
        except BlockingIOError:
            refused.set()
            raise

    with monitor_socket.connect(those.questions["0"].directory, "qmp.sock", 0) as first:
        monkeypatch.setattr(monitor_socket, "connect_first", watched)
        result = in_background(lambda: ask(those.questions, 30))
        assert refused.wait(30)
        those.accept(0)
        first.close()
    those.answer(those.accept(0), "running")
    assert result() == {"0": "running"}


def test_who_is_busy_all_the_time_is_left_out(servers):
    those = servers(1, backlog=0)
    with monitor_socket.connect(those.questions["0"].directory, "qmp.sock", 0):
        assert ask(those.questions, 0.05) == {}
        with pytest.raises(TimeoutError):
            qmp.Qmp(those.questions["0"].directory, ("monitor.sock", "qmp.sock"), 0.05)


def test_our_own_socket_comes_first(servers, tmp_path):
    those = servers(1)
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(tmp_path / "0" / "monitor.sock"))
        own.listen()
        own.settimeout(30)
        result = in_background(lambda: ask(those.questions, 30))
        with own.accept()[0] as link:
            those.answer(link, "io-error")
        assert result() == {"0": "io-error"}


def test_nobody_there(tmp_path):
    (tmp_path / "stale").mkdir()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(tmp_path / "stale" / "api.sock"))
    for directory in ("stale", "absent"):
        for how in monitor_queries.DIALOGUES:
            assert ask_one(Question(how, str(tmp_path / directory), ("api.sock",))) is None
    assert ask({}) == {}
