"""The HTTP interfaces of Firecracker and Cloud Hypervisor, as far as hvtx needs them.

HTTP/1.1 over a unix socket, one request a connection: the guest's state, and switching it off.
Both keep a connection open after an answer, so its length is read from its header.
"""

from __future__ import annotations

import time

from hvtx.host.qmp import Dialogue, patiently

_MOST = 1 << 20  # bytes; Cloud Hypervisor tells the whole configuration with the state
_PIECE = 65536

REQUESTS = {
    # x86 only: the guest's init must take Ctrl-Alt-Del for a request to end, as most do
    "ctrl-alt-del api": ("/actions", b'{"action_type": "SendCtrlAltDel"}'),
    "power-button api": ("/api/v1/vm.power-button", b""),
}
STATES = {"firecracker api": "/", "cloud-hypervisor api": "/api/v1/vm.info"}


def request(path: str, body: bytes, method: str = "PUT") -> bytes:
    """The text of a request (pure)."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Accept: application/json",
        *(("Content-Type: application/json", f"Content-Length: {len(body)}") if body else ()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def asks_state(path: str) -> Dialogue:
    """Ask for ``state`` in the object at ``path``; empty where there is none (yet)."""
    answer = b""
    asked = request(path, b"", "GET")
    while not whole(answer):
        came = yield asked
        asked = b""
        if not came:
            break
        answer += came
        if len(answer) > _MOST:
            raise ConnectionError("an answer without an end")
    return state_in(answer)


def whole(answer: bytes) -> bool:
    """Whether an answer has all that its header promises; without a length, its end is the end."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value[:20])
    return succeeded(head) is False  # an error without a body


def succeeded(answer: bytes) -> bool:
    """Whether an answer's status is 2xx."""
    words = answer.split(b" ", 2)
    return len(words) > 1 and words[1].startswith(b"2")


def state_in(answer: bytes) -> str:
    """``state`` in the object of a successful answer, else empty."""
    import json

    head, _, body = answer.partition(b"\r\n\r\n")
    if not succeeded(head):
        return ""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    word = found.get("state") if isinstance(found, dict) else None
    return word if isinstance(word, str) else ""


def power_off(directory: str, how: str, seconds: float, socket_name: str = "api.sock") -> bool:
    """Ask the guest to switch off, by a key of ``REQUESTS``; whether it was taken (status 2xx).

    OSError if nobody answers on the socket within that time.
    """
    path, body = REQUESTS[how]
    deadline = time.monotonic() + seconds
    with patiently(directory, (socket_name,), seconds) as link:
        link.sendall(request(path, body))
        answer = b""
        while b"\r\n" not in answer and len(answer) < _MOST:
            link.settimeout(max(0.001, deadline - time.monotonic()))
            piece = link.recv(_PIECE)
            if not piece or time.monotonic() > deadline:
                break
            answer += piece
    return succeeded(answer)
