"""The scope of a verb, read once: one transaction of the store, under the verb's locks.

Whoever has a scope passes it on, and nobody below asks the store for the same again. It is read
anew only after an operation of this run has changed what it says, and where a lock that comes
later lets others in before: each such place says so.

A VM's scope holds as long as the VM's lock is held: start, stop, gc and repair move rows of a VM
only under it. The networks in it stay as well, since a network that a VM is in cannot be removed;
but what they are may change until they are locked, so who makes what follows from them reads them
after that (:func:`networks_now`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hvtx.engine.processes import process_facts
from hvtx.engine.runtime import Runtime
from hvtx.engine.vm_state import Moment, judge, read_moment, state_of
from hvtx.errors import NotFound
from hvtx.model.resource import Resource
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Epoch, Network, Vm
from hvtx.planner.scope import NetworkScope, VmScope
from hvtx.planner.states import judge_vm, vm_state
from hvtx.store import records


class _Record(NamedTuple):
    vm: Vm
    moment: Moment
    networks: Mapping[str, Network]
    provisional: bool


def _read_vm(sql: Any, name: str) -> _Record:
    vm = records.get_vm(sql, name)
    return _Record(
        vm,
        read_moment(sql, vm.id),
        _by_id(sql, (i.network for i in vm.interfaces)),
        records.is_provisional(sql, vm.id),
    )


def _by_id(sql: Any, ids: Iterable[str]) -> dict[str, Network]:
    """The networks with these ids that are on record, in the order of the ids."""
    order = dict.fromkeys(ids)
    found = records.networks_by_id(sql, order)
    return {network: found[network] for network in order if network in found}


def _networks_of(sql: Any, life: Epoch, networks: Mapping[str, Network]) -> NetworkScope:
    if any(network.firewall == "iptables" for network in networks.values()):
        # what leads to their chains depends on all networks: hvtx.engine.forward_accepts
        rows, every = records.resources_of_networks(sql), records.networks(sql)
        return NetworkScope(life.id, networks, rows, every, records.provisional_networks(sql))
    return NetworkScope(life.id, networks, records.resources_of_networks(sql, networks))


def vm_scope(runtime: Runtime, name: str) -> VmScope:
    """A VM whose lock is held; raises NotFound."""
    record = runtime.read(_read_vm, name)
    return _scope(runtime.life, record, judge(runtime, record.vm, record.moment))


def vm_scopes(runtime: Runtime, names: Sequence[str]) -> dict[str, VmScope | NotFound]:
    """VMs whose locks are held, by name, read at one moment; of one that is not there, why."""
    found: dict[str, VmScope | NotFound] = {}
    vms: list[Vm] = []
    with runtime.reading() as sql:
        for name in names:
            try:
                vms.append(records.get_vm(sql, name))
            except NotFound as problem:
                found[name] = problem
        if not vms:
            return found
        moment = read_moment(sql, *(vm.id for vm in vms))
        networks = _by_id(sql, (i.network for vm in vms for i in vm.interfaces))
        provisional = records.provisional_vms(sql)
    facts = process_facts([row for vm in vms for row in moment.rows.get(vm.id, ())])
    for vm in vms:
        own = {i.network: networks[i.network] for i in vm.interfaces if i.network in networks}
        record = _Record(vm, moment, own, vm.id in provisional)
        found[vm.name] = _scope(runtime.life, record, judge(runtime, vm, moment, facts))
    return {name: found[name] for name in names}


def shown_scope(runtime: Runtime, name: str) -> VmScope:
    """A VM whose lock is not held, for who only tells of it; raises NotFound."""
    record = runtime.read(_read_vm, name)
    return _scope(runtime.life, record, state_of(runtime, record.vm, record.moment))


def _scope(life: Epoch, record: _Record, judged: Any) -> VmScope:
    state, liveness, rows = judged
    vm, unended = record.vm, record.moment.operations.get(record.vm.name, ())
    verbs = tuple(operation.verb for operation in unended)
    return VmScope(life, vm, rows, record.networks, record.provisional, state, liveness, verbs)


def after(scope: VmScope, vm: Vm, rows: Sequence[Resource]) -> VmScope:
    """The scope after an operation of this run that left these rows: its process is looked at.

    The record is not read again: it is what the operation committed, while the lock is held.
    """
    lives = {scope.life.id: scope.life}
    liveness, _ = judge_vm(
        vm.hypervisor, rows, life=scope.life, lives=lives, facts=process_facts(list(rows))
    )
    state = vm_state(rows, None, liveness)
    return VmScope(scope.life, vm, rows, scope.networks, False, state, liveness)


def bridges_now(runtime: Runtime, networks: Iterable[Network]) -> Mapping[str, Resource]:
    """The bridges that these networks have now, by the network's id."""
    known = {network.id: network for network in networks}
    with runtime.reading() as sql:
        rows = [row for network in known for row in records.resources_of_network(sql, network)]
    return NetworkScope(runtime.life.id, known, rows).bridges()


def networks_now(runtime: Runtime, ids: Iterable[str]) -> NetworkScope:
    """What these networks are now, as far as they are on record, and what they stand on.

    By id, so that nobody goes on with what a network was before it was locked.
    """
    with runtime.reading() as sql:
        return _networks_of(sql, runtime.life, _by_id(sql, ids))


def all_networks(runtime: Runtime, only: Collection[str] | None = None) -> NetworkScope:
    """All networks that are on record, and what interrupted operations may have left of them.

    ``only``: ``networks`` are no more than these (by id), as far as they are on record.
    """
    life = runtime.life.id
    with runtime.reading() as sql:
        every = records.networks(sql)
        return NetworkScope(
            life,
            {network.id: network for network in every if only is None or network.id in only},
            records.resources_of_networks(sql),
            every,
            records.provisional_networks(sql),
            unended=records.has_provisional(sql) or bool(records.operations(sql)),
            earlier=records.lives(sql).keys() != {life},
        )
