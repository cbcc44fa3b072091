"""Frees the address of a guest that is gone: a DHCPRELEASE (RFC 2131) to a dnsmasq of ours.

dnsmasq keeps the name that it found for a lease as long as the lease, which is longer than the
file that the name was in (`findings/dnsmasq-lease-keeps-a-name.sh`).
"""

from __future__ import annotations

import socket
import struct

_PORT = 67
_ETHERNET, _REQUEST = 1, 1
_COOKIE = b"\x63\x82\x53\x63"
_TYPE, _SERVER, _END = 53, 54, b"\xff"
_RELEASE = 7


def message(server: str, address: str, mac: str) -> bytes:
    """The message; without a client identifier, so that the lease is found by the MAC address."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    packed = socket.inet_aton(server)
    return b"".join((
        struct.pack("!4B8x4s12x16s192x", _REQUEST, _ETHERNET, len(hardware), 0,
                    socket.inet_aton(address), hardware),
        _COOKIE,
        bytes((_TYPE, 1, _RELEASE)),
        bytes((_SERVER, len(packed))), packed,
        _END,
    ))  # fmt: skip


def send(device: str, server: str, address: str, mac: str) -> None:
    """Release ``address`` of ``mac`` at the DHCP server of the bridge ``device``.

    ``server`` is the address of this host that the lease names. The server answers nothing, and
    takes for the packet's device the one that the socket is bound to. Raises OSError.
    """
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_INET, kind) as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        asking.sendto(message(server, address, mac), (server, _PORT))
