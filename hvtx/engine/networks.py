"""Networks: made, rebuilt in a new life of the host, removed; and what they need of the host."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from hvtx.engine import notice, privileges
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation, begin
from hvtx.engine.undo import undo
from hvtx.engine.ways import refuse_diverted, samples
from hvtx.errors import (
    Conflict,
    Contended,
    HostRefused,
    NotFound,
    NotPermitted,
    PartialFailure,
    UsageError,
    advised,
)
from hvtx.host.flows import flow_limit
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted, forbidden
from hvtx.model.resource import (
    FIREWALL_KINDS,
    Address,
    Kind,
    Link,
    Resource,
    State,
    filters_on,
    put_by_others,
)
from hvtx.model.vm import Network
from hvtx.planner import provision
from hvtx.store import intents, records

DEFAULT = "default"


class NetworkWish(NamedTuple):
    """What a person asked for; checked, but not yet known to be free."""

    name: str
    subnets: tuple[str, ...] = ()
    bridge: str | None = None
    mtu: int = 1500
    nat: bool = True
    isolate: bool = False


def parse_wish(
    name: str, subnets: Sequence[str], bridge: str | None, mtu: int, *, nat: bool, isolate: bool
) -> NetworkWish:
    """Check what was written; raises UsageError."""
    from hvtx.planner import addressing

    addressing.parse_name(name, "network")
    with advised("take a private one with room for guests, for instance 10.77.0.0/24 or fd77::/64"):
        parsed = tuple(addressing.parse_subnet(subnet) for subnet in subnets)
    if not parsed:
        raise UsageError("a network needs a --subnet", hint="for instance --subnet 10.77.0.0/24")
    families = [":" in subnet for subnet in parsed]
    if len(parsed) > 2 or len(set(families)) != len(families):
        raise UsageError(
            "a network has at most one IPv4 and one IPv6 subnet",
            hint="make another network; a VM may have several: --network N --network M",
        )
    if bridge is not None:
        addressing.parse_device(bridge)
    least = 1280 if any(families) else 576
    most = 65521  # of a TAP device: 65535 less an Ethernet header (tun_net_initialize)
    if not least <= mtu <= most:
        raise UsageError(
            f"--mtu {mtu} is not between {least} and {most}",
            hint="1500 is Ethernet's; IPv6 needs 1280 at least",
        )
    return NetworkWish(
        name, tuple(sorted(parsed, key=lambda s: ":" in s)), bridge, mtu, nat, isolate
    )


def create_network(runtime: Runtime, wish: NetworkWish) -> Network:
    """Make a network, whole or not at all.

    Raises Conflict (name, bridge or subnet taken), NotPermitted, HostRefused (undone), Busy.
    """
    runtime.enter()
    runtime.lock("network", wish.name)
    runtime.lock("all", "networks")
    _resolve(runtime)
    _check_free(runtime, wish)
    _warn_of_public(wish.subnets)
    network = _describe(runtime, wish)
    _make(runtime, network, "network-create", new=True)
    if network.firewall == "iptables":
        from hvtx.engine import passes

        passes.settle(runtime, locked=True)
    return network


def _warn_of_public(subnets: Iterable[str]) -> None:
    from hvtx.planner import addressing

    for subnet in subnets:
        if addressing.is_public(subnet):
            notice.warning(
                f"{subnet} are public addresses: unless they are yours, whoever has them in the"
                " world is not reached from this host and its guests any more"
            )


def _resolve(runtime: Runtime) -> None:
    """Release what interrupted operations left of networks; a start needs none of the planner."""
    from hvtx.engine.collect import resolve

    resolve(runtime, networks=True)


def take_network(runtime: Runtime, name: str) -> Network:
    """A network, locked against removal until this run ends; `default` is made if it is not there.

    What is read before the lock is held may be gone by then. Raises NotFound, Conflict, Busy.
    """
    runtime.lock("network", name, shared=True)
    found = runtime.read(records.find_network, name)
    if found is not None and not _is_provisional(runtime, found):
        return found
    if name == DEFAULT:
        runtime.unlock("network", name)  # to be had alone: two that share it would wait for ever
        return _make_default(runtime)
    if found is not None:
        raise NotFound(
            f"network {name!r} was left half-made or half-removed by an interrupted command",
            hint="`hvtx recover` takes it back; then make it again: hvtx network create"
            f" {name} --subnet …",
        )
    return runtime.read(records.get_network, name)


def _make_default(runtime: Runtime) -> Network:
    """Make the network ``default`` from a free private /24; it stays locked against removal."""
    runtime.lock("network", DEFAULT)
    runtime.lock("all", "networks")
    try:
        _resolve(runtime)
        network = runtime.read(records.find_network, DEFAULT)  # another process may have made it
        if network is None or _is_provisional(runtime, network):  # the latter: what cannot go
            wish = NetworkWish(DEFAULT, (_free_subnet(runtime),))
            _check_free(runtime, wish)
            network = _describe(runtime, wish)
            _make(runtime, network, "network-create", new=True)
            if network.firewall == "iptables":
                from hvtx.engine import passes

                passes.settle(runtime, locked=True)
            words = f"{', '.join(network.subnets)} on bridge {network.bridge}"
            notice.note(f"there was no network yet; network {DEFAULT} is made: {words}")
    finally:
        runtime.unlock("all", "networks")
    runtime.lock("network", DEFAULT, shared=True)
    return network


def default_draft(runtime: Runtime) -> Network:
    """The network ``default`` as it is, or as :func:`take_network` would make it now."""
    found = runtime.read(records.find_network, DEFAULT)
    return found or _describe(runtime, NetworkWish(DEFAULT, (_free_subnet(runtime),)))


def _free_subnet(runtime: Runtime) -> str:
    from hvtx.planner import addressing

    routes = [*_host_prefixes(), *_known_subnets(runtime)]
    for subnet in addressing.private_subnets():
        if addressing.overlap(subnet, routes) is None:
            return subnet
    raise Conflict(
        "no private /24 is free for the network 'default'",
        hint="make one: hvtx network create default --subnet …",
    )


def _is_provisional(runtime: Runtime, network: Network) -> bool:
    return network.id in runtime.read(records.provisional_networks)


def _check_free(runtime: Runtime, wish: NetworkWish) -> None:
    from hvtx.planner import addressing

    if runtime.read(records.find_network, wish.name):
        raise Conflict(f"network {wish.name!r} exists already", hint="hvtx network ls")
    for subnet in wish.subnets:
        taken = addressing.overlap(subnet, _known_subnets(runtime))
        if taken:
            raise Conflict(f"{subnet} overlaps {taken} of another network", hint="hvtx network ls")
    refuse_taken_subnet(wish.subnets)
    if wish.bridge is not None:
        links = Links()
        try:
            if links.get(name=wish.bridge) is not None:
                raise Conflict(
                    f"a device named {wish.bridge} exists already",
                    hint="choose another --bridge, or leave it away",
                )
        finally:
            links.close()


def _known_subnets(runtime: Runtime) -> list[str]:
    return [subnet for network in runtime.read(records.networks) for subnet in network.subnets]


def _host_prefixes(own: int = 0) -> list[str]:
    """Every prefix that the host routes to other devices than ``own`` (an index).

    But default routes, in halves too, routes that only send on to the next table (throw), and the
    link-locals.
    """
    from hvtx.host.routes import all_routes
    from hvtx.planner.routing import takes

    return [
        route.prefix
        for route in all_routes()
        if (takes(route) or route.kind == "local") and (not own or route.device != own)
    ]


def refuse_taken_subnet(subnets: Iterable[str], bridge: int = 0) -> None:
    """Raise Conflict if the host has a route to part of a subnet, but for one to ``bridge``.

    Asked before a network is made and once more after: no lock spans two installations (or hvtx and
    Docker), and of two that take one subnet at once at least one takes it back.
    """
    from hvtx.planner import addressing

    prefixes = _host_prefixes(bridge)
    for subnet in subnets:
        taken = addressing.overlap(subnet, prefixes)
        if taken:
            raise Conflict(
                f"{subnet} overlaps {taken}, which this host has a route to",
                hint="choose another subnet; `ip route show table all` shows what is taken",
            )


def _describe(runtime: Runtime, wish: NetworkWish) -> Network:
    from hvtx.planner import addressing

    mac = provision.guest_mac(os.urandom(5))
    six = any(":" in subnet for subnet in wish.subnets)
    return Network(
        id=os.urandom(16).hex(),
        name=wish.name,
        bridge=wish.bridge or provision.bridge_name(os.urandom(8)),
        mac=mac,
        mtu=wish.mtu,
        nat=wish.nat,
        isolate=wish.isolate,
        firewall=_choose_firewall(runtime),
        subnets=wish.subnets,
        gateways=tuple(addressing.gateway_of(subnet) for subnet in wish.subnets),
        gateway6=provision.link_local(mac) if six else None,
    )


def _choose_firewall(runtime: Runtime) -> str:
    """``auto``: iptables only where a legacy table is in use and nftables is not.

    Raises HostRefused where that would be it and it cannot work.
    """
    if runtime.settings.firewall != "auto":
        return runtime.settings.firewall
    from hvtx.host import xtables

    if not any(xtables.in_use(family) for family in (4, 6)):
        return "nftables"
    from hvtx.host.nfnetlink import Nftables

    nftables = Nftables()
    try:
        strangers = any(not rule.table.startswith("hvtx-") for rule in nftables.rules())
    finally:
        nftables.close()
    if strangers:
        return "nftables"
    lack = xtables.lack()
    if lack is not None:
        raise HostRefused(
            "this host's own rules stand in legacy iptables tables, where guests of another"
            f" backend may not pass, but {lack.message}",
            hint=lack.hint,
        )
    return "iptables"


# -- making and rebuilding -----------------------------------------------------------------------


def keep_settings(runtime: Runtime, networks: Iterable[Network]) -> list[Resource]:
    """Turn on, and record, what networks that stand need by now: the uplink may be another one.

    What is on record already is not looked at. Returns the new rows. Raises HostRefused,
    NotPermitted (undone).
    """
    from hvtx.engine import forwarding

    standing = [network for network in networks if bridge_row(runtime, network) is not None]
    families = forwarding.families_of(standing)
    known = {row.spec["path"] for row in forwarding.recorded(runtime)}
    new = [c for c in forwarding.changes(runtime, families) if c[0] not in known]
    if not new:
        return []
    return make(runtime, "repair", provision.want_settings(new))


def make(runtime: Runtime, verb: str, wants: Sequence[provision.Want]) -> list[Resource]:
    """Make what is wanted as an operation of its own, or undo it. Raises what the making raises."""
    with begin(runtime, verb) as (sql, operation):
        rows = operation.intend(sql, wants)
    try:
        operation.commit(rows, operation.act(rows))
    except (Exception, KeyboardInterrupt) as problem:
        if not operation.committed:
            undo(operation, rows, problem)
        raise
    return rows


def _missing_bases(runtime: Runtime, network: Network) -> list[str]:
    """What the network stands on and what is not on record in this life."""
    there = [
        row.spec
        for row in runtime.read(records.resources_of_network, None)
        if row.kind == Kind.FILTER and row.life == runtime.life.id and row.state == State.COMMITTED
    ]
    return provision.missing_bases(network.firewall, there)


def _make(runtime: Runtime, network: Network, verb: str, *, new: bool) -> None:
    """Intend, act, commit; undone from the rows if anything fails."""
    privileges.need_to_start([network])
    from hvtx.engine import forwarding

    families = forwarding.families_of([network])
    settings = forwarding.changes(runtime, families)
    bases = _missing_bases(runtime, network)
    rows: list[Resource] = []
    with begin(runtime, verb, network=network.name) as (sql, operation):
        shared, own = provision.want_network(
            network,
            ifindex=provision.device_index(os.urandom(4)),
            bridge_mark="",
            bases=bases,
            settings=settings,
            flows=flow_limit(),
        )
        if new:
            records.add_network(sql, network, operation.id)
        rows += operation.intend(sql, shared)
        rows += intend_network(operation, sql, network, own)
    try:
        bridge = next(row for row in rows if row.kind == Kind.BRIDGE)
        observed = operation.act([row for row in rows if row.kind != Kind.SYSCTL])
        refuse_taken_subnet(network.subnets, bridge.spec["ifindex"])
        refuse_diverted(network, bridge, samples(network))
        # last, since settings stay on
        observed |= operation.act([row for row in rows if row.kind == Kind.SYSCTL])
        operation.commit(
            rows,
            observed,
            then=lambda sql: records.set_network_confirmed(sql, network.id),
        )
    except (Exception, KeyboardInterrupt) as problem:
        if not operation.committed:
            undo(operation, rows, problem, forget_network=network.id if new else None)
        raise
    if new:
        forwarding.warn(families, [path for path, _, _ in settings])


def intend_network(
    operation: Operation, sql: Any, network: Network, own: Sequence[provision.Want]
) -> list[Resource]:
    """Write a network's rows; the addresses name the mark that the bridge's row gets."""
    bridge = operation.intend(sql, own[:1], network=network.id)
    mark = bridge[0].mark
    rest = [
        want._replace(spec={**want.spec, "owner": mark}) if want.kind == Kind.ADDRESS else want
        for want in own[1:]
    ]
    return bridge + operation.intend(sql, rest, network=network.id)


def ensure_networks(
    runtime: Runtime, networks: Iterable[Network], verb: str = "rebuild", *, settle: bool = True
) -> None:
    """Rebuild the networks whose bridge is not on record in this life of the host.

    ``settle``: and let guests of the iptables backend pass where the host's policy drops by now.
    """
    networks = list(networks)
    bring_up_to_date(runtime, networks)
    _rebuild_missing(runtime, networks, verb)
    if settle and any(network.firewall == "iptables" for network in networks):
        from hvtx.engine import passes

        passes.settle(runtime)


def _rebuild_missing(runtime: Runtime, networks: Sequence[Network], verb: str) -> None:
    missing = [network for network in networks if bridge_row(runtime, network) is None]
    if not missing:
        return
    runtime.lock("all", "networks")
    try:
        if not runtime.life.recovered or any(
            row.vm is None for row in runtime.read(records.unsettled_resources)
        ):
            _resolve(runtime)  # what a saved ruleset or an interrupted rebuild has left
        _close_earlier_lives(runtime, missing)
        known = runtime.read(records.networks_by_id, {network.id for network in missing})
        for network in missing:
            # what an interrupted operation had only begun may be forgotten by now
            if network.id in known and bridge_row(runtime, network) is None:
                refuse_taken_subnet(network.subnets)  # others may have been quicker after a boot
                _make(runtime, network, verb, new=False)
    finally:
        runtime.unlock("all", "networks")


def bring_up_to_date(runtime: Runtime, networks: Sequence[Network]) -> None:
    """Make tables and chains anew that an earlier version made otherwise; VMs run on meanwhile."""
    if not _made_otherwise(runtime, networks):
        return
    runtime.lock("all", "networks")
    try:
        for row in _made_otherwise(runtime, networks):  # another command may have been quicker
            observed = runtime.firewall(row.spec["backend"]).mend([row])
            with runtime.store.transaction() as sql:
                intents.note(sql, row.id, observed[row.id])
    finally:
        runtime.unlock("all", "networks")


def _made_otherwise(runtime: Runtime, networks: Sequence[Network]) -> list[Resource]:
    with runtime.reading() as sql:
        rows = records.resources_of_network(sql, None)
        legacy = [network.id for network in networks if network.firewall == "iptables"]
        for network in legacy:  # of nftables only tables have rules
            rows += records.resources_of_network(sql, network)
        old = _outdated_of(runtime, rows)
        if any(row.spec["backend"] == "iptables" for row in old):
            # Where the chains are others, so are the rules of VMs: too many to be looked at always.
            for network in legacy:
                old += _outdated_of(runtime, records.firewall_rows_of_vms(sql, network))
    return old


def _outdated_of(runtime: Runtime, rows: Sequence[Resource]) -> list[Resource]:
    here = (State.COMMITTED, runtime.life.id)
    return [
        row
        for row in rows
        if row.kind in FIREWALL_KINDS
        and not row.spec.get("imported")
        and (row.state, row.life) == here
        and outdated(row)
    ]


def outdated(row: Resource) -> bool:
    """Whether an earlier version made a firewall row's objects otherwise."""
    module = import_module(f"hvtx.drivers.{row.spec['backend']}")
    return bool(module.outdated(row))


def _close_earlier_lives(runtime: Runtime, networks: Iterable[Network]) -> None:
    with runtime.reading() as sql:
        rows = records.resources_of_network(sql, None)
        for network in networks:
            rows += records.resources_of_network(sql, network.id)
    old = [row for row in rows if row.life != runtime.life.id]
    if old:
        with begin(runtime, "rebuild") as (_, operation):
            pass
        operation.forget(old, {row.id: "rebooted" for row in old})
        operation.end("done")


def bridge_row(runtime: Runtime, network: Network) -> Resource | None:
    """The committed row of a network's bridge in this life of the host."""
    for row in runtime.read(records.resources_of_network, network.id):
        if (row.kind, row.state, row.life) == (Kind.BRIDGE, State.COMMITTED, runtime.life.id):
            return row
    return None


# -- removing --------------------------------------------------------------------------------------


def remove_network(runtime: Runtime, name: str) -> None:
    """Remove a network; with the last one everything of this installation leaves the host.

    Raises NotFound, Conflict (VMs use it, strangers' things stand on its bridge), PartialFailure.
    """
    runtime.enter()
    runtime.lock("network", name)
    runtime.lock("all", "networks")
    network = runtime.read(records.get_network, name)
    _resolve(runtime)
    if runtime.read(records.find_network, name) is None:
        return  # it was what an interrupted operation had left
    with runtime.reading() as sql:
        users = records.users_of_network(sql, network.id)
        rows = records.resources_of_network(sql, network.id)
        # One whose removal something stood in the way of is only on record for what it left.
        others = {n.id for n in records.networks(sql)} - records.provisional_networks(sql).keys()
        shared = records.resources_of_network(sql, None)
        last = not others - {network.id}
        rows += shared if last else _idle_bases(sql, network, shared)
    if users:
        raise Conflict(
            f"network {name!r} is used by {', '.join(users)}",
            hint="; ".join((*(_away(runtime, vm) for vm in users), f"hvtx network rm {name}")),
        )
    privileges.need_for(rows)
    _refuse_dependents(runtime, network, rows)
    with begin(runtime, "network-rm", network=name) as (sql, operation):
        records.set_network_leaving(sql, network.id, operation.id)
    old = [row for row in rows if row.life != runtime.life.id]
    if old:
        operation.forget(old, {row.id: "rebooted" for row in old})
    here = [row for row in rows if row.life == runtime.life.id]
    outcomes = operation.release(here, reasons={row.id: "network-rm" for row in here})
    kept = [(row, outcomes[row.id]) for row in here if not outcomes[row.id].gone]
    left = [outcome.message for _, outcome in kept]

    def forget(sql: Any) -> None:
        if not left:
            records.remove_network(sql, network.id)

    operation.end("partial" if left else "done", then=forget)
    if left:
        from hvtx.engine import leftovers

        raise PartialFailure(
            f"network {name!r} is not wholly removed: {'; '.join(left)}",
            hint=leftovers.hint(runtime, kept, again=f"hvtx network rm {name}"),
        )


def _away(runtime: Runtime, name: str) -> str:
    """The command that removes a VM as it is now."""
    from hvtx.engine.vm_state import state_of
    from hvtx.planner.states import VmState

    vm = runtime.read(records.find_vm, name)
    down = vm is not None and state_of(runtime, vm)[0] is VmState.DEFINED
    return f"hvtx vm rm {name}" + ("" if down else " --force")


def _idle_bases(sql: Any, leaving: Network, shared: Sequence[Resource]) -> list[Resource]:
    """What of the installation only networks like the one that leaves stood on.

    Tables and chains of its backend, and the way into the accepts of a family.
    """
    staying = [n for n in records.networks(sql) if n.id != leaving.id]
    others = {n.firewall for n in staying}
    families = {
        6 if ":" in subnet else 4
        for network in staying
        if network.firewall == "iptables"
        for subnet in network.subnets
    }
    return [
        row
        for row in shared
        if (row.spec.get("what") == "base" and provision.idle_base(row.spec, others))
        or (row.spec.get("what") == "pass" and row.spec["family"] not in families)
    ]


def _off_bridge(
    row: Resource, every: Sequence[Link], addresses: Sequence[Address], filtered: Collection[int]
) -> list[str]:
    """The commands that take off a bridge what others put on it."""
    from hvtx.planner.leftovers import taken_away

    own = next(link for link in every if link.ifindex == row.spec["ifindex"])
    return taken_away(own, every, addresses, filtered, row.spec["addresses"])


def _refuse_dependents(runtime: Runtime, network: Network, rows: Sequence[Resource]) -> None:
    """Refuse before anything is touched if strangers' things stand on the bridge."""
    links = Links()
    try:
        every = links.all()
        addresses, filtered = links.addresses(), links.filtered()
    except DumpInterrupted as problem:
        raise Contended(
            "the host's links changed too fast to be listed", hint="try again"
        ) from problem
    except OSError as problem:
        if forbidden(problem):
            raise NotPermitted(
                "the host's links may not be read", hint="run hvtx as root"
            ) from problem
        raise HostRefused(f"the host's links could not be listed: {problem.strerror}") from problem
    finally:
        links.close()
    for row in rows:
        if row.kind != Kind.BRIDGE or row.life != runtime.life.id:
            continue
        index = row.spec["ifindex"]
        things = [link.name for link in every if index in (link.master, link.lower)]
        things += put_by_others(index, addresses, row.spec["addresses"])
        for link in every:
            things += filters_on(link, filtered) if link.ifindex == index else []
        if things:
            raise Conflict(
                f"others put something on bridge {row.key}: {', '.join(things)}",
                hint="; ".join(
                    (
                        *_off_bridge(row, every, addresses, filtered),
                        f"hvtx network rm {network.name}",
                    )
                ),
            )
