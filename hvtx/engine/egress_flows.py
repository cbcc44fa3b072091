"""Flows that a change of an egress policy refuses: they end, though known flows pass the rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hvtx.drivers import flows
from hvtx.engine.egress_guests import Concerned, concerns
from hvtx.engine.runtime import Runtime
from hvtx.errors import HvtxError
from hvtx.host import failpoint
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.firewall import FirewallSpec, addresses_in, firewall_spec
from hvtx.model.policy import EgressRule, names_in
from hvtx.model.reason import Reason
from hvtx.model.resource import FIREWALL_KINDS, Kind, Outcome, Resource, State
from hvtx.model.service import service_spec
from hvtx.model.typed import Any
from hvtx.model.vm import Network
from hvtx.planner.egress_flows import Named, Near, nothing
from hvtx.store import blocks, records

ROLE = "egress"


def end_refused(runtime: Runtime, changed: Sequence[Resource]) -> Outcome | None:
    """End flows of the guests whose policies are among ``changed`` rows, which now are others.

    None if all has ended, and where none of the rows is one of a policy.
    """
    rows = [row for row in changed if row.kind in FIREWALL_KINDS and row.role == ROLE]
    if not rows:
        return None
    try:
        failpoint.reach("flushing:refused")
        found = _policies(runtime, rows)
        named = _named(
            [*found.vms, *found.networks],
            lambda: [
                row
                for row in runtime.read(records.resources_of_kind, Kind.PROCESS)
                if row.is_service and row.life == runtime.life.id
            ],
            runtime.installation,
        )
        flows.flush_where(concerns(found, runtime.installation, named))
    except (HvtxError, OSError, DumpInterrupted) as problem:
        words = problem.message if isinstance(problem, HvtxError) else str(problem)
        what = ", ".join(sorted({row.key for row in rows}))
        words = f"connections that {what} refuses may continue: {words}"
        return Outcome(False, Reason.FLOWS_REMAIN, words)
    return None


def _named(
    specs: Sequence[FirewallSpec], services: Callable[[], list[Resource]], installation: str
) -> Named:
    """What tells the addresses of names; ``services`` are those of networks, if they are asked."""
    rules = [EgressRule(*rule) for spec in specs for rule in spec.get("rules", ())]  # type: ignore[arg-type]
    if not names_in(rules):
        return nothing
    from hvtx.host import named_sets
    from hvtx.rulesets import egress_names

    sets = {}
    for service in map(service_spec, services()):
        there = named_sets.read(egress_names.table_of(installation, service["directory"]))
        sets[service["bridge"]] = there.addresses if there else {}
    return lambda bridge, name: egress_names.addresses(name, sets.get(bridge, {}))


def _policies(runtime: Runtime, changed: Sequence[Resource]) -> Concerned:
    """Those of VMs and those of networks that hold now, in the networks that are concerned.

    A VM or network that has no policy any more has an open one.
    """
    networks = {row.network for row in changed}
    with runtime.reading() as sql:
        every = records.networks(sql)
        rows = [r for r in records.egress_rows(sql) if r.network in networks]
        near = [Near(n.bridge, _here(sql, n), n.firewall == "nftables") for n in every]
    known = [n for n in every if n.id in networks]
    here = {each.bridge: list(each.subnets) for each in near}
    staying = [firewall_spec(row) for row in rows if row.state != State.RELEASING]
    vms = [spec for spec in staying if "mac" in spec and "egress" in spec]
    own = {address for spec in vms for address in addresses_in(spec)}
    of_networks: list[FirewallSpec] = [
        {**spec, "subnets": here[spec["bridge"]]} for spec in staying if "mac" not in spec
    ]
    there = {spec["bridge"] for spec in of_networks}
    whole = {row.network for row in changed if "mac" not in firewall_spec(row)}
    of_networks += [
        {"bridge": n.bridge, "egress": None, "subnets": here[n.bridge]}
        for n in known
        if n.bridge not in there
    ]
    for row in changed:
        spec = firewall_spec(row)
        if "mac" in spec and own.isdisjoint(addresses_in(spec)) and row.network not in whole:
            # it had a policy of its own, and has its network's now
            vms.append({**spec, "egress": None, "rules": []})

    def ports() -> list[FirewallSpec]:
        rows = [r for n in known for r in runtime.read(records.firewall_rows_of_vms, n.id)]
        return [firewall_spec(row) for row in rows if row.role == "port"]

    return Concerned(vms, of_networks, near, ports)


def _here(sql: Any, network: Network) -> tuple[str, ...]:
    """Where guests of a network are who have its bridge: of a cluster's, those of this host."""
    if network.block_size is None:
        return network.subnets
    return tuple(block.cidr for block in blocks.blocks_of(sql, network.name) if block.cidr)
