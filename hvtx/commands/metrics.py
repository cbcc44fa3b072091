"""`metrics`: how the installation is, as numbers for a monitoring system. Reads only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping

from hvtx import __version__
from hvtx.engine import refusals
from hvtx.engine.block_supply import free_addresses
from hvtx.engine.gc_plan import make_plan
from hvtx.engine.guests import Judged
from hvtx.engine.guests import states as guest_states
from hvtx.engine.runtime import Runtime
from hvtx.engine.vm_state import read_moment, states_of
from hvtx.model.address import family_of, room_in
from hvtx.model.block import Block
from hvtx.model.firewall import firewall_spec
from hvtx.model.guest import Guest
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network, Vm
from hvtx.planner.states import VmState
from hvtx.store import blocks, history, leases, records

_STATES = ("intended", "committed", "releasing")


class Gauge(NamedTuple):
    """A number, or one for each combination of label values."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]


def gauges(runtime: Runtime) -> list[Gauge]:
    """Everything that is measured; where the host may not be read, there is no plan's."""
    return [
        _info(runtime),
        *_records(runtime),
        *_plan(runtime),
        *_store(runtime),
        *_conntrack(),
        *_refused(runtime),
    ]


def _info(runtime: Runtime) -> Gauge:
    labels = (__version__, runtime.installation)
    return Gauge("hvtx_info", "The program and the installation.", ("version", "installation"),
                 {labels: 1})  # fmt: skip


def _records(runtime: Runtime) -> Iterable[Gauge]:
    with runtime.reading() as sql:
        vms, moment = records.vms(sql), read_moment(sql)
        rows, underway = records.raw_resources(sql), records.operations(sql)
        networks, leased = records.networks(sql), leases.counts(sql)
        known = blocks.blocks(sql)
    states_now = states_of(runtime, vms, moment)
    judged = [Judged(vm, state) for vm, (state, _, _) in zip(vms, states_now, strict=True)]
    states = Counter(state.value for _, state in judged)
    counts = Counter((row[1], row[3]) for row in rows)  # kind, state
    running = runtime.running(underway).values()
    operations = {"running": sum(running), "interrupted": len(running) - sum(running)}
    kinds = {kind for kind, _ in counts}
    guests = Counter(guest for guest in guest_states(runtime, judged).values() if guest)
    return [
        Gauge("hvtx_vms", "VMs on record by state.", ("state",),
              {(state.value,): states[state.value] for state in VmState}),
        Gauge("hvtx_guests", "Guests of VMs that run, by what their hypervisors say.", ("guest",),
              {(guest.value,): guests[guest] for guest in Guest}),
        Gauge("hvtx_networks", "Networks on record.", (), {(): len(networks)}),
        Gauge("hvtx_resources", "Resources on record by kind and state.", ("kind", "state"),
              {(kind, state): counts[kind, state] for kind in sorted(kinds) for state in _STATES}),
        Gauge("hvtx_operations", "Operations that have not ended.", ("state",),
              {(state,): number for state, number in operations.items()}),
        Gauge("hvtx_recovered", "Whether this life of the host is recovered.", (),
              {(): float(runtime.life.recovered)}),
        *_addresses(networks, leased),
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


def _plan(runtime: Runtime) -> Iterable[Gauge]:
    report = make_plan(runtime)
    refused = report.refused.code if report.refused else ""
    items = report.plan.counts()
    return [
        Gauge("hvtx_gc_refused", "1 if hvtx draws no conclusions about the host, with the "
        "reason.", ("code",),
              {(refused,): float(bool(refused))}),
        Gauge("hvtx_gc_items", "What gc --plan lists, by action and reason.", ("action", "reason"),
              {pair: float(number) for pair, number in sorted(items.items())}),
    ]  # fmt: skip


def _refused(runtime: Runtime) -> Iterable[Gauge]:
    """What egress policies have refused since each VM was started; of guests that have any."""
    with runtime.reading() as sql:
        rows, names = records.egress_rows(sql), records.vm_names(sql)
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
