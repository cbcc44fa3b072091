"""A stand-in for QEMU, Firecracker or Cloud Hypervisor: it speaks as they do, and runs no guest.

``talker.py qemu|firecracker|cloud-hypervisor ARGUMENTS…``; what it does is in ``orders.json`` of the
directory ``TALKER``, which is read again at each question; what it hears, it writes to ``heard``
there, one word a line. Formats: docs/interop/qmp-spec.rst of QEMU, the OpenAPI documents of the
other two.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

PLACE = Path(os.environ.get("TALKER", "/nonexistent"))
GREETING = {
    "QMP": {
        "version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""},
        "capabilities": ["oob"],
    }
}
STATE: list[str] = []  # what it became by itself; before that, the orders' states


def orders() -> dict[str, Any]:
    """What to do, as of now."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((PLACE / "orders.json").read_text())
        return found
    return {}


def heard(word: str) -> None:
    """Keep what was heard."""
    with open(PLACE / "heard", "a") as file:
        file.write(f"{word}\n")


def state() -> str:
    """The guest's state: each of the orders' states is said once, the last one for ever."""
    if STATE:
        return STATE[-1]
    said = [line for line in (PLACE / "heard").read_text().split("\n") if line == "state?"]
    well = "running" if sys.argv[1] == "qemu" else "Running"
    states: list[str] = orders().get("states", [well])
    return states[min(len(said), len(states)) - 1]


def powered_down(word: str) -> None:
    """What the guest makes of its power button."""
    heard(word)
    then = orders().get("powered_down", "end")
    if then == "end":
        os._exit(0)
    if then != "ignore":
        STATE.append(then)


def listen(path: str) -> socket.socket:
    """A listening socket."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(1)
    return server


def become(link: socket.socket, word: str, seconds: float) -> None:
    """Become another one by itself, as QEMU tells it: an event, nothing else; or only speak."""
    time.sleep(seconds)
    sys.stdout.write(orders().get("say_then", ""))
    sys.stdout.flush()
    if word == "end":
        os._exit(1)
    if not word:
        return
    STATE.append(word)
    event = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 1}}
    with contextlib.suppress(OSError):
        link.sendall(json.dumps(event).encode() + b"\r\n")


def lie(link: socket.socket, once: str, again: str) -> None:
    """Say what no hypervisor says: a thing, and then another one again and again."""
    with contextlib.suppress(OSError):
        link.sendall(once.encode("latin-1"))
        for _ in range(2000):
            link.sendall(again.encode("latin-1"))
            time.sleep(0.02)


def talk_qmp(link: socket.socket) -> None:
    """One client of QMP."""
    if "lie" in orders():
        lie(link, *orders()["lie"])
        return
    while orders().get("hang"):
        time.sleep(0.05)
    link.sendall(json.dumps(GREETING).encode() + b"\r\n")
    waiting = b""
    while piece := link.recv(65536):
        waiting += piece
        while b"\n" in waiting:
            line, _, waiting = waiting.partition(b"\n")
            asked = json.loads(line)
            answer: dict[str, Any] = {"return": {}, "id": asked.get("id")}
            if asked["execute"] == "query-status":
                heard("state?")
                word = state()
                answer["return"] = {"status": word, "running": word == "running"}
                if "then" in orders() and not STATE:
                    word, seconds = orders()["then"]
                    threading.Thread(target=become, args=(link, word, seconds), daemon=True).start()
            elif asked["execute"] == "system_powerdown":
                powered_down("power button")
            link.sendall(json.dumps(answer).encode() + b"\r\n")


def serve_qmp(server: socket.socket) -> None:
    """One client after the other, as QEMU does it."""
    while True:
        link, _ = server.accept()
        with link, contextlib.suppress(OSError, ValueError):
            talk_qmp(link)


def answer_http(link: socket.socket) -> None:
    """One client of an HTTP server that keeps its connections open, as both do."""
    link.settimeout(30)
    if "lie" in orders():
        lie(link, *orders()["lie"])
        return
    while request := link.recv(65536):
        while orders().get("hang"):
            time.sleep(0.05)
        method, path, _ = request.decode().split(" ", 2)
        status, body = 204, b""
        if method == "GET":
            heard("state?")
            word = state()
            if orders().get("then", [""])[0] == "end" and word == "Running":
                threading.Thread(target=become, args=(link, *orders()["then"]), daemon=True).start()
            status, body = (404, b"") if word == "404" else (200, document(path, word))
        elif path in ("/actions", "/api/v1/vm.power-button"):
            powered_down("power button")
        head = f"HTTP/1.1 {status} \r\nServer: talker\r\nConnection: keep-alive\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        link.sendall(head.encode() + b"\r\n" + body)


def document(path: str, word: str) -> bytes:
    """``InstanceInfo`` of Firecracker or ``VmInfo`` of Cloud Hypervisor."""
    if path == "/":
        told = {"app_name": "Firecracker", "id": "web", "state": word, "vmm_version": "1.12.0"}
    else:
        assert path == "/api/v1/vm.info"
        told = {"config": {"cpus": {"boot_vcpus": 1}}, "state": word, "memory_actual_size": 1}
    return json.dumps(told).encode()


def serve_http(server: socket.socket) -> None:
    """Each client by itself."""
    while True:
        link, _ = server.accept()
        threading.Thread(target=quietly, args=(link,), daemon=True).start()


def quietly(link: socket.socket) -> None:
    """Answer until the client hangs up."""
    with link, contextlib.suppress(OSError):
        answer_http(link)


def termed(_number: int, _frame: object) -> None:
    """A TERM: heard, and obeyed."""
    heard("TERM")
    os._exit(0)


def main() -> None:
    """Be a hypervisor."""
    kind, arguments = sys.argv[1], sys.argv[2:]
    (PLACE / "heard").touch()
    signal.signal(signal.SIGTERM, termed)
    sys.stdout.write(orders().get("say", ""))
    sys.stdout.flush()
    given = list(pairwise(arguments))
    if seconds := orders().get("dies_mute"):
        time.sleep(seconds)
        sys.stdout.write("no such device\n")
        sys.stdout.flush()
        os._exit(1)
    if kind == "qemu":
        for option, value in given:
            if option == "-qmp":
                path = value.removeprefix("unix:").partition(",")[0]
                threading.Thread(target=serve_qmp, args=(listen(path),), daemon=True).start()
    else:
        path = dict(given)["--api-sock" if kind == "firecracker" else "--api-socket"]
        serving = (listen(path.removeprefix("path=")),)
        threading.Thread(target=serve_http, args=serving, daemon=True).start()
    time.sleep(600)


if __name__ == "__main__":
    main()
