"""`metrics`: how the installation is, as numbers for a monitoring system. Reads only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hvtx import __version__
from hvtx.engine import refusals
from hvtx.engine.block_supply import free_addresses
from hvtx.engine.gc_plan import plan_beside
from hvtx.engine.guests import Judged
from hvtx.engine.guests import states as guest_states
from hvtx.engine.runtime import Runtime
from hvtx.engine.vm_state import read_moment, states_of
from hvtx.errors import Refused
from hvtx.model.address import family_of, room_in
from hvtx.model.block import Block
from hvtx.model.firewall import firewall_spec
from hvtx.model.guest import Guest
from hvtx.model.plan import Plan
from hvtx.model.resource import Resource
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Network, Operation, Vm
from hvtx.planner.states import VmState, states_in
from hvtx.store import blocks, history, leases, records

_STATES = ("intended", "committed", "releasing")


class Gauge(NamedTuple):
    """A number, or one for each combination of label values."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]


class _Record(NamedTuple):
    """What is on record, all of one moment."""

    vms: list[Vm]
    counts: Mapping[tuple[str, str], int]  # of resources, by kind and state
    operations: list[Operation]  # that have not ended
    networks: list[Network]
    leased: Mapping[tuple[str, int], int]
    blocks: list[Block]
    egress: list[Resource]


class _Seen(NamedTuple):
    """The record, and the host at that moment."""

    record: _Record
    states: Mapping[str, VmState]  # by the VM's id
    running: Sequence[bool]  # of each operation that has not ended
    plan: Plan
    refused: str  # the code, where nothing is concluded about the host


def gauges(runtime: Runtime) -> list[Gauge]:
    """Everything that is measured; where the host may not be read, there is no plan's."""
    seen = _look(runtime)
    return [
        _info(runtime),
        *_records(runtime, seen),
        *_plan(seen),
        *_store(runtime),
        *_conntrack(),
        *_refused(runtime, seen.record),
    ]


def _look(runtime: Runtime) -> _Seen:
    """Everything once: all numbers but counters of the kernel are of one moment."""
    try:
        plan, snapshot, record = plan_beside(runtime, _read)
    except Refused as refusal:
        with runtime.reading() as sql:
            record, moment = _read(sql), read_moment(sql)
        judged = zip(record.vms, states_of(runtime, record.vms, moment), strict=True)
        states = {vm.id: state for vm, (state, _, _) in judged}
        held = runtime.running(record.operations)
        return _Seen(record, states, [*held.values()], Plan(()), refusal.code)
    running = [known.running for known in snapshot.operations.values()]
    return _Seen(record, states_in(snapshot), running, plan, "")


def _read(sql: Any) -> _Record:
    return _Record(
        records.vms(sql),
        records.resource_counts(sql),
        records.operations(sql),
        records.networks(sql),
        leases.counts(sql),
        blocks.blocks(sql),
        records.egress_rows(sql),
    )


def _info(runtime: Runtime) -> Gauge:
    labels = (__version__, runtime.installation)
    return Gauge("hvtx_info", "The program and the installation.", ("version", "installation"),
                 {labels: 1})  # fmt: skip


def _records(runtime: Runtime, seen: _Seen) -> Iterable[Gauge]:
    vms, known = seen.record.vms, seen.record.blocks
    judged = [Judged(vm, seen.states[vm.id]) for vm in vms]
    states = Counter(state.value for _, state in judged)
    counts = Counter(seen.record.counts)
    running = sum(seen.running)
    operations = {"running": running, "interrupted": len(seen.running) - running}
    kinds = {kind for kind, _ in counts}
    told = guest_states(runtime.store.run_directory, judged)
    guests = Counter(guest for guest in told.values() if guest)
    return [
        Gauge("hvtx_vms", "VMs on record by state.", ("state",),
              {(state.value,): states[state.value] for state in VmState}),
        Gauge("hvtx_guests", "Guests of VMs that run, by what their hypervisors say.", ("guest",),
              {(guest.value,): guests[guest] for guest in Guest}),
        Gauge("hvtx_networks", "Networks on record.", (),
              {(): len(seen.record.networks)}),
        Gauge("hvtx_resources", "Resources on record by kind and state.", ("kind", "state"),
              {(kind, state): counts[kind, state] for kind in sorted(kinds) for state in _STATES}),
        Gauge("hvtx_operations", "Operations that have not ended.", ("state",),
              {(state,): number for state, number in operations.items()}),
        Gauge("hvtx_recovered", "Whether this life of the host is recovered.", (),
              {(): float(runtime.life.recovered)}),
        *_addresses(seen.record.networks, seen.record.leased),
        *_attachments(vms),
        *_blocks(known, free_addresses(runtime.store) if known else {}),
    ]  # fmt: skip


def _attachments(vms: Iterable[Vm]) -> Iterable[Gauge]:
    """Whom VMs stand for that are interfaces of containers; nothing where there are none."""
    labels = ("vm", "network", "container", "interface", "namespace", "pod")
    found: dict[tuple[str, ...], float] = {
        (vm.name, own.network, own.container, own.ifname, own.pod_namespace, own.pod): 1.0
        for vm in vms
        if (own := vm.attachment) is not None
    }
    if not found:
        return []
    return [Gauge("hvtx_attachment_info", "Interfaces of containers.", labels, dict(found))]


def _addresses(
    networks: Iterable[Network], counts: Mapping[tuple[str, int], int]
) -> Iterable[Gauge]:
    used: dict[tuple[str, ...], float] = {}
    sizes: dict[tuple[str, ...], float] = {}
    for network in networks:
        for text in network.subnets:
            family = family_of(text)
            label = (network.name, f"ipv{family}")
            used[label] = float(counts.get((network.id, family), 0))
            sizes[label] = float(room_in(text))
    return [
        Gauge("hvtx_leases", "Addresses that VMs have.", ("network", "family"), used),
        Gauge("hvtx_addresses", "Addresses that VMs can have.", ("network", "family"), sizes),
    ]


def _blocks(known: Iterable[Block], free: Mapping[str, int]) -> Iterable[Gauge]:
    """Blocks of a cluster; no one asks it for a number."""
    counts = Counter((block.pool.network, block.state.value) for block in known)
    if not counts:
        return []
    return [
        Gauge("hvtx_blocks", "Blocks of addresses that are this host's.", ("network", "state"),
              {pair: float(number) for pair, number in sorted(counts.items())}),
        Gauge("hvtx_blocks_free_addresses", "Addresses that are leased without asking the cluster.",
              ("network",), {(name,): number for name, number in free.items()}),
    ]  # fmt: skip


def _plan(seen: _Seen) -> Iterable[Gauge]:
    refused, items = seen.refused, seen.plan.counts()
    return [
        Gauge("hvtx_gc_refused", "1 if hvtx draws no conclusions about the host, with the "
        "reason.", ("code",),
              {(refused,): float(bool(refused))}),
        Gauge("hvtx_gc_items", "What gc --plan lists, by action and reason.", ("action", "reason"),
              {pair: float(number) for pair, number in sorted(items.items())}),
    ]  # fmt: skip


def _refused(runtime: Runtime, record: _Record) -> Iterable[Gauge]:
    """What egress policies have refused since each VM was started; of guests that have any."""
    rows, names = record.egress, {vm.id: vm.name for vm in record.vms}
    vms = {
        firewall_spec(row)["mac"]: names[row.vm]
        for row in rows
        if row.vm in names and "mac" in firewall_spec(row)
    }
    packets: Counter[tuple[str, ...]] = Counter()
    size: Counter[tuple[str, ...]] = Counter()
    for mac, counted in refusals.refused(runtime, rows).items():
        packets[(vms[mac],)] += counted.packets
        size[(vms[mac],)] += counted.bytes
    if not packets:
        return []
    return [
        Gauge("hvtx_egress_dropped_packets", "Packets of a guest that its egress policy refused.",
              ("vm",), dict(packets)),
        Gauge("hvtx_egress_dropped_bytes", "Bytes of these packets.", ("vm",), dict(size)),
    ]  # fmt: skip


def _conntrack() -> Iterable[Gauge]:
    """How full connection tracking is, which all guests share; nothing where nothing is tracked."""
    from hvtx.host import conntrack

    fill = conntrack.fill()
    if fill is None:
        return []
    return [
        Gauge("hvtx_conntrack_entries", "Connections that this network namespace tracks.", (),
              {(): fill.entries}),
        Gauge("hvtx_conntrack_entries_limit", "Connections that it can track (nf_conntrack_max).",
              (), {(): fill.limit}),
    ]  # fmt: skip


def _store(runtime: Runtime) -> Iterable[Gauge]:
    size = 0
    for suffix in ("", "-wal"):
        if os.path.exists(runtime.store.path + suffix):
            size += os.stat(runtime.store.path + suffix).st_size
    with runtime.reading() as sql:
        lines, marks = history.count(sql), records.tombstone_count(sql)
    return [
        Gauge("hvtx_store_bytes", "The size of the state store.", (), {(): size}),
        Gauge("hvtx_history_lines", "Lines that the history keeps.", (), {(): lines}),
        Gauge("hvtx_tombstones", "Marks of released resources that are kept.", (),
              {(): marks}),
    ]  # fmt: skip
