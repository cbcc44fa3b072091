"""Who stands for a network when its flows are tried, and how flows are said in words."""

from __future__ import annotations

from typing import Any

from hvtx.model.resource import Kind, Resource
from hvtx.model.traffic import Flow, Stop, Way
from hvtx.model.vm import Network
from hvtx.planner import promises

NET = Network("n1", "lan", "br0", "02:00:00:00:00:99", 1500, True, False, "nftables",
              ("10.77.0.0/24", "fd77::/64"), ("10.77.0.1", "fd77::1"), "fe80::1")  # fmt: skip


def row(kind: str, **spec: Any) -> Resource:
    return Resource(1, kind, "k", "committed", "m", spec, {}, 1, 1, "v", "n1")


def port(number: int, bridge: str = "br0") -> Resource:
    return row(Kind.FILTER, what="port", device=f"tap{number}", mac=f"02:00:00:00:00:{number:02x}",
               ipv4=f"10.77.0.{number}", ipv6=f"fd77::{number}", bridge=bridge)  # fmt: skip


def publish(number: int, host_port: int) -> Resource:
    return row(Kind.PUBLISH, what="publish", protocol="tcp", host_ip=None, host_port=host_port,
               guest_port=80, ipv4=f"10.77.0.{number}", ipv6=f"fd77::{number}", bridge="br0")  # fmt: skip


def test_guests_that_publish_stand_for_all() -> None:
    rows = [port(n) for n in range(2, 9)] + [publish(7, 8080), publish(8, 8081)]
    there = {f"tap{n}": 100 + n for n in range(2, 9)}
    found = promises.promise(NET, 5, rows, there)
    assert [guest.device for guest in found.guests] == ["tap7", "tap8"]
    assert [(p.guest.device, p.host_port) for p in found.ports] == [("tap7", 8080), ("tap8", 8081)]
    assert promises.devices_of(rows)["br0"][:2] == ["tap7", "tap8"]


def test_only_a_few_ports_are_tried() -> None:
    rows = [port(2), *(publish(2, 8000 + n) for n in range(50))]
    found = promises.promise(NET, 5, rows, {"tap2": 3})
    assert len(found.ports) == promises.MOST_PORTS
    rows.append(publish(3, 9000)._replace(spec={**publish(3, 9000).spec, "guest_port": 81}))
    found = promises.promise(NET, 5, rows, {"tap2": 3})
    assert [(one.protocol, one.port) for one in found.served] == [("tcp", 80), ("tcp", 81)]


def test_guests_are_thought_up_with_addresses_that_nobody_has() -> None:
    rows = [port(254), port(253)]
    found = promises.promise(NET, 5, rows, {})  # neither runs
    assert [guest.ipv4 for guest in found.guests] == ["10.77.0.252", "10.77.0.251"]
    assert len({guest.device for guest in found.guests}) == 2
    assert len({guest.ifindex for guest in found.guests}) == 2
    assert all(len(guest.device) < 16 and guest.wants for guest in found.guests)
    assert {want.kind for want in found.guests[0].wants} == {
        Kind.TAP, Kind.FILTER, Kind.MASQUERADE,
    }  # fmt: skip


def test_a_small_network_has_room_for_one_only() -> None:
    small = NET._replace(subnets=("10.77.0.0/30",), gateways=("10.77.0.1",))
    found = promises.promise(small, 5, [], {})
    assert [guest.ipv4 for guest in found.guests] == ["10.77.0.2"]


def flow(way: Way, family: int, protocol: str, number: int | None = None) -> Flow:
    return Flow(way, family, protocol, "lan", "br0", number)


def test_flows_in_words() -> None:
    found = [
        flow(Way.GUEST_TO_WORLD, 4, "tcp"), flow(Way.GUEST_TO_WORLD, 6, "tcp"),
        flow(Way.WORLD_TO_PORT, 4, "tcp", 8080), flow(Way.GUEST_TO_WORLD, 4, "udp"),
    ]  # fmt: skip
    assert promises.flow_words(found) == (
        "guest to world (tcp, udp; IPv4 and IPv6), world to published port (8080/tcp; IPv4)"
    )


def test_what_guests_ask_first_in_words() -> None:
    found = [flow(Way.GUEST_TO_DHCP, 4, "udp", 67), flow(Way.GUEST_TO_DHCP, 6, "udp", 547),
             flow(Way.GUEST_TO_ROUTER, 6, "icmp")]  # fmt: skip
    assert promises.flow_words(found) == (
        "guest to DHCP server (67/udp, 547/udp; IPv4 and IPv6),"
        " guest to router (router solicitation; IPv6)"
    )


def test_what_one_thing_stops_is_one() -> None:
    flows = [flow(Way.GUEST_TO_WORLD, 4, "tcp"), flow(Way.GUEST_TO_GUEST, 4, "tcp")]
    stops = [Stop(one, "nft", ("inet", "w", "c"), "drop") for one in flows]
    stops.append(stops[0]._replace(what="policy drop"))
    assert [len(found) for found in promises.grouped(stops).values()] == [2, 1]
