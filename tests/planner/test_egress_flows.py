"""Whether a flow that goes on would pass now: the rules' own order, once more."""

from __future__ import annotations

import socket

import pytest

from hvtx.model.firewall import FirewallSpec
from hvtx.planner.egress_flows import Guests, Sent, permitted, refused


def sent(to: str, port: int = 443, protocol: int = 6, *, local: bool = False) -> Sent:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    return Sent(socket.inet_pton(family, to), protocol, port, local)


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
        assert permitted(sent("10.77.0.1", 53, 17, local=True), [policy(mode)])
        assert permitted(sent("10.77.0.1", 0, 1, local=True), [policy(mode)])


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


def test_whose_flow_it_is() -> None:
    subnets = ("10.77.0.0/24",)
    two = socket.inet_aton("10.77.0.2")
    three = socket.inet_aton("10.77.0.3")
    guests = Guests({two: (policy("open"),)}, ((policy("none"),),), (subnets,))
    assert not refused(two, sent("8.8.8.8"), guests, [subnets])
    assert refused(three, sent("8.8.8.8"), guests, [subnets])
    assert not refused(three, sent("10.77.0.9"), guests, [subnets])
    assert refused(three, sent("10.77.0.1", local=True), guests, [subnets])
    assert not refused(socket.inet_aton("192.0.2.9"), sent("8.8.8.8"), guests, [subnets])
