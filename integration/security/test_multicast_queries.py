"""Queries about groups: what one guest could turn on in the bridge that all guests share.

A bridge that has heard a querier sends frames for a group only where somebody answered for it
(net/bridge/br_multicast.c, ``br_multicast_querier_exists``). So one query that no guest hears cuts
all of them, and the host, off from whatever is sent to a group; neighbour discovery of IPv6 is.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from integration import lab
from integration.lab.firewall_contract import icmp6
from integration.lab.frames import (
    ANY_LINK,
    ICMP6,
    IGMP,
    IP4,
    IP6,
    bare,
    checksum,
    packed_ip,
    packet4,
)
from integration.lab.program import Program
from integration.lab.vms import alone
from integration.security.test_another_mac import came
from integration.security.test_frames import GATEWAY4, NO_GSO, Air, laboratory

UNHEARD6, UNHEARD4 = "33:33:00:00:77:77", "01:00:5e:07:77:77"  # groups that no receiver has joined
HOP_BY_HOP = 0


@pytest.fixture
def hvtx(request: pytest.FixtureRequest, world: lab.Namespace) -> Iterator[Program]:
    with alone(str(request.param)) as made:
        yield made


def mld_query(air: Air, source: str, between: bytes = b"") -> bytes:
    """A general query (RFC 2710) for answers within a millisecond, behind its router alert.

    ``between``: another extension header, whose first byte says that ICMPv6 follows.
    """
    body = icmp6(source, "ff02::1", struct.pack(">BBHHH", 130, 0, 0, 1, 0) + bytes(16))
    alert = bytes((60 if between else ICMP6, 0, 5, 2, 0, 0, 1, 0))  # RFC 2711, and padding
    payload = alert + between + body
    head = struct.pack(">IHBB", 6 << 28, len(payload), HOP_BY_HOP, 1)
    packet = head + packed_ip(source) + packed_ip("ff02::1") + payload
    return bare(air.one.mac, UNHEARD6, IP6, packet)


def igmp_query(air: Air, fragment: int = 0) -> bytes:
    """A general query (RFC 2236) for answers within a tenth of a second."""
    body = struct.pack(">BBHI", 0x11, 1, 0, 0)
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    alert = bytes((0x94, 4, 0, 0))
    packet = packet4(air.one.ipv4, "224.0.0.1", IGMP, body, options=alert, ttl=1, fragment=fragment)
    return bare(air.one.mac, UNHEARD4, IP4, packet)


def say_to_the_groups(air: Air) -> None:
    """What the host sends where it looks for the other guest (RFC 4291, 2.7.1), and to 239.7.7.7."""
    group = packed_ip("ff02::1:ff00:0")[:13] + packed_ip(air.two.ipv6)[13:]
    number = socket.if_nametoindex(air.bridge)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four:
        four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(GATEWAY4))
        four.sendto(b"by the old family", ("239.7.7.7", 9))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, number)
        six.sendto(b"by the new family", (socket.inet_ntop(socket.AF_INET6, group), 9))


@pytest.mark.parametrize(
    ("hvtx", "flushed", "isolated"),
    [
        ("nftables", False, ()),
        ("iptables", False, ()),
        ("nftables", True, ()),
        ("nftables", False, ("--isolate",)),
        ("iptables", True, ("--isolate",)),
    ],
    indirect=["hvtx"],
)
def test_no_query_of_a_guest_keeps_others_from_their_groups(
    hvtx: Program, world: lab.Namespace, flushed: bool, isolated: tuple[str, ...]
) -> None:
    """Neither with rules nor without; nobody has answered for a group when it is asked about."""
    with laboratory(hvtx, world, *isolated) as air:
        if flushed:
            lab.run("nft", "flush", "ruleset")
        queries = (
            mld_query(air, air.scene.link),
            mld_query(air, ANY_LINK),
            mld_query(air, air.scene.link, bytes((ICMP6, 0, 1, 4, 0, 0, 0, 0))),
            igmp_query(air),
            igmp_query(air, fragment=1),
        )
        for query in queries:
            os.write(air.own, NO_GSO + query)
        air.wait()
        say_to_the_groups(air)
        seen = came(air, b"by the new family", at="guest")
        assert [
            where for where, frame in seen if where == "guest" and b"by the old family" in frame
        ]
        assert air.one.device not in lab.run("bridge", "-d", "mdb"), "no port leads to a router"
