"""Who answers of etcd's members; the rest of it is shown by integration/cluster/test_blocks.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hvtx.engine import etcd_hosts
from hvtx.engine.etcd_hosts import EtcdHosts
from hvtx.errors import Busy
from hvtx.model.block import Cluster, Who


class Member(ThreadingHTTPServer):
    """Answers once all members were asked."""

    daemon_threads = True
    all_asked: threading.Barrier


class Handler(BaseHTTPRequestHandler):
    server: Member

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.all_asked.wait(5)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def member(all_asked: threading.Barrier) -> Iterator[str]:
    server = Member(("127.0.0.1", 0), Handler)
    server.all_asked = all_asked
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_members_are_asked_at_once() -> None:
    """One that does not answer keeps nobody waiting for the next."""
    all_asked = threading.Barrier(3)
    with ExitStack() as stack:
        answer = [stack.enter_context(member(all_asked)) for _ in range(3)]
        nobody = "http://127.0.0.1:1"
        cluster = Cluster("etcd", endpoints=(*answer, nobody), timeout=4)
        hosts = EtcdHosts(cluster, lambda: Who("one", "node1", None, "id"), lambda _: None)
        stack.callback(hosts.close)
        found = hosts.reached()
    assert [found[one] for one in answer] == [None] * 3
    assert "refused" in str(found[nobody])
    assert list(found) == [*answer, nobody]


@pytest.mark.parametrize("cut_off", [[], ["hvtx-gc.service"]])
@pytest.mark.parametrize("by", ["systemd-run", None])
def test_a_unit_that_can_ask_nobody_says_why(
    monkeypatch: pytest.MonkeyPatch, cut_off: list[str], by: str | None
) -> None:
    """Else it would look as if etcd did not answer, each hour."""
    monkeypatch.setattr(etcd_hosts, "cut_off", lambda: cut_off)
    monkeypatch.delenv("HVTX_AUTOSTART", raising=False)
    if by is not None:
        monkeypatch.setenv("HVTX_AUTOSTART", by)
    cluster = Cluster("etcd", endpoints=("http://127.0.0.1:1",), timeout=1)
    hosts = EtcdHosts(cluster, lambda: Who("one", "node1", None, "id"), lambda _: None)
    with closing(hosts), pytest.raises(Busy, match="no etcd answers") as caught:
        hosts.last_claim()
    assert ("hvtx systemd install" in caught.value.message) == bool(cut_off and by)
