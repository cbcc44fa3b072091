"""The HTTP interfaces of Firecracker and Cloud Hypervisor, as far as hvtx needs them.

HTTP/1.1 over a unix socket, one request a connection: the guest's state, and switching it off.
Both keep a connection open after an answer, so its length is read from its header.
"""

from __future__ import annotations

import re

from hvtx.host.monitor_socket import MOST, Dialogue, MonitorSocket, parsed, word

_LONGEST_HEAD = 16384  # bytes; theirs have some 100
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?:[ \r]|$)")

REQUESTS = {
    # x86 only: the guest's init must take Ctrl-Alt-Del for a request to end, as most do
    "ctrl-alt-del api": ("/actions", b'{"action_type": "SendCtrlAltDel"}'),
    "power-button api": ("/api/v1/vm.power-button", b""),
}
STATES = {"firecracker api": "/", "cloud-hypervisor api": "/api/v1/vm.info"}
_TAKEN = "taken"


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
        if len(answer) > MOST:
            raise ConnectionError("an answer without an end")
    return state_in(answer)


def asks_power_off(how: str) -> Dialogue:
    """Ask the guest to switch off, by a key of ``REQUESTS``; empty if that is not taken."""
    answer = b""
    asked = request(*REQUESTS[how])
    while b"\r\n" not in answer:
        came = yield asked
        asked = b""
        answer += came
        if not came or len(answer) > _LONGEST_HEAD:
            break
    return _TAKEN if succeeded(answer) else ""


def whole(answer: bytes) -> bool:
    """Whether an answer has all that its header promises; without a length, its end is the end.

    ConnectionError for a header without an end, for more than a talk may have, and for a body in
    pieces, which was not asked for.
    """
    head, blank, body = answer.partition(b"\r\n\r\n")
    if len(head) > _LONGEST_HEAD:
        raise ConnectionError("a header without an end")
    if not blank:
        return False
    told = [line.partition(b":") for line in head.lower().split(b"\r\n")[1:]]
    if any(name.strip() == b"transfer-encoding" for name, _, _ in told):
        raise ConnectionError("an answer in pieces")
    lengths = {value.strip() for name, _, value in told if name.strip() == b"content-length"}
    if len(lengths) > 1:
        raise ConnectionError("an answer of two lengths")
    for length in lengths:
        if length.isdigit():
            if len(length) > len(str(MOST)) or int(length) > MOST:
                raise ConnectionError("an answer that is too long")
            return len(body) >= int(length)
    return not succeeded(head)  # an error without a body


def succeeded(answer: bytes) -> bool:
    """Whether an answer's status is 2xx."""
    found = _STATUS.match(answer)
    return found is not None and found[1].startswith(b"2")


def state_in(answer: bytes) -> str:
    """``state`` in the object of a successful answer, else empty."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not succeeded(head):
        return ""
    try:
        return word(parsed(body).get("state"))
    except ConnectionError:
        return ""


def power_off(directory: str, how: str, seconds: float, socket_name: str = "api.sock") -> bool:
    """Ask the guest to switch off, by a key of ``REQUESTS``; whether it was taken (status 2xx).

    OSError if nobody answers on the socket within that time.
    """
    with MonitorSocket(directory, (socket_name,), seconds) as talk:
        return talk.hold(asks_power_off(how)) == _TAKEN
