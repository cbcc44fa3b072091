"""What guests reach by their network's uplink, in words and commands."""

from __future__ import annotations

from typing import Any

from hvtx.model.resource import Kind, Resource
from hvtx.model.routing import Found, Packet, Route, Rule
from hvtx.model.vm import Network
from hvtx.planner import routing
from hvtx.planner.uplink_ways import (
    Served,
    Way,
    free_prefs,
    free_table,
    lead,
    prefixes,
    samples,
    served,
    told,
)

NET = Network("n1", "lab", "br0", "02:00:00:00:00:99", 1500, True, False, "nftables",
              ("10.77.0.0/24", "fd77::/64"), ("10.77.0.1", "fd77::1"), "fe80::1", uplink="wg0")  # fmt: skip
ROUTES = [
    Route("10.9.0.0/24", 7, 254), Route("10.9.0.1/32", 7, 255, "local"), Route("10.0.0.0/8", 3, 254),
    Route("0.0.0.0/0", 0, 100, devices=(3, 7)), Route("10.9.0.0/24", 7, 254, metric=9),
    Route("fe80::/64", 7, 254), Route("ff00::/8", 7, 255, "multicast"),
]  # fmt: skip


def test_what_routes_lead_to_by_a_device() -> None:
    assert prefixes(ROUTES, 7) == ["10.9.0.0/24", "0.0.0.0/0"]
    assert list(samples("10.9.0.0/24")) == ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"]
    assert list(samples("10.9.0.1/32")) == ["10.9.0.1"]


def test_a_table_is_nobodys() -> None:
    """No route is in it, no rule asks it, and no other network is told of it in the same breath."""
    assert free_table(ROUTES, ()) == 101
    assert free_table((), ()) == 100
    down = Rule(5000, "lookup", 100, source="10.0.0.5/32")  # its routes come with its tunnel
    assert free_table((), [down]) == 101
    assert free_table(ROUTES, [down], {101}) == 102
    every = [Route("0.0.0.0/0", 3, number) for number in range(100, 253)]
    assert free_table(every, ()) == 256, "the next three are main, default and local"


def test_rules_come_before_those_that_decide_now() -> None:
    local, main = Rule(0, "lookup", 255), Rule(32766, "lookup", 254)
    assert free_prefs([local, main], [None, Found(main, ROUTES[0])]) == (32764, 32765)
    assert free_prefs([local, main], [None]) == (32764, 32765)
    exit_node = Rule(5270, "lookup", 52)
    others = [local, Rule(5269, "nop"), exit_node, Rule(5267, "nop"), main]
    assert free_prefs(others, [Found(main, None), Found(exit_node, None)]) == (5266, 5268)
    first = [local, *(Rule(number, "lookup", 52) for number in (1, 2)), main]
    assert free_prefs(first, [Found(first[2], None)]) is None
    assert free_prefs(first, [Found(first[1], None)]) is None
    assert free_prefs(first, [Found(local, None)]) is None


def test_what_others_are_answered_from() -> None:
    def port(number: int, **more: Any) -> Resource:
        spec = {"bridge": "br0", "protocol": "tcp", "host_ip": None, "host_port": 1000 + number,
                "guest_port": number, **more}  # fmt: skip
        return Resource(1, Kind.PUBLISH, "", "committed", "m", spec, {}, 0, 0, None, None)

    rows = [
        port(80), port(80, host_port=8081), port(53, protocol="udp", host_ip="203.0.113.7"),
        port(22, host_ip="127.0.0.1"), port(23, host_ip="::1"), port(25, bridge="br1"),
        port(443, host_ip="::"),
    ]  # fmt: skip
    found = served(rows, "br0")
    assert found == (Served("tcp", 80), Served("tcp", 443, 6), Served("udp", 53, 4))


def _carried_out(commands: str) -> tuple[list[Rule], list[Route]]:
    """The rules and routes that there are after printed commands; the uplink is device 7."""
    rules, routes = [Rule(0, "lookup", 255), Rule(32766, "lookup", 254)], []
    for command in commands.split("; "):
        words = command.split()
        is_route = words[1:4] == ["route", "add", "default"]
        words = words[3 + is_route :]
        told = dict(zip(words[::2], words[1::2], strict=True))
        if is_route:
            routes.append(Route("0.0.0.0/0", 7, int(told["table"])))
            continue
        table = 254 if told["lookup"] == "main" else int(told["lookup"])
        sport = int(told.get("sport", 0))
        suppress = int(told.get("suppress_prefixlength", -1))
        rules.append(
            Rule(
                int(told["pref"]), "lookup", table, iif=told["iif"], suppress=suppress,
                protocol={"tcp": 6, "udp": 17}.get(told.get("ipproto", ""), 0),
                sports=(sport, sport) if sport else None,
            )
        )  # fmt: skip
    return rules, routes


def test_the_commands_lead_new_packets_alone_by_the_uplink() -> None:
    """Neighbours by another device, other networks and who asked a published port are answered."""
    ways = {4: Way(None, gateway=False)}
    rules, routes = _carried_out(lead(NET, ways, [Served("tcp", 80), Served("udp", 53, 6)]))
    routes += [
        Route("192.0.2.0/24", 2, 254), Route("10.78.0.0/24", 9, 254),
        Route("0.0.0.0/1", 2, 254), Route("128.0.0.0/1", 2, 254), Route("0.0.0.0/0", 2, 254),
    ]  # fmt: skip

    def led(to: str, device: str = "br0", protocol: int = 6, sport: int = 0) -> int:
        source = "10.77.0.2" if device == "br0" else None
        packet = Packet(to, source, 5, device, protocol=protocol, sport=sport)
        found = routing.find(rules, routes, packet)
        return found.route.device if found is not None and found.route is not None else 0

    assert led("9.9.9.9") == 7
    assert led("9.9.9.9", protocol=17, sport=53) == 7
    assert led("192.0.2.9", protocol=17) == 2
    assert led("10.78.0.2") == 9
    assert led("9.9.9.9", sport=80) == 2
    assert led("9.9.9.9", "br1") == led("9.9.9.9", "lo") == 2


def test_who_reaches_the_world_is_told_nothing() -> None:
    assert told(NET, {}) is None
    assert told(NET, {4: Way("9.9.9.9", world=True), 6: Way(None)}) is None


def test_what_is_behind_a_device_is_named() -> None:
    many = tuple(f"10.{n}.0.0/16" for n in range(5))
    found = told(NET, {4: Way("10.0.0.1", behind=many), 6: Way(None)})
    assert found is not None
    level, words, fix = found
    assert level == "note"
    assert "reach 10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16 and 2 more by its uplink wg0" in words
    assert fix.split("; ") == [
        "ip route add default via GATEWAY dev wg0 table 100",
        "ip rule add iif br0 lookup main suppress_prefixlength 3 pref 32764",
        "ip rule add iif br0 lookup 100 pref 32765",
        "ip -6 route add default via GATEWAY dev wg0 table 100",
        "ip -6 rule add iif br0 lookup main suppress_prefixlength 3 pref 32764",
        "ip -6 rule add iif br0 lookup 100 pref 32765",
    ]  # fmt: skip


def test_a_device_that_leads_nowhere_is_a_warning() -> None:
    found = told(NET, {4: Way(None, gateway=False, table=102, prefs=(4, 7))}, [Served("tcp", 80)])
    assert found is not None
    level, words, fix = found
    assert level == "warning"
    assert words.endswith("so they reach nothing beyond this host")
    assert fix.split("; ") == [
        "ip route add default dev wg0 table 102",
        "ip rule add iif br0 lookup main suppress_prefixlength 3 pref 4",
        "ip rule add iif br0 ipproto tcp sport 80 lookup main pref 4",
        "ip rule add iif br0 lookup 102 pref 7",
    ]


def test_where_no_number_is_free_no_rule_is_told() -> None:
    found = told(NET, {6: Way(None, prefs=None)})
    assert found is not None
    assert found[2] == "give the first rules higher numbers: ip -6 rule show"
