"""The HTTP interfaces of Firecracker and Cloud Hypervisor, as far as switching off needs them."""

from __future__ import annotations

from hvtx.host.qmp import connect

_MOST = 65536

REQUESTS = {
    # x86 only: the guest's init must take Ctrl-Alt-Del for a request to end, as most do
    "ctrl-alt-del api": ("/actions", b'{"action_type": "SendCtrlAltDel"}'),
    "power-button api": ("/api/v1/vm.power-button", b""),
}


def request(path: str, body: bytes) -> bytes:
    """The text of a PUT request (pure)."""
    lines = [
        f"PUT {path} HTTP/1.1",
        "Host: localhost",
        "Accept: application/json",
        *(("Content-Type: application/json", f"Content-Length: {len(body)}") if body else ()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def power_off(directory: str, how: str, seconds: float, socket_name: str = "api.sock") -> bool:
    """Ask the guest to switch off, by a key of ``REQUESTS``; whether it was taken (status 2xx).

    OSError if nobody answers on the socket.
    """
    path, body = REQUESTS[how]
    with connect(directory, socket_name, seconds) as link:
        link.sendall(request(path, body))
        answer = b""
        while b"\r\n" not in answer and len(answer) < _MOST:
            piece = link.recv(_MOST)
            if not piece:
                break
            answer += piece
    words = answer.split(b" ", 2)
    return len(words) > 1 and words[1].startswith(b"2")
