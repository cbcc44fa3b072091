"""Firewall rows: their shapes as the store has them, read with types."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.model.firewall import (
    ChainRules,
    addresses_in,
    chain_key,
    chain_rules,
    digests_in,
    firewall_spec,
    iptables_observed,
    packed_digests,
    stands_on,
)
from hvtx.model.resource import Kind, Resource
from hvtx.rulesets.nftables_elements import unplaced


def row(kind: str = Kind.FILTER, observed: dict[str, Any] | None = None, **spec: Any) -> Resource:
    return Resource(1, kind, "key", "committed", "mark", spec, observed or {}, 1, 1, None, None)


def test_digests_take_little_room_and_come_back() -> None:
    """As they are kept now, and as earlier versions kept them; none is none."""
    digests = ["60ab6246c0826c1c46f1", "00000000000000000000", "ffffffffffffffffffff"]
    for some in (digests, digests[:1], []):
        assert digests_in(packed_digests(some)) == some
        assert digests_in(some) == some
    assert len(packed_digests(digests)) == 40


def test_chain_rules_are_the_digests_of_each_chain() -> None:
    observed = {"rules": {chain_key("inet", "raw"): ["a", "b"], "bridge guard": ["c"]}}
    assert list(chain_rules(row(observed=observed))) == [
        ChainRules("inet", "raw", ["a", "b"]),
        ChainRules("bridge", "guard", ["c"]),
    ]
    assert list(chain_rules(row())) == []


def test_iptables_observed_keeps_place_text_and_head() -> None:
    rules = [["iptables nat POSTROUTING", "-j MASQUERADE", False]]
    assert iptables_observed(row(observed={"rules": rules}))["rules"] == rules


@pytest.mark.parametrize(
    ("four", "six", "found"),
    [("10.77.0.2", "fd77::2", ["10.77.0.2", "fd77::2"]), (None, "fd77::2", ["fd77::2"]),
     ("10.77.0.2", None, ["10.77.0.2"]), (None, None, [])],
)  # fmt: skip
def test_addresses_in_a_spec(four: str | None, six: str | None, found: list[str]) -> None:
    assert addresses_in(firewall_spec(row(ipv4=four, ipv6=six))) == found
    assert addresses_in(firewall_spec(row())) == []


def test_a_row_says_what_it_stands_for() -> None:
    made = row(backend="nftables", what="port", bridge="hvbr1", ifindex=7, ipv4="10.77.0.2")
    assert (made.backend, made.role, made.bridge, made.ifindex) == ("nftables", "port", "hvbr1", 7)
    assert made.guest == ("10.77.0.2", None)
    assert not made.imported


def test_a_row_that_does_not_say_has_nothing() -> None:
    """A device that was taken over may have no bridge on record: None, and not a name."""
    bare, taken = row(Kind.LEASE), row(Kind.TAP, bridge=None, imported="my-hypervisor")
    assert (bare.backend, bare.role, bare.bridge, bare.ifindex) == ("", "", "", 0)
    assert (bare.guest, bare.addresses, bare.imported) == ((None, None), [], False)
    assert (taken.bridge, taken.imported) == ("", True)


def test_firewall_spec_is_of_firewall_rows() -> None:
    with pytest.raises(AssertionError, match="tap"):
        firewall_spec(row(Kind.TAP))


_SOME: dict[str, dict[str, Any]] = {
    "network": {"bridge": "b", "isolate": True, "nat": True},
    "guard": {"bridge": "b", "device": "d", "mac": "02:00:00:00:00:01", "isolate": True},
    "port": {"what": "port", "forward": True, "ipv4": "10.77.0.2", "bridge": "b", "device": "d",
             "mac": "02:00:00:00:00:01", "isolate": False},
    "forward": {"bridge": "b", "ipv4": "10.77.0.2", "ipv6": "fd77::2"},
    "masquerade": {"bridge": "b", "address": "10.77.0.2"},
    "publish": {"bridge": "b", "protocol": "tcp", "host_ip": None, "ipv4": "10.77.0.2",
                "host_port": 80, "guest_port": 80},
    "egress": {"bridge": "b", "mac": "02:00:00:00:00:01", "egress": "none", "alone": True},
}  # fmt: skip


@pytest.mark.parametrize("what", _SOME)
def test_a_row_stands_on_the_tables_that_have_its_elements(what: str) -> None:
    """No more and no less; of others and of earlier versions' bases it may."""
    words = {"what": "port" if what == "guard" else what, **_SOME[what]}
    own = row(backend="nftables", **words)
    tables = {piece.family for piece in unplaced(firewall_spec(own))}
    assert tables
    for family in ("bridge", "inet"):
        base = row(backend="nftables", what="base", families=[family])
        assert stands_on(own, base) == (family in tables), family
        assert stands_on(row(backend="nftables", what="imported"), base)
    assert stands_on(own, row(backend="nftables", what="base"))
