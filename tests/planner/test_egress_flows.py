"""Whether a flow that goes on would pass now: the rules' own order, once more."""

from __future__ import annotations

import socket

import pytest

from hvtx.model.firewall import FirewallSpec
from hvtx.planner.egress_flows import (
    Going,
    Guests,
    Host,
    LinkUse,
    Near,
    Port,
    Sent,
    guests,
    host,
    link_use,
    permitted,
    refused,
    senders,
)
from hvtx.rulesets.packing import link_local, packed

GATEWAYS = {"hvbr0": ("10.77.0.1", "fd77::1", "fe80::77"), "hvbr1": ("10.78.0.1", "fe80::78")}
UPLINK = ("203.0.113.1", "fe80::99")
MAC, OTHER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:03"
NETWORKS = (
    Near("hvbr0", ("10.77.0.0/24", "fd77::/64"), native=True),
    Near("hvbr1", ("10.78.0.0/24", "11.7.0.0/24"), native=False),
    Near("hvbr2", ("10.79.0.0/24", "2606:4700:7::/64"), native=True),
)


def sent(
    to: str, port: int = 443, protocol: int = 6, *, local: bool = False, gateway: bool = False
) -> Sent:
    return Sent(packed(to), protocol, port, local, gateway)


def policy(mode: str | None, *rules: tuple[str, str, int | None]) -> FirewallSpec:
    listed: list[list[str | int | None]] = [[a, to, p, p, None] for a, to, p in rules]
    return {"what": "egress", "egress": mode, "rules": listed}


@pytest.mark.parametrize(
    ("mode", "to", "passes"),
    [
        ("open", "10.1.2.3", True), ("open", "169.254.169.254", False),
        ("open", "fd00:ec2::254", False), ("internet", "8.8.8.8", True),
        ("internet", "10.1.2.3", False), ("internet", "2606:4700::1", True),
        ("internet", "fd12::1", False), ("internet", "2002:a00::1", False),
        ("none", "8.8.8.8", False),
    ],
)  # fmt: skip
def test_modes(mode: str, to: str, passes: bool) -> None:
    assert permitted(sent(to), [policy(mode)]) is passes


def test_of_the_host_only_what_a_guest_needs() -> None:
    for mode, passes in (("open", True), ("internet", False), ("none", False)):
        assert permitted(sent("10.77.0.1", 22, local=True), [policy(mode)]) is passes
        assert permitted(sent("10.77.0.1", 53, 17, local=True, gateway=True), [policy(mode)])
        assert permitted(sent("10.77.0.1", 0, 1, local=True), [policy(mode)])
        for protocol in (6, 17):
            of_another = sent("203.0.113.1", 53, protocol, local=True)
            assert permitted(of_another, [policy(mode)]) is passes


def test_what_a_guest_needs_is_not_denied() -> None:
    denied = policy("none", ("deny", "10.77.0.0/24", None))
    assert permitted(sent("10.77.0.1", 67, 17, local=True, gateway=True), [denied])
    assert not permitted(sent("10.77.0.1", 53, 17, local=True, gateway=True), [denied])


def test_denials_first_then_what_is_allowed_then_the_network() -> None:
    own = policy(None, ("allow", "10.0.0.0/8", None), ("deny", "10.1.0.0/16", 443))
    shared = policy("none", ("allow", "192.0.2.1/32", 80), ("deny", "10.2.0.1/32", None))
    asked = [own, shared]
    assert not permitted(sent("10.1.0.1"), asked)
    assert permitted(sent("10.1.0.1", 80), asked)
    assert permitted(sent("10.2.0.1"), asked)  # the VM's word comes first
    assert permitted(sent("192.0.2.1", 80), asked)
    assert not permitted(sent("192.0.2.1", 81), asked)
    assert not permitted(sent("192.0.2.1", 80, 132), asked)  # neither TCP nor UDP


def test_names_open_what_they_stand_for_now_and_only_on_the_internet() -> None:
    known = {("hvbr0", "example.org"): [sent(to).to for to in ("8.8.4.4", "10.1.2.3", "9.9.9.9")]}

    def named(bridge: str, name: str) -> list[bytes]:
        return known.get((bridge, name), [])

    asked = policy("none", ("allow", "example.org", 443), ("deny", "9.9.9.9/32", None))
    asked["bridge"] = "hvbr0"
    assert permitted(sent("8.8.4.4"), [asked], named)
    assert not permitted(sent("8.8.4.4", 80), [asked], named)
    assert not permitted(sent("8.8.4.4", local=True), [asked], named)
    assert not permitted(sent("10.1.2.3"), [asked], named)
    assert not permitted(sent("9.9.9.9"), [asked], named)  # denied
    assert not permitted(sent("1.1.1.1"), [asked], named)
    assert not permitted(sent("8.8.4.4"), [asked])
    other: FirewallSpec = {**asked, "bridge": "hvbr1"}
    assert not permitted(sent("8.8.4.4"), [other], named)


def going(source: str, to: str, port: int = 443, *, translated: bool = False) -> Going:
    return Going(packed(source), packed(to), 6, port, translated)


def seen_host() -> Host:
    addresses = {bridge: {packed(one) for one in found} for bridge, found in GATEWAYS.items()}
    every = {packed(one) for one in UPLINK} | addresses["hvbr0"] | addresses["hvbr1"]
    return host(every, addresses, NETWORKS)


def of_vm(mode: str | None, mac: str = MAC, ipv4: str = "10.77.0.2") -> FirewallSpec:
    return {**policy(mode), "bridge": "hvbr0", "mac": mac, "ipv4": ipv4, "ipv6": None}


def of_network(mode: str | None, bridge: str = "hvbr0") -> FirewallSpec:
    return {**policy(mode), "bridge": bridge}


def nobody() -> LinkUse:
    raise AssertionError("asked of what has no link-local source")


def ends(flow: Going, those: Guests, links: LinkUse | None = None) -> bool:
    return refused(flow, those, seen_host(), nobody if links is None else lambda: links)


def test_whose_flow_it_is() -> None:
    those = guests([of_vm("open")], [of_network("none")])
    assert not ends(going("10.77.0.2", "8.8.8.8"), those)
    assert ends(going("10.77.0.3", "8.8.8.8"), those)
    assert not ends(going("10.77.0.3", "10.77.0.9"), those)
    assert ends(going("10.77.0.3", "10.77.0.1"), those)
    assert not ends(going("10.77.0.3", "10.77.0.1", 53), those)
    assert ends(going("10.77.0.3", "203.0.113.1", 53), those)
    assert not ends(going("192.0.2.9", "8.8.8.8"), those)
    assert not ends(going("10.79.0.9", "8.8.8.8"), those), "of a network that is not concerned"


def test_what_is_translated_is_judged_by_where_it_leads() -> None:
    for mode in ("internet", "none"):
        those = guests([], [of_network(mode), of_network(mode, "hvbr1")])
        for source in ("10.77.0.3", "10.78.0.3"):
            assert ends(going(source, "172.17.0.2", translated=True), those)
            for other in ("10.77.0.9", "10.78.0.9", "10.79.0.9", "11.7.0.9", "2606:4700:7::9"):
                assert not ends(going(source, other, translated=True), those), "a published port"
    denied = [policy("open", ("deny", "10.0.0.0/8", None)) | {"bridge": "hvbr0"}]
    # of nftables' networks it is let in before, of iptables' it is asked as anything else
    assert not ends(going("10.77.0.3", "10.79.0.9", translated=True), guests([], denied))
    assert ends(going("10.77.0.3", "10.78.0.9", translated=True), guests([], denied))


def test_a_neighbour_is_not_the_world_whatever_its_addresses() -> None:
    for mode, passes in (("open", True), ("internet", False), ("none", False)):
        for to in ("11.7.0.9", "2606:4700:7::9", "10.78.0.9"):
            those = guests([], [of_network(mode)])
            assert ends(going("10.77.0.3", to), those) is not passes, (mode, to)
    assert not ends(going("10.77.0.3", "2606:4700:8::9"), guests([], [of_network("internet")]))
    allowed = policy("none", ("allow", "11.7.0.9/32", None)) | {"bridge": "hvbr0"}
    assert not ends(going("10.77.0.3", "11.7.0.9"), guests([], [allowed]))


PORTS = (Port("hv0", "hvbr0", MAC), Port("hv1", "hvbr0", OTHER_MAC))
OWN = [socket.inet_ntop(socket.AF_INET6, link_local(mac)) for mac in (MAC, OTHER_MAC)]


def test_a_link_local_address_is_its_guests() -> None:
    """By the MAC address that it follows from, or by whose device has sent from it."""
    those = guests([of_vm("none")], [of_network("open")])
    links = link_use(PORTS, [("hv0", packed("fe80::a")), ("hv1", packed("fe80::b")),
                             ("hv9", packed("fe80::c"))])  # fmt: skip
    for source, over in ((OWN[0], True), (OWN[1], False), ("fe80::a", True), ("fe80::b", False)):
        assert ends(going(source, "fe80::77", 22), those, links) is over, source
        assert ends(going(source, "203.0.113.1", 22), those, links) is over, source
        assert not ends(going(source, "fe80::77", 53), those, links)
        assert not ends(going(source, "fe80::1234", 22), those), "it is never forwarded"
        assert not ends(going(source, "fe80::99", 22), those, links), "that is another link"


def test_of_whom_nobody_knows_it_is_whoever_is_on_the_bridge() -> None:
    those = guests([of_vm("none")], [of_network("open"), of_network("open", "hvbr1")])
    links = link_use(PORTS, [("hv9", packed("fe80::c"))])
    assert ends(going("fe80::d", "fe80::77", 22), those, links)
    assert ends(going("fe80::d", "203.0.113.1", 22), those, links)
    assert not ends(going("fe80::d", "fe80::78", 22), those, links), "nobody is shut in there"
    assert ends(going("fe80::c", "fe80::77", 22), those, links), "on this link nobody is known"
    assert not ends(going("fe80::c", "203.0.113.1", 22), those, links), "one of another network"
    twice = link_use(PORTS, [("hv0", packed("fe80::d")), ("hv1", packed("fe80::d"))])
    assert ends(going("fe80::d", "fe80::77", 22), those, twice), "it may be either"
    assert len(senders(going("fe80::d", "fe80::77", 22), those, seen_host(), twice)) == 2


@pytest.mark.parametrize("address", ["9.255.255.255", "10.77.1.0", "fd76::", "fd77:0:0:1::"])
def test_no_network_has_an_address_beside_its_subnets(address: str) -> None:
    assert seen_host().network(packed(address)) is None


@pytest.mark.parametrize(("address", "bridge"), [
    ("10.77.0.0", "hvbr0"), ("10.77.0.255", "hvbr0"), ("11.7.0.9", "hvbr1"), ("fd77::", "hvbr0"),
    ("fd77::ffff:ffff:ffff:ffff", "hvbr0"), ("2606:4700:7::1", "hvbr2"),
])  # fmt: skip
def test_the_network_of_an_address(address: str, bridge: str) -> None:
    found = seen_host().network(packed(address))
    assert found is not None
    assert found.bridge == bridge
