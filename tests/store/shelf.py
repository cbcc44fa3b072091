"""A store in a directory of its own, and short ways to put things on record."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hvtx.model.mark import make_mark
from hvtx.model.resource import Kind, Resource
from hvtx.model.vm import Identity, Interface, Network, Publish, Vm
from hvtx.planner.addressing import gateway_of
from hvtx.store import intents, leases, records
from hvtx.store.database import FILE, Store
from hvtx.store.opening import open_store

WRITER = Identity("boot-a", 42, 1193, 0)
_MACS = itertools.count(1)
NOW = "2026-01-02T03:04:05.000006Z"


class Shelf:
    """Where a store lies."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.state = base / "state"
        self.run = base / "run"
        self.file = self.state / FILE
        self.vms = 0

    def open(self, *, writable: bool = True, lock_timeout: float = 5.0) -> Store:
        return open_store(
            str(self.state), str(self.run), writable=writable, lock_timeout=lock_timeout
        )

    @contextmanager
    def opened(self, *, writable: bool = True) -> Iterator[Store]:
        store = self.open(writable=writable)
        try:
            yield store
        finally:
            store.close()

    def bytes(self) -> dict[str, bytes]:
        """The store's files, each with its content."""
        return {entry.name: entry.read_bytes() for entry in self.state.iterdir()}


def seq(store: Store) -> int:
    """The number of the store's last change."""
    return int(store.connection.execute("SELECT seq FROM meta").fetchone()[0])


def high_water(store: Store) -> int:
    """The number that the run directory remembers."""
    return int.from_bytes(Path(store.run_directory, "hwm").read_bytes(), "little")


def enter(store: Store) -> int:
    """A life and an open operation; returns the operation."""
    with store.transaction() as sql:
        life = records.set_life(sql, "boot-a", 7, NOW)
        return intents.begin(
            sql, verb="start", vm="web", network=None, life=life.id, writer=WRITER, now=NOW
        )


def intend(store: Store, operation: int, *wanted: tuple[Kind, str], **more: Any) -> list[Resource]:
    with store.transaction() as sql:
        return intents.intend(
            sql,
            [intents.NewRow(kind, key, {}, "id-web", None) for kind, key in wanted],
            operation=operation,
            life=1,
            mark=lambda row: make_mark(store.installation, row, os.urandom(10)),
            **more,
        )


def network(name: str = "lan", *subnets: str) -> Network:
    subnets = subnets or ("10.77.0.0/24",)
    return Network(
        id=f"net-{name}",
        name=name,
        bridge=f"br-{name}",
        mac=f"02:00:00:00:01:{sum(name.encode()) % 256:02x}",
        mtu=1500,
        nat=True,
        isolate=False,
        firewall="nftables",
        subnets=subnets,
        gateways=tuple(gateway_of(subnet) for subnet in subnets),
        gateway6=None,
    )


def add_network(store: Store, *described: Network) -> None:
    operation = enter(store)
    with store.transaction() as sql:
        for one in described:
            records.add_network(sql, one, operation)


def vm(name: str) -> Vm:
    return Vm(
        id=f"id-{name}",
        name=name,
        hypervisor="command",
        memory=256,
        cpus=1,
        kernel=None,
        initrd=None,
        append=None,
        disks=("/a", "/b"),
        command=("sleep", "1"),
        directory="/",
        autostart=True,
        interfaces=(),
    )


def claim(
    store: Store,
    name: str,
    *where: Network,
    mac: str | None = None,
    ip: str | None = None,
    ip6: str | None = None,
    ports: tuple[Publish, ...] = (),
) -> tuple[Interface, ...]:
    """Add a VM with an interface in each network; raises what the store raises."""
    with store.transaction() as sql:
        return claim_in(sql, name, *where, mac=mac, ip=ip, ip6=ip6, ports=ports)


def claim_in(
    sql: Any,
    name: str,
    *where: Network,
    mac: str | None = None,
    ip: str | None = None,
    ip6: str | None = None,
    ports: tuple[Publish, ...] = (),
) -> tuple[Interface, ...]:
    operation = sql.execute("SELECT max(id) FROM operation").fetchone()[0]
    records.add_vm(sql, vm(name), operation)
    wanted = []
    for one in where:
        fresh = f"06:{next(_MACS).to_bytes(5, 'big').hex(':')}"
        wanted.append((one, mac or fresh, ip, ip6, ports))
    return leases.claim(sql, f"id-{name}", wanted)
