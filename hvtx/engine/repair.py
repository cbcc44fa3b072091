"""`repair`: put back what someone flushed or changed under running VMs and networks.

The rows stay as they are, and with them their marks: what is put back carries the mark that it had.
A TAP that is gone is not made again under a running VM, whose descriptor would still speak to the
old one; it is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from hvtx.drivers import bridge
from hvtx.drivers.address import remove_link_local
from hvtx.drivers.bridge import lead_loopback, restore, route_localnet
from hvtx.drivers.sysctl import read as read_setting
from hvtx.engine import flows, holding, own_routes, ownrules, passes
from hvtx.engine.collect import resolve
from hvtx.engine.forwarding import ipv6_problem, tuned
from hvtx.engine.loopback import bridges_in_need
from hvtx.engine.networks import ensure_networks, keep_settings, outdated
from hvtx.engine.runtime import Runtime, driver_name
from hvtx.engine.snapshot import take_snapshot
from hvtx.engine.transaction import begin
from hvtx.errors import HvtxError, NotFound, Refused
from hvtx.host import tapguard, tapseen
from hvtx.host.links import Links
from hvtx.host.portowner import Owner
from hvtx.host.traits import LinkTraits
from hvtx.model.plan import Snapshot
from hvtx.model.resource import FIREWALL_KINDS, HOLDER, Kind, Link, Resource, State
from hvtx.model.ruleset import Difference
from hvtx.model.vm import Liveness, Network, Vm
from hvtx.planner import remedy
from hvtx.planner.drift import Wanted, drift
from hvtx.planner.ownroutes import SOFT
from hvtx.planner.ownrules import by_row, told
from hvtx.planner.presence import Presence, index, presence
from hvtx.planner.provision import guards_bridge, port_guard
from hvtx.store import intents, records
from hvtx.store.history import Event


class Damage(NamedTuple):
    """A row whose object is not as it should be, and what is missing, in words."""

    row: Resource
    missing: str
    seen: Presence
    mend: str = remedy.REPAIR  # as people type it
    unheld: bool = False  # a published port that no socket is bound to
    copies: bool = False  # more of it than one
    harmless: bool = False  # nothing is let through or stopped by it

    @property
    def cuts(self) -> bool:
        """Whether it stops traffic; a port that nobody holds still leads to its guest."""
        return self.missing != holding.UNHELD

    @property
    def soft(self) -> bool:
        """Whether guests have all that they are promised without it."""
        return not self.cuts or self.missing.startswith(SOFT)


def repair(runtime: Runtime, name: str | None = None) -> dict[str, Any]:
    """Put back everything, or what belongs to the network or VM ``name``.

    Returns ``{"schema", "refused", "repaired": [{"kind", "key", "missing"}],
    "failed": [{…, "why"}]}``.
    Raises NotFound, Busy, Refused.
    """
    if runtime.store.missing:
        _scope(runtime, name)
        return _document([], [])
    runtime.enter()
    _, vms = _scope(runtime, name)
    for vm in vms:
        runtime.lock("vm", vm.name)
    runtime.lock("all", "networks")
    resolve(runtime, networks=True)
    networks, vms = _still_there(runtime, name, vms)
    ensure_networks(runtime, networks, "repair", settle=False)
    passed = passes.settle(runtime, locked=True)
    snapshot = take_snapshot(runtime)
    wanted = {network.id for network in networks}
    live = {vm.id for vm in vms if _runs(snapshot, vm.id)}
    rows = [
        row
        for row in _made_here(snapshot)
        if (row.vm in live if row.vm else row.network is None or row.network in wanted)
    ]
    sighted = _sight(snapshot, rows)
    loopback = bridges_in_need(snapshot.rows, snapshot.life.id)
    differences = ownrules.look(runtime)
    damages = _with_mends(snapshot, _damage(sighted, loopback, differences))
    repaired: list[dict[str, Any]] = list(passed)
    failed = _unseen(sighted)  # a look that failed does not make a thing whole
    _keep_settings(runtime, networks, repaired, failed)
    if damages:
        with begin(runtime, "repair", vm=name if vms and not networks else None) as (_, operation):
            pass
        _mend_all(runtime, damages, rows, repaired, failed)
        names = {vm.id: vm.name for vm in vms}
        _hold_again(runtime, [d for d in damages if d.unheld], rows, names, (repaired, failed))
        _look_again(runtime, repaired, failed)
        ports = [damage.row for damage in damages if damage.row.kind == Kind.PUBLISH]
        unended = flows.end_past(operation, ports)  # datagrams of meanwhile went past their rules
        if not unended.gone:
            failed.append({"kind": "publish", "key": ports[0].key, "why": unended.message})
        events = [
            Event("repaired", item["missing"], item["kind"], item["key"]) for item in repaired
        ]
        events += [Event("failed", item["why"], item["kind"], item["key"]) for item in failed]
        operation.end("partial" if failed else "done", events=events)
    return _document(repaired, failed + ownrules.of_others(differences))


def _keep_settings(
    runtime: Runtime,
    networks: Sequence[Network],
    repaired: list[dict[str, Any]],
    failed: list[dict[str, Any]],
) -> None:
    """What networks need by now and is not on record yet: other uplinks than before."""
    try:
        for row in keep_settings(runtime, networks):
            words = f"it was {row.spec['before']}, and {row.spec['value']} is needed"
            repaired.append({"kind": row.kind, "key": row.key, "missing": words})
    except HvtxError as problem:
        failed.append({"kind": Kind.SYSCTL, "key": "forwarding", "why": problem.message})


def refused_document(refusal: Refused) -> dict[str, Any]:
    """The JSON of a `repair` that may not conclude anything."""
    return {**_document([], []), "refused": refusal.code}


def _document(repaired: list[dict[str, Any]], failed: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema": "hvtx/repair/1", "refused": None, "repaired": repaired, "failed": failed}


def _scope(runtime: Runtime, name: str | None) -> tuple[list[Network], list[Vm]]:
    with runtime.reading() as sql:
        networks, vms = records.networks(sql), records.vms(sql)
    if name is None:
        return networks, vms
    chosen = [network for network in networks if network.name == name]
    members = {network.id for network in chosen}
    found = [
        vm
        for vm in vms
        if vm.name == name or members & {interface.network for interface in vm.interfaces}
    ]
    if not chosen and not found:
        raise NotFound(f"there is no network or VM {name!r}", hint="hvtx network ls; hvtx vm ls")
    used = {interface.network for vm in found if vm.name == name for interface in vm.interfaces}
    chosen += [network for network in networks if network.id in used and network not in chosen]
    return chosen, found


def _still_there(
    runtime: Runtime, name: str | None, locked: Sequence[Vm]
) -> tuple[list[Network], list[Vm]]:
    """The scope once more: what interrupted commands had begun to record is undone by now."""
    networks, vms = _scope(runtime, name)
    known = {vm.id for vm in locked}
    return networks, [vm for vm in vms if vm.id in known]


def _runs(snapshot: Snapshot, vm: str) -> bool:
    """Whether a VM may be running: `unknown` is repaired too, since it may well be up."""
    return snapshot.vms[vm].liveness is not Liveness.DEAD


# -- what is wrong ---------------------------------------------------------------------------------


def look_now(
    runtime: Runtime, snapshot: Snapshot
) -> tuple[list[Damage], list[Difference], dict[str, list[str]]]:
    """What `repair` would find under every network and running VM; changes nothing.

    Then what is somebody else's in our tables; and by the reason, the things of which nothing can
    be said.
    """
    differences = ownrules.look(runtime)
    rows = _made_here(snapshot)
    sighted = _sight(snapshot, [r for r in rows if r.vm is None or _runs(snapshot, r.vm)])
    loopback = bridges_in_need(snapshot.rows, snapshot.life.id)
    damages = _damage(sighted, loopback, differences)
    unseen: dict[str, list[str]] = {}
    for item in _unseen(sighted):
        unseen.setdefault(item["why"], []).append(f"{item['kind']} {item['key']}")
    strange = [difference for difference in differences if difference.row is None]
    strange += ownrules.filters_ahead([row for row, seen in sighted if seen.link and seen.here])
    instead = {one.instead for one in strange}  # told with the command that takes it away
    damages = [damage for damage in damages if damage.row.id not in instead]
    return _with_mends(snapshot, damages), strange, unseen


def _with_mends(snapshot: Snapshot, damages: Sequence[Damage]) -> list[Damage]:
    """Each with what a person does about it."""
    external = {
        row.vm
        for row in snapshot.rows
        if row.kind == Kind.PROCESS and row.spec.get("hypervisor") == "external"
    }
    others = holding.had_by([d.row for d in damages if d.missing == holding.UNHELD])
    found = []
    for damage in damages:
        row = damage.row
        name = snapshot.vms[row.vm].name if row.vm else ""
        if damage.missing == holding.UNHELD:
            found.append(_had_by_others(damage, others[row.id]))
            continue
        mend = remedy.remedy(row, damage.seen, name, external=row.vm in external)
        found.append(damage._replace(mend=mend))
    return found


def _had_by_others(damage: Damage, others: Sequence[Owner]) -> Damage:
    """A port that is not held, with who has it instead: `repair` cannot hold it while he does."""
    if not others:
        return damage
    words = f"{holding.words_of(others)} has it now"
    seen = damage.seen._replace(evidence=(words, *damage.seen.evidence))
    return damage._replace(seen=seen, mend=holding.mend(others))


def _made_here(snapshot: Snapshot) -> list[Resource]:
    """What stands on record as made by us, in this life of the host."""
    return [
        row
        for row in snapshot.rows
        if row.state == State.COMMITTED
        and not row.spec.get("imported")  # made by others, who put it as they want it
        and row.life == snapshot.life.id
    ]


def _sight(snapshot: Snapshot, rows: Sequence[Resource]) -> list[tuple[Resource, Presence]]:
    """Each row with what was seen of its object."""
    sights = index(snapshot)
    return [(row, presence(row, snapshot, sights)) for row in rows]


def _damage(
    sighted: Sequence[tuple[Resource, Presence]],
    loopback: Collection[str],
    differences: Sequence[Difference],
) -> list[Damage]:
    """Rows whose object is gone, incomplete or not attached as recorded (reads settings only).

    ``loopback`` are the bridges that lead 127.0.0.1 to guests, ``differences`` those of our tables.
    """
    with closing(Links()) as links, closing(LinkTraits()) as traits:
        found = _damage_of(sighted, loopback, links, traits)
    return _with_unheld(_with_differences(found, sighted, by_row(differences)), sighted)


def _with_differences(
    found: Sequence[Damage],
    sighted: Sequence[tuple[Resource, Presence]],
    differences: Mapping[int, Sequence[Difference]],
) -> list[Damage]:
    """The damages, in the words of what was seen of their rules; and those that only these tell."""
    known = {damage.row.id: damage for damage in found}
    for row, seen in sighted:
        own = differences.get(row.id, ())
        before = known.get(row.id)
        if not own or seen.here is False:
            continue
        copies, harmless = any(d.copies for d in own), not any(d.stops for d in own)
        if before is None:
            known[row.id] = Damage(row, told(own), seen, copies=copies, harmless=harmless)
        elif not seen.complete or seen.problem is not None:
            what = seen._replace(problem=None)  # what stands in its place is told by itself
            known[row.id] = before._replace(missing=told(own), seen=what, copies=copies)
    return list(known.values())


def _with_unheld(
    found: Sequence[Damage], sighted: Sequence[tuple[Resource, Presence]]
) -> list[Damage]:
    """The damages, with the published ports that no socket is bound to."""
    bare = {row.id for row in holding.unheld(row for row, _ in sighted)}
    known = {damage.row.id for damage in found}
    return [
        *(damage._replace(unheld=damage.row.id in bare) for damage in found),
        *(
            Damage(row, holding.UNHELD, seen, unheld=True)
            for row, seen in sighted
            if row.id in bare - known and seen.here is not None
        ),
    ]


def _damage_of(
    sighted: Sequence[tuple[Resource, Presence]],
    loopback: Collection[str],
    links: Links,
    traits: LinkTraits,
) -> list[Damage]:
    bridges = {row.key: row.spec["ifindex"] for row, _ in sighted if row.kind == Kind.BRIDGE}
    rows = [row for row, _ in sighted]
    found = []
    for row, seen in sighted:
        missing = _missing(row, seen, bridges, loopback)
        if missing is None and row.kind == Kind.ADDRESS and seen.here:
            missing = own_routes.missing(row, links)
        elif missing is None and seen.link is not None:
            missing = _unguarded(row, rows, links) or _setting(row, rows, traits)
        if missing:
            found.append(Damage(row, missing, seen))
    return found


def _unseen(sighted: Sequence[tuple[Resource, Presence]]) -> list[dict[str, Any]]:
    """Rows of which nothing can be said, since the host could not be read, and why."""
    return [
        {
            "kind": str(row.kind),
            "key": row.key,
            "why": f"it could not be looked at: {'; '.join(seen.evidence)}",
        }
        for row, seen in sighted
        if seen.here is None and seen.problem is None
    ]


def _missing(
    row: Resource, seen: Presence, bridges: Mapping[str, int], loopback: Collection[str]
) -> str | None:
    if row.kind == Kind.SYSCTL:
        value = read_setting(row.spec["path"])
        wanted = row.spec["value"]
        gone = value is None and "/conf/" in row.spec["path"]  # with its device
        return None if gone or value == wanted else f"it was {value}, and {wanted} is needed"
    if seen.problem is not None:
        return f"{seen.problem.value}: {seen.evidence[0]}"
    if seen.here is False:
        return "it was gone"
    if seen.here is None:
        return None
    if not seen.complete:
        return "a part of it was gone"
    if row.kind in FIREWALL_KINDS and outdated(row):
        return "it was made by an earlier version, and lacks rules of this one"
    return _drift(row, seen.link, bridges, loopback) if seen.link is not None else None


def _guard_of(row: Resource, rows: Sequence[Resource]) -> dict[str, Any] | None:
    """What a TAP's filter holds its guest to; from other rows where its own is older."""
    if row.kind != Kind.TAP or row.spec.get("guard"):
        return row.spec.get("guard")
    port = next((r for r in rows if r.key == row.key and r.spec.get("what") == "port"), None)
    on = next((r for r in rows if (r.kind, r.key) == (Kind.BRIDGE, row.spec["bridge"])), None)
    if port is None or on is None:
        return None
    return port_guard(port.spec, on.spec["mac"], on.spec["addresses"])


def _guards_bridge(row: Resource, rows: Sequence[Resource]) -> bool:
    """Whether a bridge should have a filter; an older row does not say, its network's does."""
    if "guard" in row.spec:
        return bool(row.spec["guard"])
    network = (r for r in rows if r.spec.get("what") == "network" and r.network == row.network)
    return any(guards_bridge(r.spec["backend"], nat=r.spec["nat"]) for r in network)


def _unguarded(row: Resource, rows: Sequence[Resource], links: Links) -> str | None:
    if row.kind != Kind.BRIDGE:
        guard = _guard_of(row, rows)
        return None if guard is None else tapseen.missing(row, links, guard)
    bare = _guards_bridge(row, rows) and bridge.unguarded(row, links)
    words = "its filter, which holds when rules are flushed, was gone or another"
    return words if bare else None


def _wanted(row: Resource, rows: Sequence[Resource], traits: LinkTraits) -> Wanted:
    """How a device of ours should be set, where somebody changed that."""
    seen = traits.get(row.spec["ifindex"])
    if seen is None:
        return Wanted()
    if row.kind == Kind.BRIDGE:
        return drift(seen, bridge=True)
    guard = _guard_of(row, rows)
    return drift(seen, bridge=False, apart=guard is not None and bool(guard["apart"]))


def _setting(row: Resource, rows: Sequence[Resource], traits: LinkTraits) -> str | None:
    return ", ".join(_wanted(row, rows, traits).words) or None


def _drift(
    row: Resource, link: Link, bridges: Mapping[str, int], loopback: Collection[str]
) -> str | None:
    """What others changed of a device of ours, in words."""
    if link.name != row.key:
        return f"it was renamed to {link.name}"
    if not link.up:
        return "it was down"
    if link.mac != row.spec["mac"]:
        return f"its MAC address was {link.mac}"
    if link.mtu != row.spec["mtu"]:
        return f"its MTU was {link.mtu}"
    if row.kind == Kind.BRIDGE:
        if (untuned := tuned(row, link.name)) is not None:
            return untuned
        leads, should = read_setting(route_localnet(link.name)) == "1", row.key in loopback
        if leads == should:
            return None
        if should:
            return "127.0.0.1 did not reach its guests (route_localnet)"
        return "the host's 127.0.0.1 was reached from it, and no port needs that (route_localnet)"
    if link.master != bridges.get(row.spec["bridge"], row.spec["master"]):
        return f"it was not a port of {row.spec['bridge']}"
    return None


# -- putting back ----------------------------------------------------------------------------------

_FIRST = (Kind.SYSCTL, Kind.BRIDGE, Kind.ADDRESS, Kind.TAP)


def _mend_all(
    runtime: Runtime,
    damages: Sequence[Damage],
    rows: Sequence[Resource],
    repaired: list[dict[str, Any]],
    failed: list[dict[str, Any]],
) -> None:
    def attempt(damage: Damage, action: Callable[[], None]) -> None:
        row = damage.row
        try:
            action()
        except (HvtxError, OSError) as problem:
            why = problem.message if isinstance(problem, HvtxError) else str(problem)
            failed.append({"kind": row.kind, "key": row.key, "missing": damage.missing, "why": why})
        else:
            repaired.append({"kind": row.kind, "key": row.key, "missing": damage.missing})

    new_bridge = any(d.row.kind == Kind.BRIDGE and d.seen.here is False for d in damages)
    ordered = list(damages)
    if new_bridge:  # with the bridge its addresses and its ports' membership went
        known = {damage.row.id for damage in damages}
        gone = {d.row.key for d in damages if d.row.kind == Kind.BRIDGE and d.seen.here is False}
        ordered += [
            Damage(row, "it went with its bridge", Presence(False, ()))
            for row in rows
            if row.kind == Kind.ADDRESS and row.id not in known and row.spec["device"] in gone
        ]
    for kind in _FIRST:
        for damage in ordered:
            if damage.row.kind == kind:
                attempt(damage, lambda damage=damage: _mend(runtime, damage, rows))  # type: ignore[misc]
    walls = [damage for damage in ordered if damage.row.kind in FIREWALL_KINDS and damage.cuts]
    for damage in sorted(walls, key=lambda d: d.row.spec["what"] != "base"):
        attempt(damage, lambda damage=damage: _mend_firewall(runtime, damage))  # type: ignore[misc]


def _look_again(
    runtime: Runtime, repaired: list[dict[str, Any]], failed: list[dict[str, Any]]
) -> None:
    """Call put back only what a fresh look shows as it should be; the rest has failed."""
    if not repaired:
        return
    snapshot = take_snapshot(runtime)
    sighted = _sight(snapshot, _made_here(snapshot))
    loopback = bridges_in_need(snapshot.rows, snapshot.life.id)
    damages = _damage(sighted, loopback, ownrules.look(runtime))
    wrong = {(str(d.row.kind), d.row.key, d.cuts): f"{d.missing}, still" for d in damages}
    unseen = {(item["kind"], item["key"]): item["why"] for item in _unseen(sighted)}
    for item in list(repaired):
        thing = str(item["kind"]), item["key"]
        why = unseen.get(thing) or wrong.get((*thing, item["missing"] != holding.UNHELD))
        if why is not None:
            repaired.remove(item)
            failed.append({**item, "why": f"could not be put back: {why}"})


def _mend(runtime: Runtime, damage: Damage, rows: Sequence[Resource]) -> None:
    row, seen = damage.row, damage.seen
    if seen.problem is not None:
        raise HvtxError(
            f"{seen.evidence[0]}: it is not ours to change: {damage.mend}", hint=damage.mend
        )
    if row.kind == Kind.ADDRESS and seen.here:
        with closing(Links()) as links:
            own_routes.put_back(row, links)
        return
    if row.kind in (Kind.SYSCTL, Kind.ADDRESS) or (row.kind == Kind.BRIDGE and seen.here is False):
        runtime.driver(driver_name(row)).create([row])
        if row.kind == Kind.BRIDGE:
            lead_loopback(row.key, on=_leads_loopback(runtime, row))
        return
    if row.kind == Kind.TAP and seen.here is False:
        raise HvtxError(
            f"the device cannot be made again under a running VM: {damage.mend}",
            hint=damage.mend,
        )
    assert seen.link is not None
    links = Links()
    try:
        now = links.get(ifindex=seen.link.ifindex)
        if now is None or now.alias != row.mark:
            raise HvtxError("it changed while it was looked at", hint="hvtx repair tries again")
        if now.name != row.key:
            links.rename(now.ifindex, row.key)
            now = now._replace(name=row.key)
        if row.kind == Kind.BRIDGE:
            if any(":" in a for a in row.spec["addresses"]) and (off := ipv6_problem()):
                raise off
            restore(row, now, links, loopback=_leads_loopback(runtime, row))
            if _guards_bridge(row, rows):
                bridge.guard(row, links)
            _set_again(row, rows, links)
            return
        master = next(
            (
                r.spec["ifindex"]
                for r in rows
                if r.kind == Kind.BRIDGE and r.key == row.spec["bridge"]
            ),
            row.spec["master"],
        )
        guard = _guard_of(row, rows)
        links.change(
            now.ifindex,
            master=master,
            mac=row.spec["mac"],
            mtu=row.spec["mtu"],
            up=True,
            hairpin=True,
        )
        if guard is not None:
            tapguard.put_back(row, links, guard)
        _set_again(row, rows, links)
    finally:
        links.close()


def _set_again(row: Resource, rows: Sequence[Resource], links: Links) -> None:
    """Give a device the settings that others changed; link-local addresses of its own go."""
    index = row.spec["ifindex"]
    with closing(LinkTraits()) as traits:
        wanted = _wanted(row, rows, traits)
        if wanted.arp:
            traits.turn_arp_on(index)
        if wanted.bridge:
            traits.set_bridge(index, wanted.bridge)
        if wanted.port:
            traits.set_port(index, wanted.port)
        if wanted.queue:
            traits.set_queue(index, wanted.queue)
    if wanted.silent:
        links.change(index, quiet6=True)
        remove_link_local(index, row.spec.get("addresses", ()))


def _hold_again(
    runtime: Runtime,
    damages: Sequence[Damage],
    rows: Sequence[Resource],
    names: Mapping[str, str],
    told: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    """Bind sockets to published ports that nobody holds; ``names`` are the VMs', by id."""
    repaired, failed = told
    for vm, name in names.items():
        own = [damage for damage in damages if damage.row.vm == vm]
        if not own:
            continue
        processes = [row for row in rows if row.vm == vm and row.kind == Kind.PROCESS]
        why: dict[int, str] = {}
        try:
            why = _renew(runtime, [damage.row for damage in own], processes, name)
        except (HvtxError, OSError) as problem:
            why = {damage.row.id: str(problem) for damage in own}
        for damage in own:
            item = {"kind": damage.row.kind, "key": damage.row.key, "missing": holding.UNHELD}
            if damage.row.id in why:
                failed.append({**item, "why": why[damage.row.id]})
            elif not damage.cuts:
                repaired.append(item)


def _renew(
    runtime: Runtime, rows: Sequence[Resource], processes: Sequence[Resource], name: str
) -> dict[int, str]:
    """Why ports are still not held, by row."""
    holder, observed, why = holding.renew(rows, processes, name)
    if holder is None:
        return why
    try:
        with runtime.store.transaction() as sql:
            for row, seen in observed.items():
                intents.note(sql, row, seen)
        holder.open()
    except BaseException:
        holder.cancel()
        raise
    return why


def _leads_loopback(runtime: Runtime, row: Resource) -> bool:
    published = runtime.read(records.resources_of_kind, Kind.PUBLISH)
    return row.key in bridges_in_need(published, row.life)


def _mend_firewall(runtime: Runtime, damage: Damage) -> None:
    row = damage.row
    driver = runtime.firewall(row.spec["backend"])
    if damage.copies and not (left := driver.remove_copies(row)).gone:
        raise HvtxError(left.message)
    observed = driver.mend([row])
    if (row.spec["what"] == "base" or outdated(row)) and row.id in observed:
        kept = {name: row.observed[name] for name in (HOLDER,) if name in row.observed}
        with runtime.store.transaction() as sql:
            intents.note(sql, row.id, {**observed[row.id], **kept})
