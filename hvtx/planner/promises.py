"""The flows that a network's guests are promised, and the ends to test them with. Pure.

Guests that run stand for all of their network: two of them, and those with published ports. Where
there are fewer, guests are thought up that could run.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from hvtx.model.address import family_of
from hvtx.model.firewall import FirewallSpec, firewall_spec
from hvtx.model.resource import Kind, Resource
from hvtx.model.traffic import Flow, Way
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Interface, Network
from hvtx.planner.egress import network_spec
from hvtx.planner.egress_flows import Sent, permitted
from hvtx.planner.provision import ResourceSpec, want_interface
from hvtx.planner.uplink_ways import Served, served

MOST_PORTS = 4  # of a network that are tried
_ENOUGH = 2
_FIRST_INDEX, _INDEX_SPAN = 0x40000000, 0x3FFE0000  # above what hvtx gives and the kernel counts
PROTOCOLS = ("tcp", "udp", "icmp")
# Ports by protocol; what a guest's program asks first of the world and of its gateway.
WORLD_PORT = {"tcp": 443, "udp": 53, "icmp": 0}
GUEST_PORT = {"tcp": 80, "udp": 53, "icmp": 0}
GATEWAY_PORT = {"tcp": 53, "udp": 53, "icmp": 0}


class Guest(NamedTuple):
    """One end in a network; ``wants`` are what one that does not run would bring along."""

    device: str
    ifindex: int
    mac: str
    ipv4: str | None
    ipv6: str | None
    wants: tuple[ResourceSpec, ...] = ()

    def address(self, family: int) -> str | None:
        """Its address of a family."""
        return self.ipv4 if family == 4 else self.ipv6


class Port(NamedTuple):
    """A published port of a guest that runs."""

    guest: Guest
    protocol: str
    host_ip: str | None
    host_port: int
    guest_port: int


class Promise(NamedTuple):
    """A network with the guests and ports that stand for it."""

    network: Network
    ifindex: int  # of its bridge
    guests: tuple[Guest, ...]
    ports: tuple[Port, ...]
    egress: tuple[FirewallSpec, ...] = ()  # the policies of its guests and its own
    served: tuple[Served, ...] = ()  # every port that its guests answer others from

    def lets(self, guest: Guest, sent: Sent) -> bool:
        """Whether an egress policy lets a guest reach that; what is refused is not promised."""
        own = [spec for spec in self.egress if spec.get("mac") == guest.mac]
        return permitted(sent, [*own, *(spec for spec in self.egress if "mac" not in spec)])

    def gateway(self, family: int) -> str:
        """Its gateway of a family."""
        return self.network.gateways[self.network.families.index(family)]


def promise(
    network: Network, ifindex: int, rows: Sequence[Resource], there: Mapping[str, int]
) -> Promise:
    """Who stands for a network, by its committed rows; ``there`` are the devices in its bridge."""
    running = [
        Guest(spec["device"], there[spec["device"]], spec["mac"], spec["ipv4"], spec["ipv6"])
        for row in rows
        if row.kind == Kind.FILTER and row.role == "port" and (spec := firewall_spec(row))
        if spec["device"] in there and spec["bridge"] == network.bridge
    ]
    ports = list(_ports(network, rows, running))
    serving = dict.fromkeys(port.guest for port in ports)
    guests = list(dict.fromkeys((*serving, *running)))[: max(_ENOUGH, len(serving))]
    leased = _addresses(rows)
    while len(guests) < _ENOUGH:
        thought = _thought_up(network, ifindex, len(guests), leased)
        if thought is None:
            break
        guests.append(thought)
        leased |= {a for a in (thought.ipv4, thought.ipv6) if a}
    every = served(rows, network.bridge)
    return Promise(network, ifindex, tuple(guests), tuple(ports), _egress(network, rows), every)


def _egress(network: Network, rows: Sequence[Resource]) -> tuple[FirewallSpec, ...]:
    own = [network_spec(network)]
    own += [
        firewall_spec(row)
        for row in rows
        if row.kind == Kind.FILTER and row.role == "egress" and "mac" in firewall_spec(row)
    ]
    return tuple(spec for spec in own if spec is not None)


def _ports(network: Network, rows: Iterable[Resource], running: Sequence[Guest]) -> Iterator[Port]:
    """The first ports that are published of guests that run."""
    count = 0
    for row in rows:
        if row.kind != Kind.PUBLISH or count == MOST_PORTS:
            continue
        if row.bridge != network.bridge:  # a rule that was taken over knows no bridge
            continue
        owner = next((g for g in running if (g.ipv4, g.ipv6) == row.guest), None)
        if owner is not None:
            spec = firewall_spec(row)
            count += 1
            yield Port(owner, spec["protocol"], spec["host_ip"], spec["host_port"],
                       spec["guest_port"])  # fmt: skip


def _addresses(rows: Iterable[Resource]) -> set[str]:
    return {address for row in rows for address in row.guest if address}


def _thought_up(
    network: Network, bridge: int, number: int, leased: Collection[str]
) -> Guest | None:
    """A guest that could run, with the last addresses that nobody has; None without any."""
    found: dict[str, str | None] = {"ipv4": None, "ipv6": None}
    for subnet in network.subnets:
        address = _last_free(subnet, {*leased, *network.gateways})
        if address is None:
            return None
        found[f"ipv{family_of(subnet)}"] = address
    # Each network's are others: they stand in the same replica.
    tail = f"{':'.join(f'{byte:02x}' for byte in bridge.to_bytes(4, 'big'))}:{number:02x}"
    mac, device = f"02:{tail}", f"hvr{bridge:x}g{number}"
    interface = Interface(0, network.id, network.name, mac, found["ipv4"], found["ipv6"], ())
    ifindex = _FIRST_INDEX + 8 * bridge % _INDEX_SPAN + number
    wants = want_interface(
        interface, network, bridge=bridge, device=device, ifindex=ifindex,
        mac=f"fe:{tail}",
    )  # fmt: skip
    return Guest(device, ifindex, mac, found["ipv4"], found["ipv6"], tuple(wants))


def _last_free(subnet: str, taken: Collection[str]) -> str | None:
    net = ipaddress.ip_network(subnet)
    last = int(net.broadcast_address) - 1
    for number in range(last, max(int(net.network_address), last - 4096), -1):
        address = str(ipaddress.ip_address(number))
        if address not in taken:
            return address
    return None


def devices_of(rows: Iterable[Resource], most: int = 2 * MOST_PORTS) -> dict[str, list[str]]:
    """The devices of guests by their bridge, those that publish ports first; some of each."""
    serving = {r.guest for r in rows if r.kind == Kind.PUBLISH}
    found: dict[str, list[str]] = {}
    ports = [firewall_spec(r) for r in rows if r.kind == Kind.FILTER and r.role == "port"]
    for spec in sorted(ports, key=lambda s: (s["ipv4"], s["ipv6"]) not in serving):
        names = found.setdefault(spec["bridge"], [])
        if len(names) < most:
            names.append(spec["device"])
    return found


def grouped(stops: Iterable[Any]) -> dict[tuple[Any, ...], list[Any]]:
    """Stops by what stopped them."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for stop in stops:
        found.setdefault((stop.by, stop.place, stop.what), []).append(stop)
    return found


_WAYS = {way: number for number, way in enumerate(Way)}


def flow_words(flows: Iterable[Flow]) -> str:
    """Flows in words: "guest to world (tcp, udp; IPv4), host to guest (icmp; IPv6)"."""
    by_way: dict[Way, list[Flow]] = {}
    for flow in sorted(flows, key=lambda f: _WAYS[f.way]):
        by_way.setdefault(flow.way, []).append(flow)
    return ", ".join(f"{way} ({_of_way(way, found)})" for way, found in by_way.items())


def _of_way(way: Way, flows: Sequence[Flow]) -> str:
    if way is Way.GUEST_TO_ROUTER:
        shown: Iterable[str] = ("router solicitation",)
    elif way in (Way.WORLD_TO_PORT, Way.GUEST_TO_DHCP):
        shown = (f"{f.port}/{f.protocol}" for f in flows)
    else:
        shown = (f.protocol for f in flows)
    families = sorted({f.family for f in flows})
    return f"{', '.join(dict.fromkeys(shown))}; {' and '.join(f'IPv{n}' for n in families)}"
