"""Tables and chains that an earlier version made otherwise, and that are made anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager

from hvtx.engine.registry import outdated
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now
from hvtx.model.resource import Resource
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import Network
from hvtx.planner.network_needs import legacy, made_otherwise, outdated_of
from hvtx.planner.scope import NetworkScope
from hvtx.store import intents, records

if TYPE_CHECKING:
    from hvtx.drivers.base import FirewallDriver
    from hvtx.store.database import Store


def bring_up_to_date(runtime: Runtime, scope: NetworkScope) -> None:
    """Make tables and chains anew that an earlier version made otherwise; VMs run on meanwhile.

    And rules of VMs where their chains were, but for a VM that another command has: it ends or
    changes it. `doctor` names what is left then, and `repair` or its next start makes that anew.
    """
    with runtime.held("all", "networks"):
        # read again under the lock: another command may have been quicker
        old = _made_otherwise(runtime.reading, networks_now(runtime, scope.networks))
        # what a table of this version leaves to iptables is there before the table
        for row in sorted(old, key=lambda row: row.backend != "iptables"):
            if row.vm is None:
                make_anew(runtime.firewall(row.backend), runtime.store, row)
        for vm in dict.fromkeys(row.vm for row in old if row.vm is not None):
            _make_vm_anew(runtime, vm, {row.id for row in old if row.vm == vm})


def _make_vm_anew(runtime: Runtime, vm: str, old: Collection[int]) -> None:
    """The same of a VM (by id) and those rows that are still there once it is held.

    It is not waited for: VMs are held before networks, so who has it may wait for us.
    """
    name = runtime.read(records.vm_name, vm)
    if name is None or not runtime.try_lock("vm", name):
        return
    try:
        rows = runtime.read(records.resources_of_vm, vm)
        for row in outdated_of(rows, runtime.life.id, outdated):
            if row.id in old:
                make_anew(runtime.firewall(row.backend), runtime.store, row)
    finally:
        runtime.unlock("vm", name)


def make_anew(driver: FirewallDriver, store: Store, row: Resource) -> None:
    """Put back what a firewall row stands for, as this version makes it.

    Raises HvtxError, OSError.
    """
    observed = driver.repair([row])
    if row.role != "base" and not outdated(row):
        return
    if row.id in observed:
        with store.transaction() as sql:
            intents.record_remade(sql, row.id, observed[row.id])


def _made_otherwise(
    reading: Callable[[], AbstractContextManager[Any]], scope: NetworkScope
) -> list[Resource]:
    life = scope.life
    old = made_otherwise(scope.rows, scope.networks.values(), life, outdated)
    networks: Iterable[Network] = scope.networks.values()
    if any(row.role == "base" for row in old):  # they are every network's
        with reading() as sql:
            networks, rows = records.networks(sql), records.resources_of_networks(sql)
        old = made_otherwise(rows, networks, life, outdated)
    if any(row.backend == "iptables" for row in old):
        # Where the chains are others, so are the rules of VMs: too many to be looked at always.
        with reading() as sql:
            for network in legacy(networks):
                rules = records.firewall_rows_of_vms(sql, network)
                old += outdated_of(rules, life, outdated)
    return old
