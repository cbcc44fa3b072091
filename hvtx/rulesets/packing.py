"""Addresses as they stand in packets and in keys of sets. Pure."""

from __future__ import annotations

import _socket as socket

from hvtx.model.address import is_ipv6


def packed(address: str) -> bytes:
    """An address of either family in the network's order: 4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if is_ipv6(address) else socket.AF_INET, address)


def packed_mac(address: str) -> bytes:
    """A MAC address: 6 bytes."""
    return bytes.fromhex(address.replace(":", ""))


def link_local(mac: str) -> bytes:
    """The fe80 address that follows from a MAC (RFC 4291, appendix A)."""
    raw = packed_mac(mac)
    return b"\xfe\x80" + bytes(6) + bytes((raw[0] ^ 2,)) + raw[1:3] + b"\xff\xfe" + raw[3:]
