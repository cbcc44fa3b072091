"""Rules of egress policies as people write them."""

from __future__ import annotations

import pytest

from hvtx.errors import Conflict, UsageError
from hvtx.model.policy import NO_POLICY, EgressRule, Policy, written
from hvtx.planner import egress_rules
from tests.planner.test_egress import network

GOOD = {
    "192.0.2.0/24": EgressRule("allow", "192.0.2.0/24"),
    "192.0.2.1": EgressRule("allow", "192.0.2.1/32"),
    "0.0.0.0/0:443": EgressRule("allow", "0.0.0.0/0", 443, 443),
    "192.0.2.1:8000-8010/udp": EgressRule("allow", "192.0.2.1/32", 8000, 8010, "udp"),
    "2001:db8::/32": EgressRule("allow", "2001:db8::/32"),
    "[2001:db8::1]:443/tcp": EgressRule("allow", "2001:db8::1/128", 443, 443, "tcp"),
    "example.org": EgressRule("allow", "example.org"),
    "Www.Example.org:80-90/udp": EgressRule("allow", "www.example.org", 80, 90, "udp"),
    "4.example.org": EgressRule("allow", "4.example.org"),
}
BAD = (
    "", ":443", "192.0.2.1/24", "192.0.2.0/33", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536",
    "192.0.2.1:90-80", "192.0.2.1:80/sctp", "192.0.2.1:80-", "192.0.2.1/tcp", "[192.0.2.1]:80",
    "[2001:db8::1]443", "[2001:db8::1", "2001:db8::1]:80", "2001:db8::1/64", "fe80::1%eth0",
    "10.0.0.1 ", "٣.0.0.1", "10.0.0.1:٣", "example.org:443", "1.2.3:80", "example.org.", "a..b", "bücher.example",
)  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_a_rule_is_read_and_written(text: str) -> None:
    rule = egress_rules.parse_rule("allow", text)
    assert rule == GOOD[text]
    assert egress_rules.parse_rule("allow", written(rule)) == rule


@pytest.mark.parametrize("text", BAD)
def test_what_is_none_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        egress_rules.parse_rule("deny", text)
    assert refused.value.hint


@pytest.mark.parametrize("text", ["fe80::1%eth0", "[fd77::/64%eth0]:443"])
def test_a_zone_is_named_with_the_option_as_it_was_written(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        egress_rules.parse_rule("allow", text)
    assert refused.value.message.startswith(f"--allow {text!r}: ")
    assert refused.value.message.endswith(
        "no address or subnet: 'eth0' behind '%' is a device of one host"
    )


@pytest.mark.parametrize("text", [
    "localhost", "localhost:80", "web.lan", "example.org.", "a..b", "-a.example", "b\u00fccher.example",
    ".".join(["a" * 60] * 5), "1.2.3", "example.org:0", "example.org/tcp", "*.example.org",
    'a"b.example', "a b.example", "a/b.example", "a#b.example",
    "e\u017fample.org", "\u212a.example", "\u0130.example", "\u0131.example",  # letters, where case is ignored
])  # fmt: skip
def test_what_is_no_whole_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        egress_rules.parse_rule("allow", text)
    assert refused.value.hint


@pytest.mark.parametrize(("text", "meant"), [
    ("10.0.0.0/8/tcp", "10.0.0.0/8:1-65535/tcp"),
    ("192.0.2.1/udp", "192.0.2.1:1-65535/udp"),
    ("2001:db8::/32/tcp", "[2001:db8::/32]:1-65535/tcp"),
    ("example.org/tcp", "example.org:1-65535/tcp"),
])  # fmt: skip
def test_a_protocol_without_a_port_is_told_how_to_be_written(text: str, meant: str) -> None:
    with pytest.raises(UsageError) as refused:
        egress_rules.parse_rule("allow", text)
    assert refused.value.hint is not None
    assert refused.value.hint.endswith(f": {meant}")
    assert egress_rules.parse_rule("allow", meant).protocol == meant[-3:]


@pytest.mark.parametrize(("text", "meant"), [
    ("*.example.org:443", "example.org:443"), ("example.org.", "example.org"),
    ("https://example.org", "example.org:443"), ("http://example.org:8080/a/b", "example.org:8080"),
    ("192.0.2.1:443/TCP", "192.0.2.1:443/tcp"), ("[fd12::]/16:80", "[fd12::/16]:80"),
    ("https://[2001:db8::1]/", "[2001:db8::1]:443"),
])  # fmt: skip
def test_a_slip_is_told_how_to_be_written(text: str, meant: str) -> None:
    with pytest.raises(UsageError) as refused:
        egress_rules.parse_rule("allow", text)
    assert refused.value.hint == f"write it as {meant}"


@pytest.mark.parametrize("text", [
    "*:443", "https://", "a b:80", "https://example.org:99999",  # no hint is refused itself
    "10.0.0.0/8/sctp", "/tcp", "a b/tcp", "10.0.0.0/8/",
])  # fmt: skip
def test_what_has_no_hint_of_its_own_is_told_of_rules(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        egress_rules.parse_rule("allow", text)
    assert refused.value.hint == egress_rules.HINT


def test_an_address_that_ends_like_a_port_is_told() -> None:
    (words,) = egress_rules.mistakable([], ["fd12::5:443", "[fd12::5]:443", "10.0.0.1:443"])
    assert "--deny fd12::5:443 is one address" in words
    assert words.endswith(" [fd12::5]:443")
    plain = [
        "fd12::/16",
        "fd12::5",
        "::1",
        "fd12::5:beef",
        "2001:db8:0:0:0:0:1:443",
        "example.org:80",
    ]
    assert egress_rules.mistakable(plain, []) == []


def test_a_name_is_allowed_only() -> None:
    with pytest.raises(UsageError, match="only addresses and subnets can be denied"):
        egress_rules.parse_rule("deny", "example.org:443")


def test_a_name_needs_a_network_with_dns() -> None:
    policy = egress_rules.parse_policy("none", ["192.0.2.1", "example.org:443"], [])
    served, bare = network()._replace(dhcp=True), network()._replace(name="bare", dhcp=False)
    egress_rules.refuse_names(policy, [served])
    with pytest.raises(Conflict, match="'bare' has none") as refused:
        egress_rules.refuse_names(policy, [served, bare])
    assert "hvtx network set bare --dhcp" in (refused.value.hint or "")
    with pytest.raises(Conflict) as refused:
        egress_rules.refuse_names(policy, [bare], "make {} with --dhcp")
    assert refused.value.hint == "make bare with --dhcp; or allow addresses instead"
    egress_rules.refuse_names(egress_rules.parse_policy("none", ["192.0.2.1"], []), [bare])


def test_a_name_that_opens_nothing_more_is_told() -> None:
    for mode, told in (("none", False), ("internet", True), ("open", True), (None, True)):
        policy = egress_rules.parse_policy(mode, ["example.org"], [])
        found = egress_rules.useless(policy, [network()])
        assert bool(found) is told, mode


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("[::ffff:192.0.2.1]:443", "192.0.2.1/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_ipv4_is_not_disguised(text: str, instead: str) -> None:
    with pytest.raises(UsageError) as refused:
        egress_rules.parse_rule("deny", text)
    assert instead in (refused.value.hint or "")


def test_a_mode_is_one_of_three() -> None:
    with pytest.raises(UsageError, match="all"):
        egress_rules.parse_policy("all", (), ())


def test_too_many_rules_are_refused() -> None:
    with pytest.raises(UsageError, match="129"):
        egress_rules.parse_policy(None, [f"192.0.2.{n}" for n in range(129)], ())


def test_a_change_adds_or_starts_anew() -> None:
    policy = egress_rules.parse_policy("internet", ["192.0.2.1"], [])
    add = egress_rules.parse_change(None, ["192.0.2.2", "192.0.2.1"], [])
    assert [r.to for r in egress_rules.changed(policy, add).rules] == [
        "192.0.2.1/32", "192.0.2.2/32",
    ]  # fmt: skip
    assert egress_rules.changed(policy, add).egress == "internet"
    anew = egress_rules.parse_change("", (), (), clear=True)
    assert egress_rules.changed(policy, anew) == NO_POLICY


def test_without_a_mode_of_its_own_another_holds() -> None:
    """A network's is the setting's again."""
    policy, gone = Policy("none"), egress_rules.parse_change("", (), ())
    assert egress_rules.changed(policy, gone, "internet") == Policy("internet")
    other = egress_rules.parse_change("open", (), ())
    assert egress_rules.changed(policy, other, "internet") == Policy("open")
    same = egress_rules.parse_change(None, (), ["192.0.2.1"])
    assert egress_rules.changed(NO_POLICY, same, "internet").egress is None


def test_a_rule_of_a_family_that_no_network_has_is_told() -> None:
    policy = Policy(None, (EgressRule("allow", "2001:db8::/32"),))
    (words,) = egress_rules.useless(policy, [network()])
    assert "IPv6" in words
    assert (
        egress_rules.useless(Policy(None, (EgressRule("deny", "10.0.0.0/8"),)), [network()]) == []
    )


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("10.77.0.3", "between guests of network 'lan'"),
        ("10.77.0.0/24:22", "between guests of network 'lan'"),
        ("127.0.0.1:80", "loopback"),
        ("10.77.0.1", None),  # the gateway: services of the host
        ("10.0.0.0/8", None),
        ("10.78.0.3", None),
        ("0.0.0.0/0", None),
    ],
)
def test_a_rule_about_what_no_policy_is_asked_for_is_told(to: str, told: str | None) -> None:
    for action in ("allow", "deny"):
        policy = Policy("none", (egress_rules.parse_rule(action, to),))
        found = egress_rules.useless(policy, [network()])
        assert [words.startswith(f"--{action} {to} ") for words in found] == [True] * bool(told)
        assert told is None or told in found[0]


def test_guests_of_a_cluster_are_on_other_hosts_too() -> None:
    """What is sent there is forwarded, and a policy is asked."""
    policy = Policy("none", (EgressRule("allow", "10.77.0.3/32"),))
    assert egress_rules.useless(policy, [network()._replace(block_size=26)]) == []


@pytest.mark.parametrize(
    ("mode", "hint"),
    [
        ("interne", "did you mean 'internet'? it is one of open, internet, none"),
        ("xyz", "it is one of open, internet, none"),
    ],
)
def test_a_mode_that_was_probably_meant(mode: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        egress_rules.parse_change(mode, [], [])
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("action", "text", "hint"),
    [
        ("deny", "all", "for all there is a mode: --egress none"),
        ("allow", "any", "for all there is a mode: --egress open"),
        ("allow", "443", "write a port of every address as 0.0.0.0/0:443"),
    ],
)
def test_what_stands_for_all_is_told_how_to_be_written(action: str, text: str, hint: str) -> None:
    with pytest.raises(UsageError) as told:
        egress_rules.parse_rule(action, text)
    assert told.value.hint == hint
    assert text in told.value.message
    assert egress_rules.parse_rule("allow", "0.0.0.0/0:443").first_port == 443
