"""What a network's dnsmasq is told, to the letter; and when it serves somebody who is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hvtx.model.service import ReservationSpec, ServiceSpec
from hvtx.rulesets import dnsmasq

GOLDEN = Path(__file__).parent / "golden"
MARK = "hvtx:1:0123456789:7.abc"
BOTH: ServiceSpec = {
    "hypervisor": "dnsmasq",
    "directory": "/run/hvtx/i/networks/n1",
    "bridge": "hvbr0",
    "mtu": 1400,
    "subnets": ["10.77.0.0/22", "fd77::/64"],
    "gateways": ["10.77.0.1", "fd77::1"],
}
WEB: ReservationSpec = {
    "name": "web", "mac": "02:00:00:00:00:07", "ipv4": "10.77.0.7", "ipv6": "fd77::7"
}  # fmt: skip


def test_the_configuration() -> None:
    told = dnsmasq.configuration(BOTH, MARK, ("dnsmasq", "nogroup"))
    if os.environ.get("HVTX_GOLDEN") == "write":
        (GOLDEN / "dnsmasq.conf").write_text(told)
    assert told == (GOLDEN / "dnsmasq.conf").read_text()


def test_of_one_family_nothing_of_the_other_is_said() -> None:
    four: ServiceSpec = {**BOTH, "subnets": ["10.77.0.0/22"], "gateways": ["10.77.0.1"]}
    six: ServiceSpec = {**BOTH, "subnets": ["fd77::/112"], "gateways": ["fd77::1"]}
    assert "enable-ra" not in dnsmasq.configuration(four, MARK, None)
    told = dnsmasq.configuration(six, MARK, None)
    assert "dhcp-range=fd77::,static,112,12h\n" in told
    assert "option:" not in told
    assert "user=" not in told
    wide: ServiceSpec = {**six, "subnets": ["fd77::/48"]}
    assert "dhcp-range=fd77::,static,64,12h\n" in dnsmasq.configuration(wide, MARK, None)


@pytest.mark.parametrize(
    ("subnet", "private"),
    [
        ("10.0.0.0/8", True), ("172.16.0.0/24", True), ("172.31.255.0/25", True),
        ("192.168.7.0/24", True), ("100.64.0.0/24", True), ("100.127.0.0/16", True),
        ("172.15.0.0/16", False), ("172.32.0.0/16", False), ("192.169.0.0/24", False),
        ("100.63.0.0/24", False), ("100.128.0.0/24", False), ("198.51.100.0/24", False),
        ("fd77::/64", True), ("fc00:1::/112", True), ("fdff:1:2:3::/64", True),
        ("fd::/64", False), ("2001:db8::/64", False), ("fe80::/64", False),
    ],
)  # fmt: skip
def test_names_of_private_addresses_are_asked_for_nowhere_else(subnet: str, private: bool) -> None:
    only: ServiceSpec = {**BOTH, "subnets": [subnet], "gateways": ["x"]}
    told = dnsmasq.configuration(only, MARK, None)
    assert (f"\nrev-server={subnet.replace('/25', '/32')}\n" in told) is private
    assert ("rev-server" in told) is private


@pytest.mark.parametrize(
    ("subnet", "first", "last", "count"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8", 1),
        ("172.16.0.0/12", "172.16.0.0/16", "172.31.0.0/16", 16),
        ("10.77.4.0/22", "10.77.4.0/24", "10.77.7.0/24", 4),
        ("192.168.7.128/25", "192.168.7.128/32", "192.168.7.255/32", 128),
        ("192.168.7.252/30", "192.168.7.252/32", "192.168.7.255/32", 4),
        ("fd77::/66", "fd77::/66", "fd77::/66", 1),
    ],
)
def test_dnsmasq_before_2_86_understands_it(subnet: str, first: str, last: str, count: int) -> None:
    """It says "bad prefix" of an IPv4 prefix within a byte, and does not start."""
    only: ServiceSpec = {**BOTH, "subnets": [subnet], "gateways": ["10.77.0.1"]}
    told = dnsmasq.configuration(only, MARK, None)
    found = [line.partition("=")[2] for line in told.splitlines() if line.startswith("rev-")]
    assert (found[0], found[-1], len(found)) == (first, last, count)
    if "." in subnet:  # which is read from the first 4096 bytes
        assert dnsmasq.server_in(told[:4096]) == ("hvbr0", "10.77.0.1")


def test_who_serves_dhcpv4_is_read_from_the_configuration() -> None:
    told = dnsmasq.configuration(BOTH, MARK, None)
    assert dnsmasq.server_in(told) == ("hvbr0", "10.77.0.1")
    six: ServiceSpec = {**BOTH, "subnets": ["fd77::/64"], "gateways": ["fd77::1"]}
    assert dnsmasq.server_in(dnsmasq.configuration(six, MARK, None)) is None
    assert dnsmasq.server_in("") is None


def test_a_reservation_and_its_names() -> None:
    text = dnsmasq.reservation(WEB, MARK)
    assert text == f"# {MARK}\n02:00:00:00:00:07,id:*,10.77.0.7,[fd77::7]\n"
    assert dnsmasq.mark_in(text) == MARK
    assert dnsmasq.mark_in("02:00:00:00:00:07,10.77.0.7\n") is None
    assert dnsmasq.mark_in("") is None
    assert dnsmasq.names(WEB) == "10.77.0.7 web.lan web\nfd77::7 web.lan web\n"
    six: ReservationSpec = {**WEB, "ipv4": None}
    assert dnsmasq.reservation(six, MARK).endswith("\n02:00:00:00:00:07,id:*,[fd77::7]\n")
    assert dnsmasq.names(six) == "fd77::7 web.lan web\n"


@pytest.mark.parametrize(
    ("gone", "displaces"),
    [
        ({}, False),  # the very same interface
        ({"mac": "02:00:00:00:00:08"}, True),
        ({"mac": "02:00:00:00:00:08", "ipv6": "fd77::8"}, True),
        ({"mac": "02:00:00:00:00:08", "ipv4": "10.77.0.8"}, True),
        ({"ipv4": "10.77.0.8", "ipv6": "fd77::8"}, True),
        ({"mac": "02:00:00:00:00:08", "ipv4": "10.77.0.8", "ipv6": "fd77::8"}, False),
        ({"mac": "02:00:00:00:00:08", "ipv4": "10.77.0.8", "ipv6": None}, False),
        ({"name": "other"}, False),
    ],
)
def test_what_displaces_whom(gone: dict[str, str | None], displaces: bool) -> None:
    other: ReservationSpec = {**WEB, **gone}  # type: ignore[typeddict-item]
    lines = dnsmasq.forgotten(other).splitlines()
    assert dnsmasq.displaces(WEB, lines) is displaces
    assert dnsmasq.displaces(WEB, []) is False


def test_families_that_neither_has_displace_nobody() -> None:
    one: ReservationSpec = {**WEB, "ipv6": None}
    two: ReservationSpec = {**WEB, "ipv6": None, "mac": "02:00:00:00:00:08", "ipv4": "10.77.0.8"}
    assert not dnsmasq.displaces(one, dnsmasq.forgotten(two).splitlines())


def test_why_it_did_not_start() -> None:
    text = "\ndnsmasq: failed to create listening socket for 10.77.0.1: Address in use\n"
    assert dnsmasq.told(text) == "failed to create listening socket for 10.77.0.1: Address in use"
    assert dnsmasq.told("") == "it wrote nothing"


@pytest.mark.parametrize(
    ("name", "told"), [("localhost", False), ("ip6-localhost", False), ("localhost-2", True)]
)
def test_a_vm_called_as_every_guest_calls_itself_has_no_name(name: str, told: bool) -> None:
    spec: ReservationSpec = {**WEB, "name": name}
    assert bool(dnsmasq.names(spec)) is told
    assert dnsmasq.reservation(spec, MARK) == dnsmasq.reservation(WEB, MARK)
