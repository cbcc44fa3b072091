"""Addresses as bytes, and the frames that announce them."""

from __future__ import annotations

import socket

import pytest

from hvtx.host.inet import announcement, packed, socket_family


def test_packed_and_socket_family() -> None:
    assert (packed("10.77.0.1"), socket_family("10.77.0.1")) == (b"\x0a\x4d\0\1", socket.AF_INET)
    assert (packed("fd77::1"), socket_family("fd77::1")) == (
        b"\xfd\x77" + bytes(13) + b"\1",
        socket.AF_INET6,
    )


@pytest.mark.parametrize("text", ["", "10.77.0", "10.77.0.1/24", "fd77:::1", "fe80::1%lo"])
def test_packed_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        packed(text)


def test_an_ipv4_address_is_announced_to_everybody() -> None:
    """RFC 5227: a request whose sender and target both are the address; no target MAC address."""
    assert announcement("02:00:00:00:0a:0b", "10.77.0.2") == bytes.fromhex(
        "ff ff ff ff ff ff 02 00 00 00 0a 0b 08 06"
        "00 01 08 00 06 04 00 01"
        "02 00 00 00 0a 0b 0a 4d 00 02"
        "00 00 00 00 00 00 0a 4d 00 02"
    )


def test_an_ipv6_address_is_announced_to_all_nodes() -> None:
    """RFC 4861: flag O alone, the address as target and source, hop limit 255."""
    frame = announcement("02:00:00:00:0a:0b", "fd77::2")
    address = "fd 77 00 00 00 00 00 00 00 00 00 00 00 00 00 02"
    assert frame[:56] == bytes.fromhex(
        "33 33 00 00 00 01 02 00 00 00 0a 0b 86 dd 60 00 00 00 00 20 3a ff"
        f"{address} ff 02 00 00 00 00 00 00 00 00 00 00 00 00 00 01 88 00"
    )
    assert frame[58:] == bytes.fromhex(f"20 00 00 00 {address} 02 01 02 00 00 00 0a 0b")


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        ("02:00:00:00:0a:0b", "fd77::2"),
        ("02:ff:ff:ff:ff:ff", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"),  # with many carries
        ("02:00:00:00:00:00", "2001:db8::"),
    ],
)
def test_its_checksum_is_that_of_icmpv6(mac: str, address: str) -> None:
    """Divided, not folded: the pseudo-header and the message are a multiple of 0xffff."""
    packet = announcement(mac, address)[14:]
    source, target, message = packet[8:24], packet[24:40], packet[40:]
    pseudo = source + target + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    summed = int.from_bytes(pseudo + message, "big")
    assert summed % 0xFFFF == 0
    assert message[2:4] not in (b"\0\0", b"\xff\xff")
    assert len(message) == 32
