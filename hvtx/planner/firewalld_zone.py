"""What of bridges in firewalld's zone `hvtx` is to be made, put back or taken away. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from hvtx.model.firewalld_zone import BACKEND, ZONE, Zone, is_others, marks_in
from hvtx.model.mark import FAMILY
from hvtx.model.resource import Kind, Resource
from hvtx.model.shell import word
from hvtx.model.traffic import Flow, Stop, Way
from hvtx.model.typed import TYPE_CHECKING, NamedTuple, cast
from hvtx.model.vm import Network
from hvtx.planner.provision import ResourceSpec

if TYPE_CHECKING:
    from hvtx.model.firewall import FirewallSpec


class Seen(NamedTuple):
    """What firewalld has.

    ``zones`` are those in force, with their interfaces; ``lasting`` is the zone `hvtx` in its
    configuration; ``elsewhere`` has the zones that interfaces have there.
    """

    zones: Mapping[str, Sequence[str]]
    lasting: Zone | None
    elsewhere: Mapping[str, str]


class Differs(NamedTuple):
    """What differs: rows to make, by network; rows to take away; rows to put back; in words."""

    make: dict[str, list[ResourceSpec]]
    drop: tuple[Resource, ...]
    move: tuple[Resource, ...]
    lacks: tuple[str, ...]


def bound(zones: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The zone in force of each interface that has one."""
    return {name: zone for zone, names in zones.items() for name in names}


def compare(networks: Sequence[Network], rows: Sequence[Resource], seen: Seen | None) -> Differs:
    """What is to be done; ``seen`` is None where firewalld was not asked, or does not answer."""
    passing = {network.id: network for network in networks if network.passage}
    drop = [row for row in rows if row.network not in passing]
    if seen is None:
        return Differs({}, tuple(drop), (), ())
    now = bound(seen.zones)
    marks = {} if seen.lasting is None else marks_in(seen.lasting.description)
    move, lacks = [], []
    for row in (row for row in rows if row.network in passing):
        meant = seen.elsewhere.get(row.bridge, ZONE)  # it counts from firewalld's next reload on
        if now.get(row.bridge, meant) != ZONE or marks.get(row.bridge, row.mark) != row.mark:
            drop.append(row)
        elif meant == ZONE and (why := _missing(row, seen, now, marks)):
            move.append(row)
            lacks.append(f"firewalld zone {ZONE}: {row.bridge} {why}")
    make = {}
    for network in passing.values():
        if any(row.network == network.id for row in rows) or _others(network, seen, now, marks):
            continue
        make[network.id] = [want(network.bridge)]
        lacks.append(f"firewalld zone {ZONE}: {network.bridge} is not in it yet")
    return Differs(make, tuple(drop), tuple(move), tuple(lacks))


def _missing(
    row: Resource, seen: Seen, now: Mapping[str, str], marks: Mapping[str, str]
) -> str | None:
    lasting = () if seen.lasting is None else seen.lasting.interfaces
    if row.bridge not in lasting:
        return "was not in its permanent configuration"
    if row.bridge not in marks:
        return "was in it without its mark"
    if ZONE in seen.zones and now.get(row.bridge) != ZONE:
        return "was not in it"
    return None  # where firewalld does not know the zone, only its reload helps


def _others(network: Network, seen: Seen, now: Mapping[str, str], marks: Mapping[str, str]) -> bool:
    """Whether somebody else put a bridge where it is, or made the zone `hvtx`."""
    if seen.lasting is not None and is_others(seen.lasting):
        return True
    zones = {now.get(network.bridge), seen.elsewhere.get(network.bridge)} - {None}
    if zones - {ZONE}:
        return True
    return bool(zones) and not marks.get(network.bridge, "").startswith(FAMILY)


def want(bridge: str) -> ResourceSpec:
    """The row of a bridge."""
    spec = {"backend": BACKEND, "what": "passage", "bridge": bridge}
    return ResourceSpec(Kind.FILTER, f"zone {ZONE} of {bridge}", spec)


def is_for_want_of_a_zone(stop: Stop) -> bool:
    """Whether a chain of firewalld's zones stops a flow, and no panic of it."""
    place = stop.place
    return stop.by == "nft" and place[:2] == ("inet", "firewalld") and place[2][:7] == "filter_"


def commands(
    flows: Sequence[Flow], uplinks: Sequence[str], zoned: Mapping[str, str]
) -> Iterator[str]:
    """What lets flows pass firewalld: what is left of hvtx's own zone, or a zone and a policy.

    ``zoned`` says of a bridge that is in no zone how it gets into that of hvtx. The others get a
    zone for guests and a policy for their way out, for good and at once.
    """
    own = [zoned[flow.bridge].split("; ") for flow in flows if flow.bridge in zoned]
    yield from dict.fromkeys(command for each in own for command in each)
    flows = [flow for flow in flows if flow.bridge not in zoned]
    if not flows:
        return
    make = "firewall-cmd --permanent --{0}={1} --get-target >/dev/null 2>&1"
    make += " || firewall-cmd --permanent --new-{0}={1}"
    yield make.format("zone", "hvtx")
    for bridge in dict.fromkeys(flow.bridge for flow in flows):
        yield f"firewall-cmd --permanent --zone=hvtx --change-interface={bridge}"
    yield "firewall-cmd --permanent --zone=hvtx --add-forward"
    asks = (Way.GUEST_TO_GATEWAY, Way.GUEST_TO_DHCP)
    ports = [flow for flow in flows if flow.way in asks and flow.port]
    for number, protocol in dict.fromkeys((flow.port, flow.protocol) for flow in ports):
        yield f"firewall-cmd --permanent --zone=hvtx --add-port={number}/{protocol}"
    if any(flow.way is Way.GUEST_TO_WORLD for flow in flows):
        yield make.format("policy", "hvtx-out")
        policy = "firewall-cmd --permanent --policy=hvtx-out"
        yield f"{policy} --add-ingress-zone=hvtx"
        for device in map(word, uplinks):
            # A zone that has its devices only by default counts in no policy.
            zone = f"firewall-cmd --get-zone-of-interface={device}"
            default = 'firewall-cmd --permanent --zone="$(firewall-cmd --get-default-zone)"'
            yield f"{zone} >/dev/null 2>&1 || {default} --add-interface={device}"
            zone = f"$({zone} 2>/dev/null || firewall-cmd --get-default-zone)"
            yield f'{policy} --add-egress-zone="{zone}"'
        yield f"{policy} --set-target=ACCEPT"
    yield "firewall-cmd --reload"


def bridges_of(wants: Iterable[ResourceSpec]) -> list[str]:
    """The bridges of those wanted rows that are firewalld's."""
    specs = [cast("FirewallSpec", want.spec) for want in wants]
    return [spec["bridge"] for spec in specs if spec["backend"] == BACKEND]
