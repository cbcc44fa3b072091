"""What a guest keeps when its network's DHCP ends: the router, which is there as before."""

from __future__ import annotations

import socket
import struct
import sys
import time

from integration import lab
from integration.lab.program import Program
from integration.lab.waiting import until
from integration.network.test_dhcp import Guest, network, one, services, start

__all__ = ["one"]  # the fixture

OUTSIDE, PORT = "fd99::1", 7000
_CONNECT = f"import socket; socket.create_connection(({OUTSIDE!r}, {PORT}), 20)"
_ALL_NODES, _ADVERTISEMENT, _HOPS = "ff02::1", 134, 64


def routed(guest: Guest) -> bool:
    """Whether the guest has the route that it was told of."""
    return "proto ra" in guest.run("ip", "-6", "route", "show", "default")


def connects(guest: Guest) -> None:
    """Reach an address that is none of the network's, by that route."""
    with socket.create_server((OUTSIDE, PORT), family=socket.AF_INET6):
        guest.run(sys.executable, "-c", _CONNECT)


def withdraw(bridge: str) -> None:
    """Advertise the router with a lifetime of 0 (RFC 4861, sections 4.2 and 6.2.5)."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(bridge))
        raw.sendto(
            struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, _HOPS, 0, 0, 0, 0), (_ALL_NODES, 0)
        )


def test_a_guest_keeps_its_route_where_the_service_ends(one: Program) -> None:
    """Switched off, or killed: nothing is withdrawn, and the router goes on."""
    bridge = network(one)["bridge"]
    lab.run("ip", "addr", "add", f"{OUTSIDE}/128", "dev", "lo")
    web = start(one, "web")
    until("a route", lambda: routed(web))
    web.run("ip", "addr", "add", f"{web.ipv6}/64", "dev", "eth0", "nodad")
    connects(web)
    (serving,) = services()
    lab.end(serving)
    assert routed(web)
    one("repair")
    one("network", "set", "net", "--no-dhcp")
    assert services() == []
    for _ in range(4):  # a withdrawal would be here by now
        time.sleep(0.25)
        assert routed(web)
    connects(web)
    withdraw(bridge)  # what this guest makes of one: it has no way to know of the router again
    until("the guest heeds it", lambda: not routed(web))
    one("network", "set", "net", "--dhcp")
    until("it is told of the router again", lambda: routed(web))
    connects(web)
