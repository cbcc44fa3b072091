"""Tables and chains that an earlier version made otherwise, and that are made anew."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now
from hvtx.loader import module_named
from hvtx.model.resource import (
    FIREWALL_KINDS,
    Resource,
    State,
)
from hvtx.planner.scope import NetworkScope
from hvtx.store import intents, records


def bring_up_to_date(runtime: Runtime, scope: NetworkScope) -> None:
    """Make tables and chains anew that an earlier version made otherwise; VMs run on meanwhile."""
    if not _made_otherwise(runtime, scope):
        return
    runtime.lock("all", "networks")
    try:
        # read again under the lock: another command may have been quicker
        for row in _made_otherwise(runtime, networks_now(runtime, scope.networks)):
            observed = runtime.firewall(row.backend).repair([row])
            with runtime.store.transaction() as sql:
                intents.record_observed(sql, row.id, observed[row.id])
    finally:
        runtime.unlock("all", "networks")


def _made_otherwise(runtime: Runtime, scope: NetworkScope) -> list[Resource]:
    legacy = [n.id for n in scope.networks.values() if n.firewall == "iptables"]
    # of nftables only tables have rules
    old = _outdated_of(runtime, [r for r in scope.rows if r.network is None or r.network in legacy])
    if any(row.backend == "iptables" for row in old):
        # Where the chains are others, so are the rules of VMs: too many to be looked at always.
        with runtime.reading() as sql:
            for network in legacy:
                old += _outdated_of(runtime, records.firewall_rows_of_vms(sql, network))
    return old


def _outdated_of(runtime: Runtime, rows: Sequence[Resource]) -> list[Resource]:
    here = (State.COMMITTED, runtime.life.id)
    return [
        row
        for row in rows
        if row.kind in FIREWALL_KINDS
        and not row.imported
        and (row.state, row.life) == here
        and outdated(row)
    ]


def outdated(row: Resource) -> bool:
    """Whether an earlier version made a firewall row's objects otherwise."""
    module = module_named(f"hvtx.drivers.{row.backend}")
    return bool(module.outdated(row))
