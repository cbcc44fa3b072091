"""Tables and chains that an earlier version made otherwise, and that are made anew."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from hvtx.engine.runtime import Runtime
from hvtx.model.resource import (
    FIREWALL_KINDS,
    Resource,
    State,
)
from hvtx.model.vm import Network
from hvtx.store import intents, records


def bring_up_to_date(runtime: Runtime, networks: Sequence[Network]) -> None:
    """Make tables and chains anew that an earlier version made otherwise; VMs run on meanwhile."""
    if not _made_otherwise(runtime, networks):
        return
    runtime.lock("all", "networks")
    try:
        for row in _made_otherwise(runtime, networks):  # another command may have been quicker
            observed = runtime.firewall(row.backend).mend([row])
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
        if any(row.backend == "iptables" for row in old):
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
        and not row.imported
        and (row.state, row.life) == here
        and outdated(row)
    ]


def outdated(row: Resource) -> bool:
    """Whether an earlier version made a firewall row's objects otherwise."""
    module = import_module(f"hvtx.drivers.{row.backend}")
    return bool(module.outdated(row))
