"""What guests reach by the uplink of their network: asked of the kernel's routes. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import closing

from hvtx.engine import notice
from hvtx.engine.guest_routes import WORLD
from hvtx.host import routes
from hvtx.host.links import Links
from hvtx.host.netlink import Channel, DumpInterrupted
from hvtx.host.sysctl import read as read_setting
from hvtx.host.table_names import named_tables
from hvtx.model.routing import Packet, Route, Rule
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network
from hvtx.planner import routing
from hvtx.planner.uplink_ways import (
    Served,
    Way,
    free_prefs,
    free_table,
    prefixes,
    samples,
    told,
)


class _Sent(NamedTuple):
    """A packet of a guest, but for its destination; and the uplink's index."""

    channel: Channel
    packet: Packet
    uplink: int

    def led(self, to: str) -> bool:
        """Whether the kernel leads it there by the uplink."""
        answer = routes.ask(self.channel, self.packet._replace(destination=to))
        return not answer.errno and not answer.local and answer.device == self.uplink


def ways(network: Network, given: set[int] | None = None) -> dict[int, Way]:
    """By family where guests get by their uplink; nothing of what cannot be told.

    That is where a device is down or missing, and where the bridge is in a VRF. ``given`` are
    tables that other networks are told of in the same breath; those of this one are added.

    Raises OSError, DumpInterrupted.
    """
    with closing(Links()) as links:
        uplink = links.get(name=network.uplink) if network.uplink is not None else None
        bridge = links.get(name=network.bridge)
        if uplink is None or bridge is None or not (uplink.up and bridge.up) or bridge.master:
            return {}
        found = {}
        for family, (subnet, gateway) in zip(network.families, network.ranges, strict=True):
            if family == 4 and read_setting(f"net/ipv4/conf/{bridge.name}/forwarding") == "0":
                continue  # the kernel leads nothing anywhere, and the check `forwarding` tells
            guest = routing.sample(subnet, gateway)
            packet = Packet("", guest, bridge.ifindex, bridge.name)
            way = _way(_Sent(links.channel, packet, uplink.ifindex), family, given or ())
            found[family] = way._replace(gateway=bool(uplink.mac))
        if given is not None:
            given.update(way.table for way in found.values())
        return found


def _way(sent: _Sent, family: int, given: Collection[int]) -> Way:
    world = WORLD[family]
    if (target := next(filter(sent.led, world), None)) is not None:
        return Way(target, world=True)
    every, rules = routes.routes(family), routes.rules(family)
    if _by_a_mark(rules, every, sent, world):
        return Way(world[-1], world=True)
    behind = prefixes(every, sent.uplink)
    reached = {p: found for p in behind if (found := next(filter(sent.led, samples(p)), None))}
    target = next(iter(reached.values()), None)
    now = [routing.find(rules, every, sent.packet._replace(destination=to)) for to in world]
    table = free_table(every, rules, {*given, *named_tables()})
    return Way(target, behind=tuple(reached), table=table, prefs=free_prefs(rules, now))


def _by_a_mark(
    rules: Sequence[Rule], every: Sequence[Route], sent: _Sent, world: Iterable[str]
) -> bool:
    """Whether packets may be led there once somebody's rules have marked them."""
    for mark in {rule.mark for rule in rules if rule.mask}:
        for to in world:
            found = routing.find(rules, every, sent.packet._replace(destination=to, mark=mark))
            route = found.route if found is not None else None
            if route is not None and sent.uplink in (route.device, *route.devices):
                return True
    return False


def tell(network: Network, ports: Sequence[Served] = ()) -> None:
    """Tell who makes or changes a network what its guests do not reach by its uplink.

    ``ports`` are those that its guests answer others from.
    """
    if network.uplink is None:
        return
    try:
        said = told(network, ways(network), ports)
    except (OSError, DumpInterrupted):
        return
    if said is not None:
        level, words, fix = said
        say = notice.warning if level == "warning" else notice.note
        say(f"network {network.name!r}: {words}; for the world: {fix}")
