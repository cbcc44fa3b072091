"""Where the world is: devices that guests may go out by, and none of somebody else's guests."""

from __future__ import annotations

import pytest

from hvtx.model.resource import Address, Link
from hvtx.planner.uplinks import uplinks


def link(name: str, ifindex: int, kind: str = "", master: int = 0) -> Link:
    return Link(ifindex, name, kind, None, "", 1500, master, 0, 0, True, 0, 0, False)


LINKS = [
    link("lo", 1),
    link("eth0", 2),
    link("eth1", 3),
    link("hvnet", 4, "bridge"),
    link("docker0", 5, "bridge"),
    link("veth1", 6, "veth", master=5),
    link("cali1", 7, "veth"),
    link("br0", 8, "bridge"),
    link("port", 9, master=8),
    link("tap0", 10, "tun"),
    link("tun0", 11, "tun"),
    link("wg0", 12, "wireguard"),
    link("up0", 13, "veth"),
    link("ppp0", 14, "ppp"),
    link("odd+", 15),
    link("eth0.7", 16, "vlan"),
]
ADDRESSES = [
    Address(n, address)
    for n, address in ((1, "127.0.0.1/8"), (4, "10.77.0.1/24"), (5, "172.17.0.1/16"),
                       (7, "169.254.1.1/32"), (7, "fe80::1/64"), (10, "172.16.0.1/30"),
                       (11, "10.8.0.1/24"), (12, "10.9.0.1/24"), (13, "203.0.113.1/24"),
                       (16, "2001:db8::1/64"), (15, "192.0.2.1/24"))
]  # fmt: skip


def found(*ways: int) -> set[str]:
    return set(uplinks(LINKS, ADDRESSES, ways=ways, own={"hvnet"}))


def test_wires_are_where_the_world_is() -> None:
    """Hardware before it has an address, others by their subnet; no bridge, no TAP, no port."""
    assert found() == {"eth0", "eth1", "wg0", "up0", "eth0.7"}


@pytest.mark.parametrize(("index", "name"), [(8, "br0"), (11, "tun0"), (14, "ppp0"), (10, "tap0")])
def test_whatever_leads_out_is_one(index: int, name: str) -> None:
    assert found(index) - found() == {name}


def test_our_own_bridges_are_none_and_what_no_rule_can_name_is_none() -> None:
    assert found(4, 15, 1) == found()
