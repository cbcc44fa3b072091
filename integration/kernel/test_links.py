"""`host/links.py` reads of real devices what pyroute2 reads of them, before, amid and after changes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from pyroute2 import IPRoute

from hvtx.host.links import Links
from hvtx.model.resource import Link
from integration import lab

_UP = 1


@pytest.fixture
def links() -> Iterator[Links]:
    with closing(Links()) as ours:
        yield ours


@pytest.fixture
def pyroute() -> Iterator[IPRoute]:
    with IPRoute() as theirs:
        yield theirs


def told(message: Any) -> dict[str, Any]:
    """What pyroute2 says of a device, under the names of `Link`."""
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info else None) or ""
    names = message.get_attr("IFLA_PROP_LIST")
    return {
        "ifindex": message["index"],
        "name": message.get_attr("IFLA_IFNAME"),
        "kind": kind,
        "alias": message.get_attr("IFLA_IFALIAS"),
        "mac": message.get_attr("IFLA_ADDRESS") or "",  # a tun device has none
        "mtu": message.get_attr("IFLA_MTU"),
        "master": message.get_attr("IFLA_MASTER") or 0,
        "group": message.get_attr("IFLA_GROUP"),
        "up": bool(message["flags"] & _UP),
        "qdisc": message.get_attr("IFLA_QDISC"),
        "altnames": tuple(names.get_attrs("IFLA_ALT_IFNAME")) if names else (),
        **_tun(info if kind == "tun" else None),
    }


def _tun(info: Any) -> dict[str, Any]:
    if info is None:
        return {"persistent": False, "tap": False, "vnet_hdr": False}
    data = info.get_attr("IFLA_INFO_DATA")
    return {
        "persistent": bool(data.get_attr("IFLA_TUN_PERSIST")),
        "tap": data.get_attr("IFLA_TUN_TYPE") == 2,
        "vnet_hdr": bool(data.get_attr("IFLA_TUN_VNET_HDR")),
    }


def read(link: Link) -> dict[str, Any]:
    """What hvtx says of it, as `told`."""
    flags = {"tap": bool(link.tun_flags & 2), "vnet_hdr": bool(link.tun_flags & 0x4000)}
    asked = ("ifindex", "name", "kind", "alias", "mac", "mtu", "master", "group", "up", "qdisc")
    return {
        **{name: getattr(link, name) for name in (*asked, "altnames", "persistent")},
        **flags,
    }


def both(links: Links, pyroute: IPRoute) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The devices of the namespace, by hvtx and by pyroute2."""
    ours = sorted((read(link) for link in links.all()), key=lambda one: one["ifindex"])
    theirs = sorted((told(one) for one in pyroute.get_links()), key=lambda one: one["ifindex"])
    return ours, theirs


CHANGES = (
    "link add br0 type bridge",
    "link add br1 address 02:00:00:00:00:01 group 7 type bridge",
    "link add v0 type veth peer name v1",
    "tuntap add dev tap0 mode tap",
    "tuntap add dev tap1 mode tap vnet_hdr multi_queue",
    "tuntap add dev tun0 mode tun",
    "link set v0 master br0 mtu 1400 up",
    "link set tap0 master br1 alias 'hvtx:1:somebody elses: ünïcode'",
    "link property add dev v1 altname a-name-that-is-longer-than-any-of-sixteen",
    "link property add dev v1 altname another",
    "link set br0 up",
    "link set tap1 address 02:00:00:00:00:02 up",
    "link set v0 nomaster",
    "link set tun0 name renamed",
    "link property del dev v1 altname another",
    "link set tap0 alias ''",
    "link del br1",
    "link del v0",
)


def test_all_reads_what_pyroute2_reads_after_each_change(links: Links, pyroute: IPRoute) -> None:
    for change in CHANGES:
        lab.run("ip", *shlex.split(change))
        ours, theirs = both(links, pyroute)
        assert ours == theirs, change
    assert {one["name"] for one in ours} == {"lo", "br0", "tap0", "tap1", "renamed"}


def test_get_finds_by_index_and_by_name_what_all_lists(links: Links) -> None:
    for change in CHANGES[:10]:
        lab.run("ip", *shlex.split(change))
    for link in links.all():
        for found in (links.get(link.ifindex), links.get(name=link.name)):
            assert found is not None
            assert found == link
    assert links.get(1 << 20) is None
    assert links.get(name="nothing") is None


def test_addresses_are_those_that_pyroute2_reads(links: Links, pyroute: IPRoute) -> None:
    for change in (
        "link add br0 type bridge",
        "link set br0 up",
        "addr add 10.9.0.1/24 dev br0",
        "addr add 10.9.0.2/32 peer 10.9.1.1/32 dev br0",
        "addr add fd09::1/64 dev br0 nodad",
        "addr add 10.9.0.3/24 valid_lft 600 preferred_lft 600 dev br0",
    ):
        lab.run("ip", *shlex.split(change))
    theirs = {
        (
            one["index"],
            f"{one.get_attr('IFA_LOCAL') or one.get_attr('IFA_ADDRESS')}/{one['prefixlen']}",
        )
        for one in pyroute.get_addr()
    }
    found = links.addresses()
    assert {(one.ifindex, one.address) for one in found} == theirs
    assert [one.address for one in found if one.passing] == ["10.9.0.3/24"]
