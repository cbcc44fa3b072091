"""Checks of the host's uplinks: default route, carrier, gateway."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing

from hvtx.engine import uplink_ways
from hvtx.engine.trial import Exit, beyond
from hvtx.host.inet import packed
from hvtx.host.links import Links
from hvtx.host.netlink import Channel
from hvtx.host.replica import thought, topology
from hvtx.host.replica.causes import Leg, Way, leads, neighbour, paths
from hvtx.host.replica.scratch import Picture
from hvtx.host.replica.topology import Device
from hvtx.host.replica.tries import WORLD
from hvtx.model.mark import FAMILY
from hvtx.model.shell import word
from hvtx.model.traffic import Note
from hvtx.planner.promises import Promise
from hvtx.planner.uplink_ways import told

_UPLINK_INDEX, UPLINK = 0x7FFE0001, "hvreplica-up"
_UPLINK_MAC = bytes.fromhex("02005e005401")
# An uplink for a host that has none: what guests would meet on their way to one.
_UPLINK_ADDRESS = {4: "198.18.0.1/30", 6: "2001:2::1/64"}
_UPLINK_GATEWAY = {4: "198.18.0.2", 6: "2001:2::2"}
# no route at all; others say that a route forbids it, which is tried
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EAFNOSUPPORT})
_MANY = 3


def _leads(picture: Picture, family: int) -> Way | None:
    """How the kernel sends the host's own packets to the world; None where a route forbids it."""
    sources = _sources(picture)
    with closing(Channel(0)) as channel:
        for source in (b"", *(sources if family == 6 else ())):
            try:
                return leads(channel, Leg("", source, WORLD[family], ""))
            except OSError as problem:
                if problem.errno not in _NO_ROUTE:
                    return None
    return Way(0, b"")


def _sources(picture: Picture) -> list[bytes]:
    """The host's addresses of IPv6: a route may be for packets of one sender only."""
    return [address for _, address, _ in picture.addresses() if len(address) == 16][:_MANY]


def way_out(picture: Picture, family: int, ours: Collection[str]) -> Exit | None:
    """How the host itself reaches the world; None where it has no way and no neighbours."""
    way = _leads(picture, family)
    index = -1 if way is None else way.device
    names = {device.ifindex: device for device in picture.topology.devices}
    usable = [(name, address, length) for name, address, length in picture.addresses()
              if len(address) == len(WORLD[family]) and name not in ours and name != "lo"
              and (device := picture.device(name)) is not None and device.up]  # fmt: skip
    if index > 0 and index in names:
        name = names[index].name
        own = next((address for where, address, _ in usable if where == name), None)
        if own is None:
            own = next((address for _, address, _ in usable), None)
        return Exit(name, WORLD[family], own)
    if index == 0:
        near = (beyond(picture, address) for _, address, _ in usable)
        return next((found for found in near if found is not None), None)
    # a route forbids it to the host, too: somebody beyond the first device there is
    return next((Exit(name, WORLD[family], address) for name, address, _ in usable), None)


def with_uplink(picture: Picture, families: Iterable[int]) -> Picture:
    """The host with an uplink that it does not have."""
    uplink = thought.thought_up(_UPLINK_INDEX, UPLINK, _UPLINK_MAC)
    addresses, routes = [], []
    for family in families:
        addresses.append(thought.address(_UPLINK_ADDRESS[family], _UPLINK_INDEX))
        gateway = _UPLINK_GATEWAY[family]
        routes.append(thought.route(_UPLINK_ADDRESS[family], _UPLINK_INDEX))
        routes.append(thought.route("0.0.0.0/0" if family == 4 else "::/0", _UPLINK_INDEX, gateway))
    forwards = {}
    if "ipv6/conf/default/force_forwarding" in picture.topology.settings:
        forwards[f"ipv6/conf/{UPLINK}/force_forwarding"] = "1"
    return picture.plus([uplink], addresses, routes, forwards)


def thought_out(family: int) -> Exit:
    """The way to the world by that."""
    own = packed(_UPLINK_ADDRESS[family].partition("/")[0])
    return Exit(UPLINK, WORLD[family], own)


def uplinks(
    picture: Picture, made: Iterable[Promise]
) -> tuple[dict[str, dict[int, Exit]], list[Note]]:
    """By name the ways of networks that have an uplink, and what their guests do not reach by it.

    Raises OSError, DumpInterrupted.
    """
    found: dict[str, dict[int, Exit]] = {}
    notes = []
    tables: set[int] = set()  # each network is told of one of its own
    for promise in made:
        network = promise.network
        if network.uplink is None:
            continue
        ways = uplink_ways.ways(network, tables)
        found[network.name] = {
            family: Exit(network.uplink, packed(way.target), _own(picture, network.uplink, family))
            for family, way in ways.items()
            if way.target is not None
        }
        if (said := told(network, ways, promise.served)) is not None:
            level, words, fix = said
            level = "ok" if level == "note" else level
            notes.append(Note(level, f"network {network.name!r}: {words}", (), fix))
    return found, notes


def _own(picture: Picture, name: str, family: int) -> bytes | None:
    size = len(WORLD[family])
    own = (a for where, a, _ in picture.addresses() if where == name and len(a) == size)
    return next(own, None)


def bridges_of_hvtx() -> set[str]:
    """Names of bridges of any installation here, recorded or not: they lead to guests."""
    with closing(Links()) as links:
        found = links.all()
    return {x.name for x in found if x.kind == "bridge" and (x.alias or "").startswith(FAMILY)}


# -- what a host without a world is told -----------------------------------------------------------

_Told = tuple[str, tuple[str, ...], str]  # words, evidence, fix


def offline(picture: Picture, families: Sequence[int], ours: Collection[str]) -> list[Note]:
    """Why the host itself does not reach the world, and with it no guest.

    A host without a default route may be meant to be so: that is said and no warning, unless a
    device that could lead to the world is down.
    """
    ways = {family: _leads(picture, family) for family in families}
    lost = [family for family, way in ways.items() if way is not None and not way.device]
    idle = list(_idle(picture, ours)) if len(lost) == len(ways) else []
    found: dict[tuple[str, _Told], list[int]] = {}
    for family, way in ways.items():
        if way is None:
            continue  # a route or rule forbids it: flows are stopped by it
        if not way.device:
            level = "warning" if idle else "ok"
            found.setdefault((level, _without_route(idle)), []).append(family)
            continue
        for each in _paths(picture, family) or [way]:
            if (told := _silent(picture, each)) is not None:
                found.setdefault(("warning", told), []).append(family)
    return [
        Note(
            level,
            f"over {' and '.join(f'IPv{n}' for n in each)} this host may not reach the world, "
            f"so guests may not either: {words}",
            evidence, fix,
        )
        for (level, (words, evidence, fix)), each in found.items()
    ]  # fmt: skip


def _paths(picture: Picture, family: int) -> list[Way]:
    """The ways of a route to the world that has several next hops."""
    if not topology.has_paths(picture.topology):
        return []
    with closing(Channel(0)) as channel:
        return list(paths(channel, Leg("", b"", WORLD[family], "")).values())


def _without_route(idle: Sequence[Device]) -> _Told:
    words = "it has no default route"
    if not idle:
        fix = "ip route add default via GATEWAY, or let what manages its network do it"
        return words, (), fix
    down = [_device_words(device) for device in idle]
    return f"{words}, and {', '.join(down[:_MANY])}", tuple(down), _bring(idle[0])


def _idle(picture: Picture, ours: Collection[str]) -> Iterator[Device]:
    """Devices that could lead to the world and do not: those of hardware, or with an address."""
    addressed = {name for name, _, _ in picture.addresses()}
    own = {device.ifindex for device in picture.topology.devices if device.name in ours}
    for device in picture.topology.devices:
        usable = device.kind != "loopback" and device.name not in ours
        if not usable or device.master in own or (device.up and device.carrier):
            continue
        if device.ether and (not device.kind or device.name in addressed):
            yield device


def _silent(picture: Picture, way: Way) -> _Told | None:
    """A device without a carrier, or a gateway that does not answer."""
    device = next((d for d in picture.topology.devices if d.ifindex == way.device), None)
    if device is None:
        return None
    for one in (device, *_ports_out(picture, device)):
        if not one.carrier:
            words = _device_words(one)
            return words, (f"the route to the world is by {device.name}", words), _bring(one)
    gateway = topology.shown(way.gateway) if way.gateway else ""
    for body in picture.topology.neighbours:
        index, address, mac = neighbour(body)
        if not way.gateway or (index, address) != (way.device, way.gateway):
            continue
        forget = f"ip neigh del {gateway} dev {word(device.name)}"
        if topology.has_failed(body):
            words = f"its gateway {gateway} does not answer at {device.name}"
            return words, (f"the neighbour table has {gateway} as FAILED",), forget
        if mac:
            words = f"the MAC address of its gateway {gateway} is a static entry"
            told = f"the neighbour table has {gateway} at {mac.hex(':')} on {device.name} for good"
            return words, (told,), f"if that is not the gateway's own: {forget}"
    return None


def _ports_out(picture: Picture, bridge: Device) -> Sequence[Device]:
    """The ports by which a bridge leads out, where none of them has a carrier."""
    ports = [d for d in picture.topology.devices
             if d.master == bridge.ifindex and d.kind not in ("tun", "veth")]  # fmt: skip
    return () if any(port.carrier for port in ports) else ports


def _device_words(device: Device) -> str:
    return f"{device.name} {'has no carrier' if device.up else 'is down'}"


def _bring(device: Device) -> str:
    if not device.up:
        return f"ip link set {word(device.name)} up, and its routes by what manages the network"
    return f"see what {device.name} is connected to: a cable, a switch, a tunnel's other end"
