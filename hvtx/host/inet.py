"""Addresses as sockets and packets have them."""

from __future__ import annotations

import _socket as socket

from hvtx.model.address import is_ipv6


def socket_family(address: str) -> int:
    """AF_INET or AF_INET6, by the text of an address."""
    return socket.AF_INET6 if is_ipv6(address) else socket.AF_INET


def packed(address: str) -> bytes:
    """The 4 or 16 bytes of an address, in the order of the network. Raises OSError."""
    return socket.inet_pton(socket_family(address), address)
