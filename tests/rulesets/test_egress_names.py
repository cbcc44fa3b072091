"""The table of names: whose rules stand in it, what a name opens, what dnsmasq is told."""

from __future__ import annotations

import re

import pytest

from hvtx.model.policy import EgressRule
from hvtx.planner.egress_rules import parse_rule
from hvtx.rulesets import egress_names
from hvtx.rulesets.egress_names import Owner, set_of

TABLE = "hvtx-0123456789-n1"


def rules(*texts: str) -> tuple[EgressRule, ...]:
    return tuple(parse_rule("allow", text) for text in texts)


WEB = Owner(rules("example.org:443/tcp"), "02:00:00:00:00:01", apart=True)
TWO = Owner(rules("www.example.org", "example.net:80-90"), "02:00:00:00:00:02")
ALL = Owner(rules("example.com:53/udp"))


def chain(text: str, name: str) -> list[str]:
    return re.findall(rf"^add rule inet {TABLE} {name} (.*)$", text, re.MULTILINE)


def test_each_owner_has_a_chain_of_its_own_rules() -> None:
    text = egress_names.filled(TABLE, "hvbr0", [WEB, TWO, ALL], (), ())
    four, six = (set_of("example.org", family) for family in (4, 6))
    assert chain(text, "vm_020000000001") == [
        f"ip daddr @{four} meta l4proto tcp th dport 443 goto named_vm",
        f"ip6 daddr @{six} meta l4proto tcp th dport 443 goto named_vm",
        "accept",
    ]
    four, ranged = set_of("www.example.org", 4), set_of("example.net", 4)
    assert chain(text, "vm_020000000002")[::2] == [
        f"ip daddr @{four} goto named_vm",
        f"ip daddr @{ranged} meta l4proto {{ tcp, udp }} th dport 80-90 goto named_vm",
    ]
    assert [rule.rpartition(" ")[2] for rule in chain(text, "network")] == ["named_network"] * 2
    assert chain(text, "named_vm") != chain(text, "named_network")
    assert chain(text, "names")[-2:] == ["ether saddr vmap @owners", "jump network"]
    assert "owners { 02:00:00:00:00:01 : jump vm_020000000001 }" in text
    without = egress_names.filled(TABLE, "hvbr0", [WEB], (), ())
    assert "jump network" not in without


def test_what_is_no_internet_is_never_asked() -> None:
    """It leaves the chain before any set of a name is looked up."""
    first = chain(egress_names.filled(TABLE, "hvbr0", [WEB], (), ()), "names")
    before = " ".join(first[: first.index("ether saddr vmap @owners")])
    for closed in ("169.254.0.0/16", "10.0.0.0/8", "100.64.0.0/10", "168.63.129.16"):
        assert closed in before
    assert "ip6 daddr != 2000::/3 accept" in first
    assert first[0] == 'iifname != "hvbr0" accept'


def test_what_stays_keeps_its_addresses_and_the_rest_goes() -> None:
    had = egress_names.filled(TABLE, "hvbr0", [WEB, TWO], (), ())
    sets = [*re.findall(r"^add (?:set|map) inet \S+ (\S+)", had, re.MULTILINE)]
    chains = [*re.findall(r"^add chain inet \S+ (\S+)", had, re.MULTILINE)]
    text = egress_names.filled(TABLE, "hvbr0", [WEB], chains, sets)
    gone = set(re.findall(r"^delete (\w+ inet \S+ \S+)$", text, re.MULTILINE))
    names = ("www.example.org", "example.net")
    assert gone == {
        f"chain inet {TABLE} vm_020000000002",
        *(f"set inet {TABLE} {set_of(name, family)}" for name in names for family in (4, 6)),
    }
    assert f"flush map inet {TABLE} owners" in text
    assert "flush set" not in text


def test_a_name_fills_the_sets_of_those_above_it_too() -> None:
    """dnsmasq takes the longest name that matches, and no other."""
    told = egress_names.configuration(TABLE, [WEB, TWO, ALL])
    assert told[:2] == ["max-ttl=60", "max-cache-ttl=60"]
    line = next(one for one in told if one.startswith("nftset=/www.example.org/"))
    for name in ("example.org", "www.example.org"):
        for family in (4, 6):
            assert f"{family}#inet#{TABLE}#{set_of(name, family)}" in line
    above = next(one for one in told if one.startswith("nftset=/example.org/"))
    assert set_of("www.example.org", 4) not in above
    assert len(told) == 2 + 4
    assert egress_names.configuration(TABLE, []) == []


def test_a_line_is_never_longer_than_dnsmasq_reads_at_once() -> None:
    """1024 bytes: what is nearest to the name stays, in pairs of both families."""
    names = ["example.org"]
    for number in range(20):
        names.append(f"l{number}.{names[-1]}")
    told = egress_names.configuration(TABLE, [Owner(rules(*names))])
    assert max(map(len, told)) < 1024
    line = next(one for one in told if one.startswith(f"nftset=/{names[-1]}/"))
    sets = line.rpartition("/")[2].split(",")
    nearest = [set_of(name, family) for name in reversed(names) for family in (4, 6)]
    assert [one.rpartition("#")[2] for one in sets] == nearest[: len(sets)]
    assert len(sets) % 2 == 0
    assert len(sets) >= 10


def test_an_address_stays_longer_than_any_answer_is_kept() -> None:
    assert egress_names.TTL < egress_names.SECONDS / 10


@pytest.mark.parametrize("owner", [WEB, TWO, ALL])
def test_a_file_is_read_as_it_was_written(owner: Owner) -> None:
    text = egress_names.written_file(owner, "hvtx:1:i:7.abc")
    assert text.startswith("# hvtx:1:i:7.abc\n")
    assert egress_names.read_file(text) == owner


@pytest.mark.parametrize(
    "text", ["", "# mark\n", "# mark\n02:00 more else\n", "# m\n- more\na b\n"]
)
def test_another_file_is_none(text: str) -> None:
    assert egress_names.read_file(text) is None


def test_the_table_is_the_networks() -> None:
    assert egress_names.table_of("i", "/run/hvtx/i/networks/n1") == "hvtx-i-n1"


def test_the_addresses_of_a_name_are_those_of_its_sets() -> None:
    sets = {set_of("example.org", 4): {b"aaaa"}, set_of("example.net", 4): {b"bbbb"}}
    assert egress_names.addresses("example.org", sets) == {b"aaaa"}
    assert egress_names.addresses("example.com", sets) == frozenset()
