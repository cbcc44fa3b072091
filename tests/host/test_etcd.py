"""The client of etcd's JSON gateway, against a server that answers what it is told to."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import etcd
from hvtx.host.etcd import Etcd, Kv, Unanswered

HEADER = {"cluster_id": "77", "revision": "9"}


class Server(ThreadingHTTPServer):
    """Answers ``(status, text)``; None: closes the connection once it has heard the question."""

    answer: tuple[int, str] | None = (200, json.dumps({"header": HEADER, "succeeded": True}))
    heard: list[dict[str, object]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(json.loads(asked))
        if self.server.answer is None:
            self.close_connection = True
            return
        status, text = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.heard = []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def at(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def at_port(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def client(*endpoints: str, timeout: float = 2) -> Iterator[Etcd]:
    made = Etcd(endpoints, timeout=timeout)
    try:
        yield made
    finally:
        made.close()


def test_keys_and_values_are_base64_and_back() -> None:
    with serving() as server, client(at(server)) as asked:
        kv = {"key": b64encode(b"/k").decode(), "value": b64encode("ä".encode()).decode()}
        server.answer = (
            200,
            json.dumps({"header": HEADER, "responses": [{"response_range": {"kvs": [kv]}}, {}]}),
        )
        reply = asked.txn([etcd.absent("/k")], [etcd.put("/k", "ä")], [etcd.get("/k")] * 2)
    assert server.heard == [
        {
            "compare": [
                {"key": "L2s=", "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
            ],
            "success": [{"request_put": {"key": "L2s=", "value": "w6Q="}}],
            "failure": [{"request_range": {"key": "L2s="}}] * 2,
        }
    ]
    assert reply == (False, ((Kv("/k", "ä"),), ()), "77", 9)


def test_a_question_without_an_answer_is_asked_of_the_next() -> None:
    """Who heard it may have done it: what is asked comes to the same twice."""
    with serving() as first, serving() as second, client(at(first), at(second)) as asked:
        first.answer = None
        assert asked.txn([], []).succeeded
        assert len(first.heard) == len(second.heard) == 1
        assert asked.txn([], []).succeeded
        assert (len(first.heard), len(second.heard)) == (1, 2)  # who answered last is asked first


@pytest.mark.parametrize(
    "answer",
    [
        None,
        (503, '{"error": "etcdserver: request timed out", "code": 14}'),
        (503, "no JSON"),
        (500, '{"error": "whatever", "code": 2}'),
        (408, '{"error": "deadline", "code": 4}'),
        (200, '{"error": "etcdserver: leader changed", "code": 14}'),
    ],
)
def test_what_is_no_decision_is_unknown(answer: tuple[int, str] | None) -> None:
    with serving() as server, client(at(server)) as asked:
        server.answer = answer
        with pytest.raises(Unanswered):
            asked.txn([], [])


@pytest.mark.parametrize(
    "answer",
    [
        (400, '{"error": "duplicate key", "code": 3}'),
        (400, '{"error": "x", "code": []}'),
        (200, "<html>"),
        (404, "[]"),
        (200, "{}"),
        (200, '{"header": null, "succeeded": true}'),
        (200, '{"header": {"cluster_id": "1", "revision": "many"}, "succeeded": true}'),
        (200, '{"header": {"cluster_id": "1", "revision": "2"}, "responses": [{}]}'),
        (200, '{"header": {"cluster_id": "1", "revision": "2"}, "responses": null}'),
    ],
)
def test_an_answer_that_is_no_etcds_is_told(answer: tuple[int, str]) -> None:
    with serving() as server, client(at(server)) as asked:
        server.answer = answer
        with pytest.raises(HostRefused):
            asked.txn([], [])


def test_one_that_accepts_and_is_silent_costs_its_share_of_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, serving() as server:
        mute = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with client(mute, at(server), timeout=4) as asked:
            assert asked.txn([], []).succeeded
            assert "timed out" in asked.failures[mute]


@pytest.mark.parametrize(
    ("head", "drops"),
    [(b"HTTP/1.1 200 ", b"x"), (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b" ")],
    ids=["headers", "body"],
)
def test_one_that_drips_has_its_share_of_the_time_too(head: bytes, drops: bytes) -> None:
    """A byte comes at a time, each well before who waits for it gives up."""
    sent = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.send(head)
                for number in range(90):
                    time.sleep(0.1)
                    connection.send(drops)
                    sent.append(number)

        thread = threading.Thread(target=answer)
        thread.start()
        with client(at_port(listener), timeout=0.5) as asked, pytest.raises(Unanswered):
            asked.txn([], [])
        thread.join()
    assert len(sent) < 90, "it was heard out"


def test_a_port_that_nobody_listens_on_is_told_in_words() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        where = f"http://127.0.0.1:{bound.getsockname()[1]}"
        asked = etcd.Etcd([where], timeout=2)
        with pytest.raises(etcd.Unanswered):
            asked.txn([], [])
    assert asked.failures == {where: "Connection refused"}


def test_no_endpoint_at_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with client(f"http://127.0.0.1:{port}") as asked, pytest.raises(Unanswered, match="refused"):
        asked.txn([], [])


def tls(base: Path, name: str, *more: str) -> tuple[str, str]:
    """A certificate that signs itself, and its key."""
    cert, key = str(base / f"{name}.pem"), str(base / f"{name}.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=etcd",
         "-addext", "subjectAltName=IP:127.0.0.1", *(more or ("-nodes",))],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """Python's own error of a file that is not there has no name in it."""
    cert, key = tls(tmp_path, "one")
    _, other = tls(tmp_path, "other")
    text = tmp_path / "text"
    text.write_text("no PEM")
    for files, words in (
        ({"ca": "/nonexistent"}, "ca /nonexistent of [cluster] cannot be used: No such file"),
        ({"ca": str(text)}, f"ca {text} of"),
        ({"cert": "/none", "key": key}, "cert /none of [cluster] cannot be used: No such file"),
        ({"cert": cert, "key": "/none"}, "key /none of"),
        ({"cert": str(text), "key": key}, f"cert {text} with key {key} of"),
        ({"cert": cert, "key": other}, f"cert {cert} with key {other} of [cluster] cannot be used: key values"),
    ):  # fmt: skip
        asked = Etcd(["https://127.0.0.1:1"], timeout=1, **files)
        with pytest.raises(HostRefused) as caught:
            asked.txn([], [])
        assert words in caught.value.message, caught.value.message
        assert "_ssl.c" not in caught.value.message


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_no_certificate_is_waited_for(which: str, tmp_path: Path) -> None:
    """Of a pipe that nobody writes to the end does not come."""
    cert, key = tls(tmp_path, "one")
    os.mkfifo(tmp_path / "pipe")
    files = {"ca": cert, "cert": cert, "key": key, which: str(tmp_path / "pipe")}
    asked = Etcd(["https://127.0.0.1:1"], timeout=1, **files)
    with pytest.raises(HostRefused, match=f"^{which} .*pipe of .cluster. cannot be used: it is a"):
        asked.txn([], [])


def test_a_ca_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    """It says whom hosts believe that blocks are theirs."""
    (tmp_path / "shared").mkdir()
    cert, _ = tls(tmp_path / "shared", "one")
    for place, mode in ((tmp_path / "shared", 0o777), (Path(cert), 0o666)):
        before = place.stat().st_mode
        place.chmod(mode)
        asked = Etcd(["https://127.0.0.1:1"], timeout=1, ca=cert)
        with pytest.raises(NotPermitted, match=f"refusing to use ca {cert} of .cluster.: ") as told:
            asked.txn([], [])
        assert "chmod go-w" in str(told.value.hint)
        place.chmod(before)
    with pytest.raises(Unanswered, match="refused"):
        Etcd(["https://127.0.0.1:1"], timeout=1, ca=cert).txn([], [])


def test_nobody_is_asked_for_the_passphrase_of_a_key(tmp_path: Path) -> None:
    """OpenSSL would ask whoever sits at the terminal, once for each question to etcd."""
    cert, key = tls(tmp_path, "locked", "-passout", "pass:secret")
    asked = Etcd(["https://127.0.0.1:1"], timeout=1, cert=cert, key=key)
    with pytest.raises(HostRefused, match="is encrypted") as caught:
        asked.txn([], [])
    assert f"openssl pkey -in {key}" in str(caught.value.hint)


@contextmanager
def over_tls(cert: str, key: str) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with serving() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield f"https://127.0.0.1:{server.server_address[1]}"


def test_why_tls_was_refused_is_told_in_words(tmp_path: Path) -> None:
    (cert, key), (stranger, _) = tls(tmp_path, "one"), tls(tmp_path, "other")
    with over_tls(cert, key) as where:
        asked = Etcd([where], timeout=5, ca=stranger)
        with pytest.raises(Unanswered, match="its certificate is not believed: self-signed"):
            asked.txn([], [])
        asked.close()
    with serving() as server:
        asked = Etcd([at(server).replace("http", "https")], timeout=5, ca=cert)
        with pytest.raises(Unanswered) as caught:
            asked.txn([], [])
        asked.close()
    assert "ssl.c" not in str(caught.value)


def test_all_below_a_prefix_end_before_the_next_letter() -> None:
    assert etcd.below("/a/")["request_range"]["range_end"] == b64encode(b"/a0").decode()
