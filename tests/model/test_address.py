"""The family of an address, and how one stands beside a port."""

from __future__ import annotations

import ipaddress

import pytest

from hvtx.model.address import (
    ZoneError,
    family_of,
    guest_addresses,
    is_ipv6,
    is_of,
    room_in,
    with_port,
    without_zone,
)

FOURS = ("10.77.0.1", "0.0.0.0", "10.77.0.0/24", "127.0.0.1/8")
SIXES = ("::", "::1", "fd77::/64", "fe80::1", "::ffff:10.77.0.1", "fd77::1/64")


@pytest.mark.parametrize("text", FOURS)
def test_addresses_and_prefixes_of_ipv4(text: str) -> None:
    assert (family_of(text), is_ipv6(text), is_of(text, 4), is_of(text, 6)) == (
        4,
        False,
        True,
        False,
    )


@pytest.mark.parametrize("text", SIXES)
def test_addresses_and_prefixes_of_ipv6(text: str) -> None:
    assert (family_of(text), is_ipv6(text), is_of(text, 4), is_of(text, 6)) == (
        6,
        True,
        False,
        True,
    )


@pytest.mark.parametrize("text", [*FOURS, *SIXES, "", "host"])
def test_what_has_no_zone_is_itself(text: str) -> None:
    assert without_zone(text) == text


@pytest.mark.parametrize(
    ("text", "zone"),
    [("fe80::1%eth0", "eth0"), ("fe80::%0/64", "0/64"), ("::1%", ""), ("fd00::1%a%b\n", "a%b\\n")],
)
def test_a_zone_is_refused_and_named(text: str, zone: str) -> None:
    with pytest.raises(ZoneError) as refused:
        without_zone(text)
    assert str(refused.value) == f"'{zone}' behind '%' is a device of one host"


def test_with_port_brackets_ipv6() -> None:
    found = [with_port(address, 80) for address in (None, "", "203.0.113.1", "fd77::1")]
    assert found == ["80", "80", "203.0.113.1:80", "[fd77::1]:80"]


@pytest.mark.parametrize(
    "subnet", ["10.77.0.0/24", "10.0.0.0/8", "10.77.0.4/30", "fd77::/64", "fd77::4/126"]
)
def test_room_is_what_the_network_itself_leaves(subnet: str) -> None:
    """As the standard library counts them: network and gateway, and of IPv4 the broadcast."""
    known = ipaddress.ip_network(subnet)
    assert room_in(subnet) == known.num_addresses - (3 if known.version == 4 else 2)


def test_guest_addresses_of_a_devices_filter() -> None:
    guard = {"ipv4": "10.77.0.2", "ipv6": "fd77::2", "more": ["10.77.0.9", "fd77::9"]}
    assert guest_addresses(guard) == ["10.77.0.2", "fd77::2", "10.77.0.9", "fd77::9"]
    assert guest_addresses({"ipv4": None, "ipv6": "fd77::2"}) == ["fd77::2"]
    assert guest_addresses(None) == []
