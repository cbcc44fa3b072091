"""Frames as a guest or somebody in the world sends them, and what is read of those that arrive.

Pure. Addresses are packed (4 or 16 bytes), MAC addresses 6 bytes. Shapes: RFC 791, 792, 826 (IPv4,
ICMP, ARP), 8200, 4443, 4861 (IPv6, ICMPv6, neighbour discovery), 768, 9293 (UDP, TCP).
"""

from __future__ import annotations

import struct

from hvtx.host.inet import checksum
from hvtx.model.typed import NamedTuple

ARP, IP4, IP6 = 0x0806, 0x0800, 0x86DD
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
NUMBERS = {"icmp": ICMP, "tcp": TCP, "udp": UDP}
SYN, ACK, RST = 0x02, 0x10, 0x04
BROADCAST = b"\xff" * 6
_ROUTER_SOLICIT, _SOLICIT, _ADVERT = 133, 135, 136
_ECHO = {4: (8, 0), 6: (128, 129)}  # request, reply
_WINDOW = 0xFFFF
# MSS 1460 and 1440 would both do; SACK; window scale 7; padding (RFC 9293, 2018, 7323).
_OPENING = b"\x02\x04\x05\xa0" + b"\x01\x01\x04\x02" + b"\x01\x03\x03\x07"


class Packet(NamedTuple):
    """A packet as it was seen at a device."""

    device: str
    mac: bytes  # of its sender; empty where the device carries no frames
    to_mac: bytes
    family: int  # 4, 6
    protocol: int
    source: bytes
    target: bytes
    ports: tuple[int, int]  # source and destination; of an echo its identifier, twice
    flags: int  # of TCP; of ICMP the type
    number: int  # TCP's sequence number, an echo's
    acknowledged: int
    payload: bytes


class Asked(NamedTuple):
    """Somebody asks for the MAC address of ``address``."""

    device: str
    family: int
    address: bytes
    mac: bytes  # who asks
    source: bytes


class Told(NamedTuple):
    """Somebody tells the MAC address of ``address``."""

    device: str
    address: bytes
    mac: bytes


def _pseudo(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    if len(source) == 4:
        return source + target + struct.pack(">BBH", 0, protocol, length)
    return source + target + struct.pack(">II", length, protocol)


def _summed(source: bytes, target: bytes, protocol: int, body: bytes, at: int) -> bytes:
    """A transport header with its checksum at ``at``."""
    pseudo = b"" if protocol == ICMP else _pseudo(source, target, protocol, len(body))
    return body[:at] + struct.pack(">H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def packet(source: bytes, target: bytes, protocol: int, body: bytes, hops: int = 64) -> bytes:
    """An IP packet of the addresses' family."""
    if len(source) == 16:
        return struct.pack(">IHBB", 6 << 28, len(body), protocol, hops) + source + target + body
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0x4000, hops, protocol, 0)
    head += source + target
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + body


def tcp(
    source: bytes, target: bytes, ports: tuple[int, int], flags: int, number: int, acks: int = 0
) -> bytes:
    """A TCP segment without data, as an IP packet; an opening has options, as Linux gives them."""
    options = _OPENING if flags & SYN else b""
    offset = (20 + len(options)) << 2
    body = struct.pack(">HHIIBBHHH", *ports, number, acks, offset, flags, _WINDOW, 0, 0) + options
    return packet(source, target, TCP, _summed(source, target, TCP, body, 16))


def udp(source: bytes, target: bytes, ports: tuple[int, int], payload: bytes) -> bytes:
    """A UDP datagram, as an IP packet."""
    body = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
    return packet(source, target, UDP, _summed(source, target, UDP, body, 6))


def echo(
    source: bytes, target: bytes, identifier: int, number: int, payload: bytes, *, reply: bool
) -> bytes:
    """An echo request or reply, as an IP packet."""
    family = 4 if len(source) == 4 else 6
    protocol = ICMP if family == 4 else ICMP6
    body = struct.pack(">BBHHH", _ECHO[family][reply], 0, 0, identifier, number) + payload
    return packet(source, target, protocol, _summed(source, target, protocol, body, 2))


def router_solicitation(mac: bytes, source: bytes, group: bytes) -> bytes:
    """What asks for a router of IPv6, as an IP packet; ``group`` are all routers of the link."""
    body = struct.pack(">BBHIBB", _ROUTER_SOLICIT, 0, 0, 0, 1, 1) + mac
    return packet(source, group, ICMP6, _summed(source, group, ICMP6, body, 2), 255)


def frame(mac: bytes, to_mac: bytes, inside: bytes) -> bytes:
    """An Ethernet frame around an IP packet."""
    kind = IP4 if inside[0] >> 4 == 4 else IP6
    return (to_mac + mac + struct.pack(">H", kind) + inside).ljust(60, b"\0")


def asks(mac: bytes, source: bytes, address: bytes) -> bytes:
    """A frame that asks for the MAC address of ``address``, by ARP or neighbour discovery."""
    if len(address) == 4:
        body = struct.pack(">HHBBH", 1, IP4, 6, 4, 1) + mac + source + bytes(6) + address
        return (BROADCAST + mac + struct.pack(">H", ARP) + body).ljust(60, b"\0")
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + address[13:]
    body = struct.pack(">BBHI", _SOLICIT, 0, 0, 0) + address + b"\x01\x01" + mac
    body = _summed(source, group, ICMP6, body, 2)
    return frame(mac, b"\x33\x33" + group[12:], packet(source, group, ICMP6, body, 255))


def tells(mac: bytes, asked: Asked) -> bytes:
    """The answer to who asked: ``mac`` has that address."""
    if asked.family == 4:
        body = struct.pack(">HHBBH", 1, IP4, 6, 4, 2)
        body += mac + asked.address + asked.mac + asked.source
        return (asked.mac + mac + struct.pack(">H", ARP) + body).ljust(60, b"\0")
    body = struct.pack(">BBHI", _ADVERT, 0, 0, 0x60000000) + asked.address + b"\x02\x01" + mac
    body = _summed(asked.address, asked.source, ICMP6, body, 2)
    return frame(mac, asked.mac, packet(asked.address, asked.source, ICMP6, body, 255))


def read(device: str, data: bytes, *, ether: bool) -> Packet | Asked | Told | None:
    """What arrived at a device; None for anything else than is sent here."""
    try:
        return _read(device, data, ether=ether)
    except (struct.error, IndexError):
        return None


def _read(device: str, data: bytes, *, ether: bool) -> Packet | Asked | Told | None:
    mac = to_mac = b""
    if ether:
        to_mac, mac = data[:6], data[6:12]
        kind = struct.unpack_from(">H", data, 12)[0]
        data = data[14:]
        if kind == ARP:
            return _read_arp(device, data)
        if kind not in (IP4, IP6):
            return None
    if data[0] >> 4 == 4:
        length = (data[0] & 15) * 4
        total = struct.unpack_from(">H", data, 2)[0]
        protocol, source, target, body = data[9], data[12:16], data[16:20], data[length:total]
        family = 4
    else:
        total = 40 + struct.unpack_from(">H", data, 4)[0]
        protocol, source, target, body = data[6], data[8:24], data[24:40], data[40:total]
        family = 6
        if protocol == ICMP6 and body[0] == _SOLICIT:
            return Asked(device, 6, body[8:24], mac, source)
        if protocol == ICMP6 and body[0] == _ADVERT:
            return Told(device, body[8:24], mac)
    about = _transport(protocol, body)
    if about is None:
        return None
    return Packet(device, mac, to_mac, family, protocol, source, target, *about)


def _transport(protocol: int, body: bytes) -> tuple[tuple[int, int], int, int, int, bytes] | None:
    """Ports, flags, number, acknowledged number and payload."""
    if protocol == TCP:
        one, two, number, acks, size, flags = struct.unpack_from(">HHIIBB", body)
        return (one, two), flags, number, acks, body[(size >> 4) * 4 :]
    if protocol == UDP:
        one, two = struct.unpack_from(">HH", body)
        return (one, two), 0, 0, 0, body[8:]
    if protocol in (ICMP, ICMP6):
        identifier, number = struct.unpack_from(">HH", body, 4)
        return (identifier, identifier), body[0], number, 0, body[8:]
    return None


def _read_arp(device: str, data: bytes) -> Asked | Told | None:
    operation = struct.unpack_from(">H", data, 6)[0]
    mac, source, address = data[8:14], data[14:18], data[24:28]
    if operation == 1:
        return Asked(device, 4, address, mac, source)
    return Told(device, source, mac) if operation == 2 else None


def is_echo(packet_: Packet, *, reply: bool) -> bool:
    """Whether a packet is an echo request, or a reply."""
    return packet_.protocol in (ICMP, ICMP6) and packet_.flags == _ECHO[packet_.family][reply]
