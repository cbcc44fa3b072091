"""What people write: names, MACs, subnets, addresses, ports. Checked, canonical, or UsageError."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.errors import Conflict, UsageError
from hvtx.model.vm import Network, Publish
from hvtx.planner.addressing import (
    check_guest_address,
    check_published,
    gateway_of,
    netmask_of,
    overlap,
    parse_address,
    parse_device,
    parse_mac,
    parse_name,
    parse_publish,
    parse_subnet,
    private_subnets,
)
from tests.planner.test_egress import network

HOSTILE = (
    "",
    " ",
    "-",
    "--",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "%d",
    "tap%d",
    "web\n",
    "\nweb",
    "web ",
    "we b",
    "web\x00",
    "web\x1b[31m",
    "wéb",
    "ｗｅｂ",
    "wеb",  # a Cyrillic letter
    "web١",  # an Arabic digit
    "\u202eweb",
    "a" * 5000,
    "web'; DROP TABLE vm; --",
    "$(reboot)",
    "`id`",
    "{vm}",
    "udcff \udcff",
)


def refuses(parse: Callable[..., Any], *arguments: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert caught.value.exit_code == 2
    assert caught.value.message.isprintable(), "the message shows no control character"
    return caught.value


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*HOSTILE, "-web", "web-", "Web", "a" * 64, "web_1", "web.1"])
def test_hostile_names_are_refused(text: str) -> None:
    """Only [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])? is a name."""
    refuses(parse_name, text, "VM")


@pytest.mark.parametrize("text", ["a", "0", "web", "web-1", "a--b", "a" * 63, "0-0"])
def test_names_of_the_interface_are_taken(text: str) -> None:
    """As they stand."""
    assert parse_name(text, "VM") == text


@given(st.text(max_size=80))
def test_a_name_is_only_what_the_interface_says(text: str) -> None:
    """No text outside of the alphabet passes, whatever Unicode has to offer."""
    good = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    fits = bool(text) and set(text) <= good and len(text) <= 63 and "-" not in (text[0], text[-1])
    try:
        assert parse_name(text, "VM") == text
        assert fits
    except UsageError:
        assert not fits


@pytest.mark.parametrize("text", [*HOSTILE, "a" * 16, ".br", "-br", "br:1", "all", "default"])
def test_hostile_bridge_names_are_refused(text: str) -> None:
    """The kernel's own names, format characters, separators, and more than 15 characters."""
    refuses(parse_device, text)


def test_the_name_of_the_loopback_device_is_taken() -> None:
    """It is a name, and what is there has it: exit code 4, where one that can be none has 2."""
    with pytest.raises(Conflict, match="a device named lo exists already"):
        parse_device("lo")


@pytest.mark.parametrize("text", ["br0", "virbr-lab", "br.5", "_x", "B" * 15])
def test_bridge_names_are_taken(text: str) -> None:
    """As they stand."""
    assert parse_device(text) == text


# -- MAC addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "03:11:22:33:44:55",
        "00:00:00:00:00:00",
        "02:11:22:33:44",
        "02:11:22:33:44:55:66",
        "02-11-22-33-44-55",
        "0211.2233.4455",
        "02:11:22:33:44:5g",
        "2:11:22:33:44:55",
        "02:11:22:33:44:٥٥",
    ],
)
def test_bad_macs_are_refused(text: str) -> None:
    """Multicast, all zero, other lengths, other spellings."""
    refuses(parse_mac, text)


def test_macs_are_canonical() -> None:
    """One spelling per address, so that the store's constraint sees equal ones."""
    assert parse_mac("02:AB:CD:EF:00:11") == "02:ab:cd:ef:00:11"


# -- subnets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        "10.77.0.0",
        "10.77.0.1/24",
        "10.77.0.0/31",
        "10.77.0.0/32",
        "10.77.0.0/33",
        "10.77.0.0/-1",
        "10.77.0.0/",
        "10.77.0.0/٢٤",
        "10.77.0.0/24/24",
        "010.77.0.0/24",
        "10.77.0.0x/24",
        "10.77/16",
        "0.0.0.0/0",
        "0.0.0.0/8",
        "8.0.0.0/5",
        "127.0.0.0/24",
        "169.254.0.0/24",
        "169.0.0.0/8",
        "224.0.0.0/24",
        "240.0.0.0/24",
        "255.255.255.0/24",
        "::/0",
        "::/64",
        "::1/128",
        "fd00::/127",
        "fd00::/128",
        "fd00::1/64",
        "fe80::/64",
        "fe00::/8",
        "ff02::/64",
        "::ffff:10.77.0.0/120",
        "fd00::%eth0/64",
        "fd00::%1/64",
        "fd00::/64%eth0",
        "9" * 400 + "/24",
        "10.77.0.0/" + "9" * 5000,
    ],
)
def test_bad_subnets_are_refused(text: str) -> None:
    """/31 and /32, host bits, loopback, multicast, link-local, zone ids, disguised IPv4 …"""
    refuses(parse_subnet, text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.77.0.0/24", "10.77.0.0/24"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.168.1.4/30", "192.168.1.4/30"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("100.64.0.0/10", "100.64.0.0/10"),
        ("FD00:0:0::/64", "fd00::/64"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("fd00::4/126", "fd00::4/126"),
    ],
)
def test_subnets_are_canonical(text: str, canonical: str) -> None:
    """One spelling per subnet."""
    assert parse_subnet(text) == canonical


@given(st.ip_addresses(v=4), st.integers(8, 30))
def test_a_subnet_has_room_for_its_gateway_and_a_guest(
    address: ipaddress.IPv4Address, length: int
) -> None:
    """What is accepted can be used: the gateway is the first address, and a guest fits."""
    text = str(ipaddress.ip_network((address, length), strict=False))
    try:
        subnet = parse_subnet(text)
    except UsageError:
        return
    network = make_network(subnet)
    gateway = ipaddress.ip_address(gateway_of(subnet))
    assert gateway in ipaddress.ip_network(subnet)
    check_guest_address(str(gateway + 1), network)


def test_netmasks_are_dotted() -> None:
    """For the kernel's ip= parameter and HVTX_NETMASK."""
    assert netmask_of("10.77.0.0/22") == "255.255.252.0"


def test_overlaps_are_found_both_ways() -> None:
    """A larger, a smaller and the same prefix; other families never."""
    assert overlap("10.77.0.0/24", ["10.0.0.0/8"]) == "10.0.0.0/8"
    assert overlap("10.0.0.0/8", ["192.0.2.0/24", "10.77.0.9/32"]) == "10.77.0.9/32"
    assert overlap("10.77.0.0/24", ["10.77.1.0/24", "fd00::/8", "10.77.1.5/24"]) is None
    assert overlap("10.77.1.0/24", ["10.77.1.5/24"]) == "10.77.1.5/24"


def test_private_candidates_are_private_and_distinct() -> None:
    """All /24, all RFC 1918, none twice, and enough of them."""
    found = list(private_subnets())
    assert len(found) == len(set(found)) > 300
    assert all(parse_subnet(s) == s and ipaddress.ip_network(s).is_private for s in found)
    assert found[0] == "10.77.0.0/24"


# -- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        "10.77.0.256",
        "10.77.0",
        "10.77.0.05",
        "010.77.0.5",
        "0x0a.77.0.5",
        "10.77.0.5/24",
        "10.77.0.٥",
        "167772165",
        "fd00::5%eth0",
        "fe80::5%1",
        "::ffff:10.77.0.5",
        "::ffff:a4d:5",
        "fd00:::5",
        "[fd00::5]",
    ],
)
def test_bad_addresses_are_refused(text: str) -> None:
    """Leading zeros, zone ids, mapped addresses, Unicode digits: none of them leases twice."""
    refuses(parse_address, text)


def test_a_zone_is_named_as_what_is_wrong() -> None:
    with pytest.raises(UsageError) as refused:
        parse_address("fd00::5%eth0")
    assert refused.value.message == (
        "'fd00::5%eth0' is not an IP address alone: 'eth0' behind '%' is a device of one host"
    )
    with pytest.raises(UsageError, match=r"^'fd00::/64%lan' is not a subnet: 'lan' behind '%' is"):
        parse_subnet("fd00::/64%lan")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fe80::1%lan", "is not an IP address alone: 'lan' behind '%'"),
        ("host", "is not an IP address"),
        ("::ffff:10.0.0.1", "is an IPv4 address in IPv6 notation"),
    ],
)
def test_a_refused_address_is_told_with_its_option(text: str, why: str) -> None:
    """The one that it was given with, and with all that was given where that is more."""
    with pytest.raises(UsageError) as refused:
        parse_address(text, of="--ip")
    assert refused.value.message.startswith(f"--ip {text!r} {why}")
    with pytest.raises(UsageError, match=r"^--mac 'random' is not a MAC address$"):
        parse_mac("random", of="--mac")
    whole = f"[{text}]:80:80" if ":" in text else f"{text}:80:80"
    with pytest.raises(UsageError) as refused:
        parse_publish(whole)
    assert refused.value.message.startswith(f"--publish {whole!r}: {text!r} {why}")


def test_addresses_are_canonical() -> None:
    """One spelling per address."""
    assert parse_address("FD00:0:0::0005") == "fd00::5"
    assert parse_address("10.77.0.5") == "10.77.0.5"


def make_network(*subnets: str) -> Network:
    return Network(
        id="n",
        name="lan",
        bridge="br0",
        mac="02:00:00:00:00:01",
        mtu=1500,
        nat=True,
        isolate=False,
        firewall="nftables",
        subnets=subnets,
        gateways=tuple(gateway_of(subnet) for subnet in subnets),
        gateway6=None,
    )


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("10.77.0.0", "network address"),
        ("10.77.0.1", "gateway address"),
        ("10.77.0.255", "broadcast address"),
        ("10.77.1.5", "not in"),
        ("10.0.0.5", "not in"),
        ("fd00::", "network address"),
        ("fd00::1", "gateway address"),
        ("fd01::5", "not in"),
    ],
)
def test_a_guest_cannot_have_every_address(address: str, word: str) -> None:
    """The network's, the gateway's, the broadcast address, and those outside."""
    error = refuses(check_guest_address, address, make_network("10.77.0.0/24", "fd00::/64"))
    assert word in error.message
    assert "lan" in error.message


@pytest.mark.parametrize(
    "address", ["10.77.0.2", "10.77.0.254", "fd00::2", "fd00::ffff:ffff:ffff:ffff"]
)
def test_a_guest_can_have_the_others(address: str) -> None:
    """IPv6 has no broadcast address: its last one is as good as any."""
    check_guest_address(address, make_network("10.77.0.0/24", "fd00::/64"))


def test_a_family_that_the_network_lacks_is_refused() -> None:
    """Named, so that people see which option is wrong."""
    error = refuses(check_guest_address, "fd00::5", make_network("10.77.0.0/24"))
    assert "IPv6" in error.message


# -- published ports -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", Publish("tcp", None, 8080, 80)),
        ("8080:80/tcp", Publish("tcp", None, 8080, 80)),
        ("53:53/udp", Publish("udp", None, 53, 53)),
        ("1:65535", Publish("tcp", None, 1, 65535)),
        ("203.0.113.1:53:53/udp", Publish("udp", "203.0.113.1", 53, 53)),
        ("127.0.0.1:80:80", Publish("tcp", "127.0.0.1", 80, 80)),
        ("0.0.0.0:80:80", Publish("tcp", None, 80, 80)),
        ("[::]:80:80", Publish("tcp", None, 80, 80)),
        ("[2001:DB8::1]:80:80", Publish("tcp", "2001:db8::1", 80, 80)),
    ],
)
def test_published_ports_are_understood(text: str, port: Publish) -> None:
    """``[HOSTIP:]HOSTPORT:GUESTPORT[/udp]``; the unspecified address is no address."""
    assert parse_publish(text) == port


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        "80",
        "0:80",
        "80:0",
        "65536:80",
        "80:65536",
        "-1:80",
        "+1:80",
        "80:",
        ":80",
        ":80:80",
        "::",
        "08:80",
        "8080:080",
        "٨٠:٨٠",
        "８０:80",
        "80.0:80",
        "0x50:80",
        "1e3:80",
        "8_0:80",
        "80 :80",
        "80:80\n",
        "80:80/",
        "80:80/sctp",
        "80:80/UDP",
        "80:80/udp/tcp",
        "http:80",
        "80-90:80-90",
        "::1:80:80",
        "2001:db8::1:80:80",
        "[]:80:80",
        "[::1:80:80",
        "[127.0.0.1]:80:80",
        "[fe80::1%eth0]:80:80",
        "[::ffff:127.0.0.1]:80:80",
        "224.0.0.1:80:80",
        "[ff02::1]:80:80",
        "255.255.255.255:80:80",
        "host:80:80",
        "1.2.3.4.5:80:80",
        "010.0.0.1:80:80",
        "9" * 5000 + ":80",
    ],
)
def test_bad_ports_are_refused(text: str) -> None:
    """Numbers outside 1 to 65535, other spellings of numbers, other addresses."""
    refuses(parse_publish, text)


@given(st.text(alphabet="0123456789:.[]/udptcf%+- ", max_size=30))
def test_what_is_parsed_is_what_was_written(text: str) -> None:
    """Whatever passes names its ports in decimal, and nothing else happens than UsageError."""
    try:
        port = parse_publish(text)
    except UsageError:
        return
    tail = f"{port.host_port}:{port.guest_port}"
    assert text.partition("/")[0].endswith(tail)
    assert 1 <= port.host_port <= 65535
    assert 1 <= port.guest_port <= 65535


@given(st.text(max_size=40))
def test_no_text_breaks_a_parser(text: str) -> None:
    """UsageError or a value, never another exception; Conflict for `lo`, which is on every host."""
    for parse in (parse_address, parse_subnet, parse_mac, parse_device, parse_publish):
        try:
            parse(text)
        except (UsageError, Conflict) as problem:
            assert problem.message


def test_a_port_on_the_loopback_of_ipv6_is_refused_whoever_asks() -> None:
    """A container runtime and a program do not write it as `--publish` is written."""
    with pytest.raises(UsageError, match="NAT cannot serve") as refused:
        check_published(Publish("tcp", "::1", 8080, 80), network())
    assert "127.0.0.1" in (refused.value.hint or "")
