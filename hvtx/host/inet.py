"""Addresses as sockets and packets have them, and the frames by which they are announced."""

from __future__ import annotations

import _socket as socket
import struct

from hvtx.model.address import is_ipv6

_ARP, _IP6, _ICMP6 = 0x0806, 0x86DD, 58
_ARP_REQUEST = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)  # Ethernet, IPv4, their lengths
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_ALL_NODES_MAC = bytes.fromhex("333300000001")  # RFC 2464, section 7
_NEIGHBOUR_ADVERT, _OVERRIDE, _TARGET_MAC = 136, 0x20000000, b"\x02\x01"


def socket_family(address: str) -> int:
    """AF_INET or AF_INET6, by the text of an address."""
    return socket.AF_INET6 if is_ipv6(address) else socket.AF_INET


def packed(address: str) -> bytes:
    """The 4 or 16 bytes of an address, in the order of the network. Raises OSError."""
    return socket.inet_pton(socket_family(address), address)


def announcement(mac: str, address: str) -> bytes:
    """The Ethernet frame by which an interface tells its neighbours of an address.

    IPv4: an ARP announcement (RFC 5227, section 3). IPv6: an unsolicited neighbour advertisement
    to all nodes, which overrides what they know (RFC 4861, sections 4.4 and 7.2.6). Raises OSError.
    """
    own, raw = bytes.fromhex(mac.replace(":", "")), packed(address)
    if len(raw) == 4:
        head = b"\xff" * 6 + own + struct.pack("!H", _ARP)
        return head + _ARP_REQUEST + own + raw + bytes(6) + raw
    body = raw + _TARGET_MAC + own
    fixed = _NEIGHBOUR_ADVERT << 24, _OVERRIDE
    pseudo = raw + _ALL_NODES + struct.pack("!4I", 8 + len(body), _ICMP6, *fixed) + body
    advert = struct.pack("!II", fixed[0] | checksum(pseudo), _OVERRIDE) + body
    # version, length, next header, hop limit: a neighbour believes no other
    fields = struct.pack("!IHBB", 6 << 28, len(advert), _ICMP6, 255)
    return _ALL_NODES_MAC + own + struct.pack("!H", _IP6) + fields + raw + _ALL_NODES + advert


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
