"""`doctor`'s test of guest flows in a replica of the host's forwarding.

Nothing is put into the host for it (docs/adr/0028).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress

from hvtx.engine import notice, passages, uplink_checks
from hvtx.engine.cause_names import CauseNames
from hvtx.engine.effects import made_by
from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime
from hvtx.engine.trial import Trial, owner_of
from hvtx.errors import HvtxError
from hvtx.host.replica import ruleset, thought, uncarried
from hvtx.host.replica.causes import Cause
from hvtx.host.replica.scratch import Owner, Picture, Scratch, look, within
from hvtx.host.replica.topology import Device
from hvtx.model.firewall import firewall_spec
from hvtx.model.mark import make_mark
from hvtx.model.resource import FIREWALL_KINDS, Kind, Resource, bridge_spec
from hvtx.model.traffic import Flow, Note, Stop
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network
from hvtx.planner import promises
from hvtx.planner.flow_fixes import of_setting
from hvtx.planner.promises import Guest, Promise
from hvtx.planner.provision import ResourceSpec, missing_bases, network_addresses, want_network
from hvtx.store import records

_NOBODYS = "replicaaaa"  # an installation that there is not
_BRIDGE_INDEX = 0x7FFE0000


class Judged(NamedTuple):
    """What stops flows, what could not be carried into the replica, how many were tried.

    ``notes`` are what a replica does not show: a host that reaches no world itself, say.
    """

    stops: tuple[Stop, ...]
    lacks: tuple[str, ...]
    flows: int
    notes: tuple[Note, ...] = ()


def judge(runtime: Runtime, request: Network | None = None) -> Judged:
    """Try the flows of every network on record, or of ``request``, that might be made.

    Raises Unavailable, HvtxError, OSError, DumpInterrupted.
    """
    with runtime.reading() as sql:
        networks = records.networks(sql)
        committed = records.committed_resources(sql, Kind.PUBLISH, Kind.FILTER)
        rows = [row for row in committed if row.life == runtime.life.id]
        bridges = [
            row
            for row in records.resources_of_kind(sql, Kind.BRIDGE)
            if row.life == runtime.life.id
        ]
    by_bridge = promises.devices_of(rows)
    picture = look([name for names in by_bridge.values() for name in names])
    if request is not None:
        return _judged(runtime, *_with_network(runtime, picture, request))
    indexes = {bridge_spec(row)["device"]: row.ifindex for row in bridges}
    made = []
    for network in networks:
        bridge = picture.device(network.bridge)
        if bridge is None or bridge.ifindex != indexes.get(network.bridge):
            continue  # it is gone, and another check tells
        there = {d.name: d.ifindex for d in picture.topology.devices if d.master == bridge.ifindex}
        own = [row for row in rows if row.bridge == network.bridge]
        made.append(promises.promise(network, bridge.ifindex, own, there))
    return _judged(runtime, picture, made, [])


def _with_network(
    runtime: Runtime, picture: Picture, network: Network
) -> tuple[Picture, list[Promise], list[ResourceSpec]]:
    """The host as it would be with one network more, and with forwarding turned on for it."""
    promise = promises.promise(network, _BRIDGE_INDEX, (), {})
    rows = runtime.read(records.resources_of_kind, Kind.FILTER)
    bases = [firewall_spec(row) for row in rows if row.role == "base"]
    shared, own = want_network(
        network, ifindex=_BRIDGE_INDEX, settings=(),
        bases=missing_bases(network.firewall, bases),
    )  # fmt: skip
    mac = bytes.fromhex(network.mac.replace(":", ""))
    bridge = thought.thought_up(_BRIDGE_INDEX, network.bridge, mac, kind="bridge")
    on = {
        path: "1" for path in picture.topology.settings
        if "/conf/" in path and path.endswith("/forwarding")
    }  # fmt: skip
    more = picture.plus(
        [bridge],
        [thought.address(cidr, _BRIDGE_INDEX) for cidr in network_addresses(network)],
        [thought.route(subnet, _BRIDGE_INDEX) for subnet in network.subnets],
        on,
    )
    wants = [*shared, *own]
    if network.firewall == "iptables":
        from hvtx.engine import forward_accepts

        wants += forward_accepts.wants_with(
            network, runtime.read(records.networks), uplink_checks.UPLINK
        )
    wants += passages.wants_with(network, uplink_checks.UPLINK)
    return more, [promise], wants


def _judged(
    runtime: Runtime, picture: Picture, made: Sequence[Promise], wants: Sequence[ResourceSpec]
) -> Judged:
    if not made:
        return Judged((), (), 0)
    asked = [(guest, promise.ifindex) for promise in made for guest in promise.guests
               if guest.wants]  # fmt: skip
    picture = picture.plus([_port(guest, master) for guest, master in asked])
    families = {family for promise in made for family in promise.network.families}
    bridges = {promise.network.bridge for promise in made} | uplink_checks.bridges_of_hvtx()
    exits = {family: uplink_checks.way_out(picture, family, bridges) for family in families}
    notes = uplink_checks.offline(picture, sorted(families), bridges)
    names = CauseNames(picture, [promise.network for promise in made])
    if without := [family for family, found in exits.items() if found is None]:
        picture = uplink_checks.with_uplink(picture, without)
        exits |= {family: uplink_checks.thought_out(family) for family in without}
    uplinks, told = uplink_checks.uplinks(picture, made)
    notes += told
    ways = [*exits.values(), *(way for each in uplinks.values() for way in each.values())]
    lacks = uncarried.not_carried(_passed(picture, made, {way.device for way in ways if way}))
    every = [*wants, *(want for guest, _ in asked for want in guest.wants)]
    if without and not wants:
        every += _ways_beside(runtime, without)

    def furnish() -> None:
        try:
            _make_rules(runtime, every)
        except HvtxError as problem:
            lacks.append(f"rules of a guest cannot be made: {problem.message}")

    def ask(scratch: Scratch) -> tuple[list[tuple[Flow, Cause]], Mapping[Place, int], int]:
        trial = Trial(scratch, {family: way for family, way in exits.items() if way}, uplinks)
        _give_owners(scratch, picture, made)
        found = [result for promise in made for result in trial.of(promise)]
        lacks.extend(scratch.lacks)
        stopped = [(flow, cause) for flow, cause in found if cause is not None]
        handles = ruleset.handles(picture.ruleset, scratch.copy) if stopped else {}
        return stopped, handles, len(found)

    stopped, handles, count = within(picture, ask, furnish if every else None)
    if any(cause.suspects for _, cause in stopped):
        from hvtx.engine import blocking_rules

        def again(changed: Picture) -> blocking_rules.Stopped:
            return within(changed, ask, furnish if every else None)[0]

        stopped = blocking_rules.find_blocking_rules(picture, stopped, handles, again)
    stops = tuple(_stops(stopped, handles, names))
    notes += names.partly(stops)
    return Judged(stops, tuple(dict.fromkeys(lacks)), count, tuple(notes))


def _ways_beside(runtime: Runtime, families: Collection[int]) -> list[ResourceSpec]:
    """What lets guests out by an uplink that is thought up, beside the rows that are there."""
    from hvtx.engine import forward_accepts

    rows = runtime.read(records.committed_resources, Kind.FILTER)
    here = [row for row in rows if row.life == runtime.life.id]
    return [
        *forward_accepts.wants_beside(here, families, uplink_checks.UPLINK),
        *passages.wants_beside(here, families, uplink_checks.UPLINK),
    ]


def _give_owners(scratch: Scratch, picture: Picture, made: Sequence[Promise]) -> None:
    """Say who answers at each port; who is not asked for anything answers nothing."""
    for promise in made:
        for device in picture.topology.devices:
            if device.master == promise.ifindex:
                scratch.belongs(Owner(device.name, device.mac, ()))
        for guest in promise.guests:
            scratch.belongs(owner_of(guest))


def _passed(picture: Picture, made: Sequence[Promise], exits: Collection[str]) -> list[Device]:
    """The devices that frames of these flows pass; they leave by ``exits``."""
    names = set(exits) | {promise.network.bridge for promise in made}
    names |= {guest.device for promise in made for guest in promise.guests}
    indexes = {device.ifindex for device in picture.topology.devices if device.name in names}
    return [
        device for device in picture.topology.devices
        if device.name in names or (device.master in indexes and device.kind not in ("tun", "veth"))
    ]  # fmt: skip


def _port(guest: Guest, master: int) -> Device:
    mac = bytes.fromhex("fe" + guest.mac.replace(":", "")[2:])
    return thought.thought_up(guest.ifindex, guest.device, mac, master=master)


def _make_rules(runtime: Runtime, wants: Iterable[ResourceSpec]) -> None:
    """The rules of what is thought up, by the drivers, in the calling thread's namespace."""
    from hvtx.drivers.iptables import IptablesDriver
    from hvtx.drivers.nftables import NftablesDriver

    host = runtime.host._replace(installation=runtime.installation or _NOBODYS, lock_timeout=2.0)
    rows: dict[str, list[Resource]] = {"nftables": [], "iptables": []}
    for number, want in enumerate(wants, 1):
        if want.kind in FIREWALL_KINDS:
            mark = make_mark(host.installation, number, bytes(10))
            row = Resource(
                number, want.kind, want.key, "intended", mark, want.spec, {}, 0, 0, None, None
            )
            rows[row.backend].append(row)
    for backend, build in (("nftables", NftablesDriver), ("iptables", IptablesDriver)):
        if rows[backend]:
            with closing(build(host)) as driver:
                made_by(driver, rows[backend])


# -- what stopped them -----------------------------------------------------------------------------

Place = tuple[ruleset.Place, int]
_HANDLE = re.compile(r"\s*(.*?) # handle (\d+)")


def _stops(
    stopped: Iterable[tuple[Flow, Cause]], handles: Mapping[Place, int], names: CauseNames
) -> Iterator[Stop]:
    """With the rules as nft, ip rule and ip xfrm print them on the host."""
    texts: dict[tuple[str, ...], dict[int, str]] = {}
    for flow, cause in stopped:
        by, what, fix = names.of(flow, cause)
        if cause.handle and len(cause.place) == 3:
            family, table, chain = cause.place
            number = handles.get(((family, table, chain), cause.handle), 0)
            if cause.place not in texts:
                texts[cause.place] = _listed(*cause.place)
            text = texts[cause.place].get(number, f"rule with handle {number}")
            what = f"{text}: {what}" if what and by != "some" else f"{text} {what}".strip()
        yield Stop(flow, by, cause.place, what, fix)


def _listed(family: str, table: str, chain: str) -> dict[int, str]:
    """The rules of one chain as nft prints them, by handle; nothing where it does not."""
    from hvtx.host import libnftables

    try:
        text = libnftables.run(f"list chain {family} {table} {chain}", handles=True)
    except HvtxError:
        return {}
    found = (_HANDLE.fullmatch(line) for line in text.splitlines())
    return {int(rule[2]): rule[1] for rule in found if rule is not None}


# -- for doctor ------------------------------------------------------------------------------------


def would_be(runtime: Runtime) -> Network:
    """The network that the next VM would be in."""
    from hvtx.engine.new_network import default_draft

    with notice.told_to(lambda _what, _words: None), suppress(HvtxError):
        return default_draft(runtime, serves=True)
    return default_draft(runtime)  # why it gets no service the check `dhcp` tells


def findings(
    judged: Judged, real: bool, fix: Callable[[Sequence[Stop]], str | None] = lambda _: None
) -> Iterator[Finding]:
    """What doctor says: one finding for all that one thing stops; ``real``: there are networks.

    ``fix`` says what lets pass what others' rules stop.
    """
    for (by, place, what), stops in promises.grouped(judged.stops).items():
        known = by != "unknown"
        names = ", ".join(sorted({repr(stop.flow.network) for stop in stops}))
        whose = f"network {names}" if real else "the next network"
        flows = promises.flow_words(stop.flow for stop in stops)
        parts = () if by == "neighbour" else place
        where = " ".join((by if by in ("nft", "ebtables") else "", *parts)).strip()
        evidence = f"{where}: {what}" if where and where not in what else what
        if by == "some":
            words = f"{whose}: {flows} passes for some only: {evidence}"
            level = "warning"
        elif known:
            is_state = by == "setting" and what.endswith("is down")
            words = f"{whose}: {flows} stopped{':' if is_state else ' by'} {evidence}"
            level = "error" if real else "warning"
        else:
            words = f"unknown: whether {whose} has {flows}"
            level = "warning"
        yield Finding("forward", level, words, (evidence,), _fix(stops, fix))
    quiet = tuple(note.words for note in judged.notes if note.level == "ok")
    loud = [note for note in judged.notes if note.level != "ok"]
    for note in loud:
        yield Finding("forward", note.level, note.words, note.evidence, note.fix)
    if judged.lacks:
        words = f"unknown: not all rules of this host can be copied: {judged.lacks[0]}"
        yield Finding("forward", "warning", words, judged.lacks[:_MANY], _LOOK)
    elif not judged.stops and not loud:
        words = f"{judged.flows} flows that guests are promised were tested, and pass"
        words = words if judged.flows else "there is no flow to test yet"
        yield Finding("forward", "ok", words, quiet)


_MANY = 5
_LOOK = "test the connections of guests by hand: a rule that could not be copied may stop them"


def _fix(stops: Sequence[Stop], fix: Callable[[Sequence[Stop]], str | None]) -> str:
    """What lets these flows pass."""
    by, place = stops[0].by, stops[0].place
    if told := stops[0].fix:
        return told
    if by == "setting":
        return of_setting(place[0], stops[0].flow.bridge)
    if by == "route":
        return "see the check `routes` for the cause and the fix"
    if by == "unknown":
        return _LOOK
    if by == "some":
        return "to open it for others as well, change what is named"
    return fix(stops) or _LOOK


# What else is tried in a replica needs the same (hvtx/engine/translated_ports.py).
way_out, with_uplink, thought_out = (
    uplink_checks.way_out,
    uplink_checks.with_uplink,
    uplink_checks.thought_out,
)
listed = _listed
