"""`repair`: put back what someone flushed or changed under running VMs and networks.

The rows stay as they are, and with them their marks: what is put back carries the mark that it had.
A TAP that is gone is not made again under a running VM, whose descriptor would still speak to the
old one; it is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hvtx.engine import flows, network_service, notice, ownrules, port_holders, service_upkeep
from hvtx.engine.damage import (
    Damage,
    damages_of,
    made_here,
    may_run,
    sight,
    unseen_of,
    with_remedies,
)
from hvtx.engine.forwarding import keep_settings
from hvtx.engine.loopback import bridges_in_need
from hvtx.engine.network_upkeep import carry_out, settle_accepts
from hvtx.engine.registry import outdated
from hvtx.engine.repair_row import note_remaking, repair_object, repair_rules
from hvtx.engine.repaired import Failed, Repair, Repaired
from hvtx.engine.resolve import resolve
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.scope import all_networks, networks_now
from hvtx.engine.snapshot import take_snapshot
from hvtx.engine.transaction import begin
from hvtx.engine.unsettled import resolved_networks
from hvtx.errors import HvtxError, NotFound
from hvtx.model.remaking import is_remade
from hvtx.model.resource import (
    FIREWALL_KINDS,
    Kind,
    Resource,
    State,
    address_spec,
    is_changing,
    sysctl_spec,
)
from hvtx.model.service import service_spec
from hvtx.model.vm import Network, Vm
from hvtx.planner.network_needs import needs_of
from hvtx.planner.presence import Presence
from hvtx.planner.scope import NetworkScope
from hvtx.store import records
from hvtx.store.history import Event


def repair(runtime: Runtime, name: str | None = None) -> Repair:
    """Put back everything, or what belongs to the network or VM ``name``.

    Raises NotFound, Busy, Refused.
    """
    if runtime.store.missing:
        _scope(runtime, name)
        return Repair()
    runtime.enter()
    _, vms = _scope(runtime, name)
    _serve_outside(runtime.settings, all_networks(runtime))
    for vm in vms:
        runtime.lock("vm", vm.name)
    runtime.lock("all", "networks")
    resolved_networks(runtime, all_networks(runtime))
    _end_changes(runtime, vms)
    networks, vms = _still_there(runtime, name, vms)
    there = networks_now(runtime, [network.id for network in networks])
    needs = needs_of(there, {}, outdated=outdated, filters=False)._replace(services=False)
    carry_out(runtime, there, needs, {}, "repair", resolved=True)  # services and accepts follow
    failed: list[Failed] = []
    repaired = settle_accepts(runtime, all_networks(runtime), locked=True, failed=failed)
    snapshot = take_snapshot(runtime)
    wanted = {network.id for network in networks}
    live = {vm.id for vm in vms if may_run(snapshot, vm.id)}
    rows = [
        row
        for row in made_here(snapshot)
        if (row.vm in live if row.vm else row.network is None or row.network in wanted)
    ]
    sighted = sight(snapshot, rows)
    loopback = bridges_in_need(snapshot.rows, snapshot.life.id)
    differences = ownrules.look(runtime)
    damages = with_remedies(snapshot, damages_of(sighted, loopback, differences))
    failed += unseen_of(sighted)  # a look that failed does not make a thing whole
    _keep_settings(runtime, networks, repaired, failed)
    _supply(runtime, networks, repaired, failed)
    if damages:
        with begin(runtime, "repair", vm=name if vms and not networks else None) as (_, operation):
            pass
        operation.end_if_interrupted()
        _fix_all(runtime, damages, rows, repaired, failed)
        _hold_again(runtime, [d for d in damages if d.unheld], rows, vms, (repaired, failed))
        _look_again(runtime, repaired, failed)
        ports = [damage.row for damage in damages if damage.row.kind == Kind.PUBLISH]
        unended = flows.end_past(operation, ports)  # datagrams of meanwhile went past their rules
        if not unended.gone:
            failed.append(Failed("publish", ports[0].key, unended.message))
        operation.end("partial" if failed else "done", events=_events(repaired, failed))
    return Repair(tuple(repaired), (*failed, *ownrules.of_others(differences)))


def _serve_outside(settings: Settings, scope: NetworkScope) -> None:
    """In a unit's sandbox, where none is started: what does not run then is told as failed."""
    try:
        service_upkeep.serve_outside(settings, scope)
    except HvtxError as problem:
        notice.warning(problem.message)


def _end_changes(runtime: Runtime, vms: Sequence[Vm]) -> None:
    """Resolve changes of VMs that were interrupted: else their old rules would be put back.

    And complete the record of a VM that runs and whose start was: only what is committed is put
    back.
    """
    rows = runtime.read(records.resources_of_vms)
    changing = {row.vm for row in rows if is_changing([row])}
    starting = {row.vm for row in rows if row.state == State.INTENDED} - changing
    if own := [vm.name for vm in vms if vm.id in changing]:
        resolve(runtime, *own)
    if own := [vm.name for vm in vms if vm.id in starting]:
        resolve(runtime, *own, completing=True)


def _events(repaired: Sequence[Repaired], failed: Sequence[Failed]) -> list[Event]:
    return [
        *(Event("repaired", one.missing, one.kind, one.key) for one in repaired),
        *(Event("failed", one.why, one.kind, one.key) for one in failed),
    ]


def _keep_settings(
    runtime: Runtime,
    networks: Sequence[Network],
    repaired: list[Repaired],
    failed: list[Failed],
) -> None:
    """What networks need by now and is not on record yet: other uplinks than before."""
    try:
        for row in keep_settings(runtime, networks):
            spec = sysctl_spec(row)
            words = f"it was {spec['before']}, and {spec['value']} is needed"
            repaired.append(Repaired(row.kind, row.key, words))
    except HvtxError as problem:
        failed.append(Failed(Kind.SYSCTL, "forwarding", problem.message))


def _supply(
    runtime: Runtime,
    networks: Sequence[Network],
    repaired: list[Repaired],
    failed: list[Failed],
) -> None:
    """Start the services that networks should have and that are not on record."""
    if not any(network.dhcp for network in networks):
        return
    for name, why in network_service.supply(runtime, networks).items():
        if why:
            failed.append(Failed(Kind.PROCESS, f"dnsmasq {name}", why, "it was not running"))
        else:
            repaired.append(Repaired(Kind.PROCESS, f"dnsmasq {name}", "it was not running"))


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
        known = [*(network.name for network in networks), *(vm.name for vm in vms)]
        hint = records.likely(name, known, "`hvtx network ls` and `hvtx vm ls` list them")
        raise NotFound(f"there is no network or VM {name!r}", hint=hint)
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


# -- putting back ----------------------------------------------------------------------------------

_BELOW = frozenset({Kind.BRIDGE, Kind.ADDRESS, Kind.PROCESS})  # what comes back with a bridge
# Rules before the ports: whoever is behind one sends as soon as it is on its bridge.
_BEFORE_RULES = (Kind.SYSCTL, Kind.BRIDGE, Kind.ADDRESS)
_AFTER_RULES = (Kind.TAP, Kind.VETH, Kind.FILE, Kind.PROCESS)


def _fix_all(
    runtime: Runtime,
    damages: Sequence[Damage],
    rows: Sequence[Resource],
    repaired: list[Repaired],
    failed: list[Failed],
) -> None:
    def attempt(damage: Damage, action: Callable[[], None]) -> None:
        row = damage.row
        try:
            action()
        except (HvtxError, OSError) as problem:
            why = problem.message if isinstance(problem, HvtxError) else str(problem)
            failed.append(Failed(row.kind, row.key, why, damage.missing))
        else:
            repaired.append(Repaired(row.kind, row.key, damage.missing))

    remade = [d for d in damages if d.row.kind == Kind.BRIDGE and _is_new(d)]
    ordered = list(_with_bridges(damages, remade, rows))
    before = len(failed)

    def objects(kinds: Sequence[Kind]) -> None:
        for kind in kinds:
            for damage in ordered:
                # a VM's own directory and process are gone for good
                of_vm = damage.row.kind in (Kind.FILE, Kind.PROCESS) and damage.row.network is None
                if damage.row.kind == kind and not of_vm:
                    attempt(damage, lambda damage=damage: repair_object(runtime, damage, rows))  # type: ignore[misc]

    objects(_BEFORE_RULES)
    walls = [damage for damage in ordered if damage.row.kind in FIREWALL_KINDS and damage.cuts]
    for damage in sorted(walls, key=lambda d: d.row.role != "base"):
        attempt(damage, lambda damage=damage: repair_rules(runtime, damage))  # type: ignore[misc]
    objects(_AFTER_RULES)
    if remade and _BELOW.isdisjoint(one.kind for one in failed[before:]):
        note_remaking(runtime.store, [damage.row for damage in remade], begun=False)


def _is_new(damage: Damage) -> bool:
    """Whether a bridge is made anew, or was by who was cut off before all was back."""
    return damage.seen.here is False or is_remade(damage.row)


def _with_bridges(
    damages: Sequence[Damage], bridges: Sequence[Damage], rows: Sequence[Resource]
) -> Iterator[Damage]:
    """The damages, with what goes with these bridges, or serves them in vain (pure).

    Their ports' membership went, too, which is seen at the ports. An address on one that has not
    its mark yet is its own again with the mark.
    """
    known = {damage.row.id for damage in damages}
    gone = {damage.row.key for damage in bridges if damage.seen.here is False}
    new = {damage.row.key for damage in bridges}
    for damage in damages:
        row = damage.row
        unmarked = row.kind == Kind.ADDRESS and damage.seen.problem is not None
        if not unmarked or address_spec(row)["device"] not in new:
            yield damage
    for row in rows:
        if row.id in known:
            continue
        if row.kind == Kind.ADDRESS and address_spec(row)["device"] in gone:
            yield Damage(row, "it went with its bridge", Presence(False, ()))
        elif row.is_service and service_spec(row)["bridge"] in new:
            yield Damage(row, "it served the bridge that was gone", Presence(False, ()))


def _look_again(runtime: Runtime, repaired: list[Repaired], failed: list[Failed]) -> None:
    """Call put back only what a fresh look shows as it should be; the rest has failed."""
    if not repaired:
        return
    snapshot = take_snapshot(runtime)
    sighted = sight(snapshot, made_here(snapshot))
    loopback = bridges_in_need(snapshot.rows, snapshot.life.id)
    damages = damages_of(sighted, loopback, ownrules.look(runtime))
    wrong = {(str(d.row.kind), d.row.key, d.cuts): f"{d.missing}, still" for d in damages}
    unseen = {(one.kind, one.key): one.why for one in unseen_of(sighted)}
    for one in list(repaired):
        thing = str(one.kind), one.key
        why = unseen.get(thing) or wrong.get((*thing, one.missing != port_holders.UNHELD))
        if why is not None:
            repaired.remove(one)
            words = f"could not be put back: {why}"
            failed.append(Failed(one.kind, one.key, words, one.missing))


def _hold_again(
    runtime: Runtime,
    damages: Sequence[Damage],
    rows: Sequence[Resource],
    vms: Sequence[Vm],
    told: tuple[list[Repaired], list[Failed]],
) -> None:
    """Bind sockets to published ports that nobody holds."""
    repaired, failed = told
    for vm in vms:
        own = [damage for damage in damages if damage.row.vm == vm.id]
        if not own:
            continue
        processes = [row for row in rows if row.vm == vm.id and row.kind == Kind.PROCESS]
        lost = [damage.row for damage in own]
        try:
            _, why = port_holders.hold_recorded(runtime.store, lost, processes, vm.name)
        except (HvtxError, OSError) as problem:
            why = {damage.row.id: str(problem) for damage in own}
        for damage in own:
            kind, key = damage.row.kind, damage.row.key
            if damage.row.id in why:
                failed.append(Failed(kind, key, why[damage.row.id], port_holders.UNHELD))
            elif not damage.cuts:
                repaired.append(Repaired(kind, key, port_holders.UNHELD))
