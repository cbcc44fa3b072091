"""Which rule and route decide about a packet, and how it finds its way again."""

from __future__ import annotations

import errno
import socket

import pytest

from hvtx.host.inet import socket_family
from hvtx.host.routes import beyond
from hvtx.model.routing import Answer, Ask, Found, Packet, Place, Route, Rule
from hvtx.planner import routing

MAIN = Rule(32766, "lookup", 254)
LOCAL = Rule(0, "lookup", 255)
BRIDGE, WG, UPLINK, LO = 7, 3, 2, 1
ROUTES = [
    Route("10.77.0.1/32", LO, 255, "local"),
    Route("10.77.0.0/24", BRIDGE, 254),
    Route("0.0.0.0/0", UPLINK, 254),
]
EXIT = Route("0.0.0.0/0", WG, 52)
GUEST, GATEWAY, FAR = "10.77.0.2", "10.77.0.1", "192.0.2.1"


def decides(
    *rules: Rule, routes: tuple[Route, ...] = (EXIT,), packet: Packet | None = None
) -> int | None:
    """The number of the rule that decides about a packet, by default the host's to a guest."""
    found = routing.find([LOCAL, *rules, MAIN], [*ROUTES, *routes], packet or Packet(GUEST))
    return found.rule.pref if found else None


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(90, "lookup", 52), 90),
        (Rule(90, "lookup", 53), 32766),
        (Rule(90, "lookup", 52, destination="10.77.0.0/24"), 90),
        (Rule(90, "lookup", 52, destination="10.78.0.0/24"), 32766),
        (Rule(90, "lookup", 52, source="10.77.0.0/24"), 32766),  # the host has not chosen one
        (Rule(90, "lookup", 52, mark=7, mask=0xFF), 32766),
        (Rule(90, "lookup", 52, mark=0, mask=0xFF), 90),
        (Rule(90, "lookup", 52, mark=7, mask=0xFF, inverted=True), 90),
        (Rule(90, "lookup", 52, iif="lo"), 90),
        (Rule(90, "lookup", 52, iif="eth0"), 32766),
        (Rule(90, "lookup", 52, oif="eth0"), 32766),
        (Rule(90, "lookup", 52, users=(0, 0)), 90),
        (Rule(90, "lookup", 52, users=(1000, 1999)), 32766),
        (Rule(90, "lookup", 52, protocol=6), 90),
        (Rule(90, "lookup", 52, protocol=17), 32766),
        (Rule(90, "lookup", 52, dports=(53, 53)), 32766),
        (Rule(90, "lookup", 52, tos=0x10), 32766),
        (Rule(90, "lookup", 52, l3mdev=True), 32766),
        (Rule(90, "lookup", 52, suppress=0), 32766),
        (Rule(90, "prohibit"), 90),
        (Rule(90, "nop"), 32766),
        (Rule(90, "goto", target=32766), 32766),
    ],
)
def test_selectors(rule: Rule, expected: int) -> None:
    assert decides(rule) == expected


def test_a_goto_passes_over_rules_and_is_nothing_without_its_target() -> None:
    over = Rule(80, "goto", target=100)
    assert decides(over, Rule(90, "lookup", 52), Rule(100, "nop")) == 32766
    assert decides(Rule(32700, "goto", target=40000)) == 32766


def test_the_source_and_the_device_count() -> None:
    rule = Rule(90, "lookup", 52, source="10.77.0.0/24")
    assert decides(rule, packet=Packet(GUEST, GATEWAY)) == 90
    assert (
        decides(Rule(90, "lookup", 52, iif="up0"), packet=Packet(GUEST, FAR, UPLINK, "up0")) == 90
    )
    assert decides(rule, packet=Packet(GATEWAY, GUEST, BRIDGE, "br")) == 0


@pytest.mark.parametrize("kind", ["throw", "blackhole", "unreachable", "prohibit"])
def test_routes_that_lead_nowhere(kind: str) -> None:
    """A throw goes on with the next rule; the others end it."""
    found = decides(Rule(90, "lookup", 52), routes=(EXIT, Route("10.77.0.0/24", 0, 52, kind)))
    assert found == (32766 if kind == "throw" else 90)


def test_the_longest_prefix_then_the_lowest_metric() -> None:
    routes = [
        Route("10.0.0.0/8", 1, 254),
        Route("10.77.0.0/24", 2, 254, metric=9),
        Route("10.77.0.0/24", 3, 254, metric=5),
        Route("10.77.0.2/32", 4, 77),
    ]
    found = routing.best(routes, 254, GUEST)
    assert found is not None
    assert found.device == 3


def test_no_rule_is_no_way() -> None:
    assert routing.find([], ROUTES, Packet(GUEST)) is None
    assert routing.predicted(None).errno == errno.ENETUNREACH
    dead = Found(Rule(9, "prohibit"), None)
    assert routing.predicted(dead).errno == errno.EHOSTUNREACH
    assert routing.predicted(Found(MAIN, ROUTES[1])) == Answer(BRIDGE, 254, False)


@pytest.mark.parametrize(
    ("goal", "answer", "expected"),
    [
        ("bridge", Answer(BRIDGE, 254, False), False),
        ("bridge", Answer(WG, 52, False), True),
        ("bridge", Answer(LO, 255, True), True),
        ("bridge", Answer(0, 0, False, errno.EINVAL), True),
        ("local", Answer(LO, 255, True), False),
        ("local", Answer(BRIDGE, 254, False), True),
        ("world", Answer(WG, 52, False), False),
        ("world", Answer(0, 0, False, errno.EACCES), True),
    ],
)
def test_what_goes_astray(goal: str, answer: Answer, expected: bool) -> None:
    assert routing.goes_astray(Ask("", Packet(GUEST), goal), answer, BRIDGE) is expected


def test_what_is_asked_of_a_guest() -> None:
    """The host with and without a source, the gateway, and each place of the world."""
    found = routing.asks(GUEST, GATEWAY, (BRIDGE, "br"), [Place(UPLINK, "up0", FAR)])
    assert [(a.packet.source, a.packet.device, a.goal) for a in found] == [
        (None, "lo", "bridge"),
        (GATEWAY, "lo", "bridge"),
        (GUEST, "br", "local"),
        (FAR, "up0", "bridge"),
    ]


def test_the_fix_comes_before_the_rule_and_takes_a_free_number() -> None:
    found = Found(Rule(5270, "lookup", 52), EXIT)
    assert routing.fix(found, "10.77.0.0/24", [0, 5270]).endswith(
        "rule add to 10.77.0.0/24 lookup main pref 5269"
    )
    assert "pref 5268" in routing.fix(found, "10.77.0.0/24", [5269, 5270])
    assert routing.fix(found, "fd77::/64", []).startswith("ip -6 rule add to fd77::/64")
    assert "remove that route" in routing.fix(Found(MAIN, EXIT), "10.77.0.0/24", [])
    assert "above 0" in routing.fix(Found(Rule(0, "lookup", 52), EXIT), "10.77.0.0/24", [])


def test_the_way_out_is_for_all_of_a_bridge_or_for_replies_of_a_port() -> None:
    found, reply = Found(Rule(5270, "lookup", 52), EXIT), Packet(FAR, GUEST, protocol=17, sport=53)
    assert routing.fix_out(found, "hvbr0", [5269], family=4) == (
        "ip rule add iif hvbr0 lookup main pref 5268"
    )
    assert routing.fix_out(found, "hvbr0", [], family=6, reply=reply) == (
        "ip -6 rule add iif hvbr0 ipproto udp sport 53 lookup main pref 5269"
    )
    main = routing.fix_out(Found(MAIN, EXIT), "hvbr0", [], family=6)
    assert main == "`ip -6 route show table all` shows it; remove that route"
    first = routing.fix_out(Found(Rule(0, "lookup", 52), EXIT), "hvbr0", [], family=4)
    assert first == "give the rule a number above 0: ip rule show"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(1, "lookup", 52), "from all lookup 52"),
        (Rule(1, "lookup", 254, suppress=0), "from all lookup main suppress_prefixlength 0"),
        (
            Rule(1, "lookup", 5, mark=0xCA6C, mask=0xFFFFFFFF, inverted=True),
            "not from all fwmark 0xca6c lookup 5",
        ),
        (Rule(1, "goto", target=9, iif="eth0"), "from all iif eth0 goto 9"),
        (Rule(1, "prohibit", dports=(1, 9)), "from all dport 1-9 prohibit"),
    ],
)
def test_rules_are_shown_as_ip_shows_them(rule: Rule, words: str) -> None:
    assert routing.shown_rule(rule) == words


def test_the_cause_in_words() -> None:
    found = Found(Rule(5270, "lookup", 52), EXIT)
    assert routing.told(found, [(WG, "wg0")]) == (
        "rule 5270 (from all lookup 52): the route default dev wg0 in table 52"
    )
    half = Route("10.77.0.0/25", 0, 254, "blackhole")
    assert routing.told(Found(MAIN, half), []) == "the route blackhole 10.77.0.0/25 in table main"
    assert routing.told(Found(Rule(9, "prohibit"), None), []) == "rule 9 (from all prohibit)"


def test_what_takes_a_subnet_and_what_is_a_default() -> None:
    for prefix in ("0.0.0.0/0", "128.0.0.0/1", "2000::/3"):
        assert not routing.takes(Route(prefix, WG, 52))
        assert routing.is_default(Route(prefix, WG, 52))
    assert routing.takes(Route("10.0.0.0/8", WG, 52))
    assert not routing.takes(Route("10.77.0.0/24", 0, 52, "throw"))


def test_parts_of_a_subnet() -> None:
    inner = Route("10.77.0.128/25", WG, 52)
    others = [*ROUTES, inner, Route("10.77.0.64/26", 0, 9, "throw"), Route("fd00::/8", WG, 254)]
    through = Route("10.77.0.32/27", 0, 254, devices=(WG, BRIDGE))
    parts = list(routing.in_the_way("10.77.0.0/24", BRIDGE, [*others, through]))
    assert parts == [ROUTES[0], inner]


@pytest.mark.parametrize(
    ("own", "near"),
    [
        ("192.168.1.1/24", "192.168.1.2"),
        ("192.168.1.7/24", "192.168.1.1"),
        ("10.0.0.5/32", FAR),
        ("10.0.0.5/31", FAR),
        ("2001:db8::9/64", "2001:db8::1"),
        ("2001:db8::9/128", FAR),
    ],
)
def test_a_neighbour(own: str, near: str) -> None:
    assert beyond(own, FAR) == near


@pytest.mark.parametrize(
    ("own", "others", "near"),
    [
        ("192.168.1.1/24", ["192.168.1.2"], "192.168.1.3"),
        ("192.168.1.2/24", ["192.168.1.1"], "192.168.1.3"),
        ("192.168.1.9/29", [f"192.168.1.{last}" for last in range(10, 14)], "192.168.1.14"),
        ("192.168.1.9/30", ["192.168.1.10"], FAR),
        ("2001:db8::1/64", ["2001:db8::2", "2001:db8::3"], "2001:db8::4"),
    ],
)
def test_a_neighbour_has_no_address_of_the_host(own: str, others: list[str], near: str) -> None:
    every = [own.partition("/")[0], *others]
    taken = {socket.inet_pton(socket_family(one), one) for one in every}
    assert beyond(own, FAR, taken) == near


def test_a_guest_of_a_subnet() -> None:
    assert routing.sample("10.77.0.0/24", "10.77.0.1") == "10.77.0.2"
    assert routing.sample("10.77.0.0/24", "10.77.0.254") == "10.77.0.1"
    assert routing.last("10.77.0.0/24", "10.77.0.1") == "10.77.0.254"
    assert routing.last("10.77.0.0/30", "10.77.0.2") == "10.77.0.1"
