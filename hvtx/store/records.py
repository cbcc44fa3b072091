"""Rows to types: VMs, networks, resources, operations and lives as the store has them.

Functions that only read are called inside ``Store.reading()`` or ``Store.transaction()``: many of
them are several statements. Those named ``add_*``, ``remove_*`` or ``set_*`` must be called inside
``Store.transaction()``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from hvtx.errors import NotFound
from hvtx.model.resource import Resource
from hvtx.model.vm import Identity, Interface, Life, Network, Operation, Publish, Vm

_RESOURCE = "id, kind, key, state, mark, spec, observed, operation, life, vm, network"
_CHUNK = 500  # SQLite's limit of bound values is higher everywhere


def _resource(row: tuple[Any, ...]) -> Resource:
    return Resource._make((*row[:5], json.loads(row[5]), json.loads(row[6]), *row[7:]))


def resources(
    sql: sqlite3.Connection, where: str = "1", values: Iterable[Any] = ()
) -> list[Resource]:
    """Live rows (no tombstones) that fit ``where``, in the order in which they were intended."""
    rows = sql.execute(
        f"SELECT {_RESOURCE} FROM resource WHERE state <> 'released' AND {where} ORDER BY id",
        tuple(values),
    )
    return _resources(rows.fetchall())


def _resources(rows: Sequence[tuple[Any, ...]]) -> list[Resource]:
    """Many rows: their JSON is read as one array each, which takes a third of the time."""
    specs = json.loads(f"[{','.join([row[5] for row in rows])}]")
    observed = json.loads(f"[{','.join([row[6] for row in rows])}]")
    return [
        Resource._make((*row[:5], spec, seen, *row[7:]))
        for row, spec, seen in zip(rows, specs, observed, strict=True)
    ]


def resources_of_vm(sql: sqlite3.Connection, vm: str) -> list[Resource]:
    """The live rows of one VM (by id)."""
    return resources(sql, "vm = ?", (vm,))


def resources_of_network(sql: sqlite3.Connection, network: str | None) -> list[Resource]:
    """The live rows of one network itself, or (None) of the installation."""
    if network is None:
        return resources(sql, "vm IS NULL AND network IS NULL")
    return resources(sql, "vm IS NULL AND network = ?", (network,))


def resources_by_id(sql: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Resource]:
    """Rows by id, tombstones included."""
    wanted = list(ids)
    found: dict[int, Resource] = {}
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        rows = sql.execute(
            f"SELECT {_RESOURCE} FROM resource WHERE id IN ({','.join('?' * len(part))})", part
        )
        found.update((row[0], _resource(row)) for row in rows)
    return found


def tombstones(sql: sqlite3.Connection, marks: Iterable[str]) -> dict[str, Resource]:
    """Released rows that had one of these marks."""
    wanted = list(marks)
    found: dict[str, Resource] = {}
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        rows = sql.execute(
            f"SELECT {_RESOURCE} FROM resource WHERE state = 'released'"
            f" AND mark IN ({','.join('?' * len(part))})",
            part,
        )
        found.update((row[4], _resource(row)) for row in rows)
    return found


def whereabouts(
    sql: sqlite3.Connection, ids: Iterable[int]
) -> dict[int, tuple[str, int, dict[str, Any]]]:
    """State, operation and what was learnt of rows, by id, tombstones included."""
    wanted = list(ids)
    found: dict[int, tuple[str, int, dict[str, Any]]] = {}
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        found.update(
            (row[0], (row[1], row[2], json.loads(row[3])))
            for row in sql.execute(
                "SELECT id, state, operation, observed FROM resource"
                f" WHERE id IN ({','.join('?' * len(part))})",
                part,
            )
        )
    return found


# -- VMs ---------------------------------------------------------------------------------------


def _interfaces(
    sql: sqlite3.Connection, where: str, values: tuple[Any, ...]
) -> dict[str, list[Interface]]:
    ports: dict[int, list[Publish]] = {}
    for interface, *port in sql.execute(
        "SELECT p.interface, p.protocol, p.host_ip, p.host_port, p.guest_port FROM port p"
        f" JOIN interface i ON i.id = p.interface WHERE {where} ORDER BY p.id",
        values,
    ):
        ports.setdefault(interface, []).append(Publish(*port))
    found: dict[str, list[Interface]] = {}
    for vm, identity, position, network, name, mac, four, six in sql.execute(
        "SELECT i.vm, i.id, i.position, i.network, n.name, i.mac, a.address, b.address"
        " FROM interface i JOIN network n ON n.id = i.network"
        " LEFT JOIN lease a ON a.interface = i.id AND a.family = 4"
        " LEFT JOIN lease b ON b.interface = i.id AND b.family = 6"
        f" WHERE {where} ORDER BY i.vm, i.position",
        values,
    ):
        found.setdefault(vm, []).append(
            Interface(position, network, name, mac, four, six, tuple(ports.get(identity, ())))
        )
    return found


def _vm(row: tuple[Any, ...], interfaces: Iterable[Interface]) -> Vm:
    spec = json.loads(row[3])
    return Vm(
        id=row[0],
        name=row[1],
        hypervisor=row[2],
        memory=spec["memory"],
        cpus=spec["cpus"],
        kernel=spec["kernel"],
        initrd=spec["initrd"],
        append=spec["append"],
        disks=tuple(spec["disks"]),
        command=tuple(spec["command"]),
        directory=spec["directory"],
        autostart=bool(row[4]),
        interfaces=tuple(interfaces),
        number=spec.get("number", 0),
    )


def vms(sql: sqlite3.Connection) -> list[Vm]:
    """All VMs by name."""
    interfaces = _interfaces(sql, "1", ())
    return [
        _vm(row, interfaces.get(row[0], ()))
        for row in sql.execute("SELECT id, name, hypervisor, spec, autostart FROM vm ORDER BY name")
    ]


def vm_names(sql: sqlite3.Connection) -> dict[str, str]:
    """The names of all VMs by id."""
    return dict(sql.execute("SELECT id, name FROM vm"))


def vm_heads(sql: sqlite3.Connection) -> list[tuple[str, str, str, bool]]:
    """``(id, name, hypervisor, provisional)`` of all VMs: what judging them needs."""
    return [
        (*row[:3], bool(row[3]))
        for row in sql.execute("SELECT id, name, hypervisor, operation IS NOT NULL FROM vm")
    ]


def is_provisional(sql: sqlite3.Connection, vm: str) -> bool:
    """Whether a VM (by id) is there only as long as the operation that is making it."""
    found = sql.execute("SELECT operation FROM vm WHERE id = ?", (vm,)).fetchone()
    return found is not None and found[0] is not None


def has_vm(sql: sqlite3.Connection, vm: str) -> bool:
    """Whether a VM, by its id, is on record."""
    return sql.execute("SELECT 1 FROM vm WHERE id = ?", (vm,)).fetchone() is not None


def find_vm(sql: sqlite3.Connection, name: str) -> Vm | None:
    """The VM of this name."""
    row = sql.execute(
        "SELECT id, name, hypervisor, spec, autostart FROM vm WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        return None
    return _vm(row, _interfaces(sql, "i.vm = ?", (row[0],)).get(row[0], ()))


def get_vm(sql: sqlite3.Connection, name: str) -> Vm:
    """The VM of this name; raises NotFound."""
    vm = find_vm(sql, name)
    if vm is None:
        raise no_vm(name, vm_names(sql).values())
    return vm


def no_vm(name: str, known: Iterable[str]) -> NotFound:
    """The error of a VM that is not on record, with the one that was probably meant."""
    from hvtx.model.nearest import meant

    return NotFound(f"there is no VM {name!r}", hint=meant(name, known, "`hvtx vm ls` lists them"))


def no_network(name: str, known: Iterable[str]) -> NotFound:
    """The same of a network."""
    from hvtx.model.nearest import meant

    return NotFound(
        f"there is no network {name!r}", hint=meant(name, known, "`hvtx network ls` lists them")
    )


def vm_record(sql: sqlite3.Connection, vm: str) -> dict[str, Any]:
    """All that is on record of a VM by its id, as the history keeps it when it is forgotten."""
    row = sql.execute(
        "SELECT id, name, hypervisor, spec, autostart FROM vm WHERE id = ?", (vm,)
    ).fetchone()
    known = _vm(row, _interfaces(sql, "i.vm = ?", (vm,)).get(vm, ()))
    interfaces = [
        {
            "network": i.network_name,
            "mac": i.mac,
            "ipv4": i.ipv4,
            "ipv6": i.ipv6,
            "publish": [port._asdict() for port in i.publish],
        }
        for i in known.interfaces
    ]
    return {**known._asdict(), "interfaces": interfaces}


def _spec(vm: Vm) -> str:
    spec = {
        "memory": vm.memory,
        "cpus": vm.cpus,
        "kernel": vm.kernel,
        "initrd": vm.initrd,
        "append": vm.append,
        "disks": list(vm.disks),
        "command": list(vm.command),
        "directory": vm.directory,
    }
    if vm.number:
        spec["number"] = vm.number
    return json.dumps(spec)


def add_vm(sql: sqlite3.Connection, vm: Vm, operation: int) -> None:
    """Insert the VM without its interfaces."""
    sql.execute(
        "INSERT INTO vm (id, name, hypervisor, spec, autostart, operation) VALUES (?,?,?,?,?,?)",
        (vm.id, vm.name, vm.hypervisor, _spec(vm), int(vm.autostart), operation),
    )


def set_vm(sql: sqlite3.Connection, vm: Vm) -> None:
    """Put what a VM is in the place of what it was; its name and interfaces stay."""
    sql.execute(
        "UPDATE vm SET spec = ?, autostart = ? WHERE id = ?",
        (_spec(vm), int(vm.autostart), vm.id),
    )


def remove_vm(sql: sqlite3.Connection, vm: str) -> None:
    """Forget a VM: its interfaces, leases and ports go with it, its live rows must be gone."""
    left = sql.execute(
        "SELECT count(*) FROM resource WHERE vm = ? AND state <> 'released' AND kind <> 'lease'",
        (vm,),
    ).fetchone()[0]
    assert left == 0, "a VM is forgotten only after its resources"
    sql.execute("DELETE FROM resource WHERE vm = ? AND kind = 'lease'", (vm,))
    sql.execute("DELETE FROM vm WHERE id = ?", (vm,))


# -- networks ----------------------------------------------------------------------------------


def networks(
    sql: sqlite3.Connection, where: str = "1", values: tuple[Any, ...] = ()
) -> list[Network]:
    """Networks by name; ``where`` speaks of the table ``network``."""
    subnets: dict[str, list[tuple[str, str]]] = {}
    for network, cidr, gateway in sql.execute(
        "SELECT s.network, s.cidr, s.gateway FROM network JOIN subnet s ON s.network = network.id"
        f" WHERE {where} ORDER BY s.network, s.family",
        values,
    ):
        subnets.setdefault(network, []).append((cidr, gateway))
    found = []
    for row in sql.execute(
        "SELECT id, name, bridge, mac, mtu, nat, isolate, firewall, gateway6 FROM network"
        f" WHERE {where} ORDER BY name",
        values,
    ):
        pairs = subnets.get(row[0], [])
        found.append(
            Network(
                id=row[0],
                name=row[1],
                bridge=row[2],
                mac=row[3],
                mtu=row[4],
                nat=bool(row[5]),
                isolate=bool(row[6]),
                firewall=row[7],
                subnets=tuple(cidr for cidr, _ in pairs),
                gateways=tuple(gateway for _, gateway in pairs),
                gateway6=row[8],
            )
        )
    return found


def has_provisional(sql: sqlite3.Connection) -> bool:
    """Whether any VM or network is there only as long as the operation that is making it."""
    found = sql.execute(
        "SELECT EXISTS (SELECT 1 FROM vm WHERE operation IS NOT NULL)"
        " OR EXISTS (SELECT 1 FROM network WHERE operation IS NOT NULL)"
    )
    return bool(found.fetchone()[0])


def provisional_networks(sql: sqlite3.Connection) -> set[str]:
    """The ids of networks that a command is making or removing, or was when it was interrupted."""
    return {row[0] for row in sql.execute("SELECT id FROM network WHERE operation IS NOT NULL")}


def networks_by_id(sql: sqlite3.Connection, ids: Iterable[str]) -> dict[str, Network]:
    """The networks with these ids; few, as of one VM."""
    wanted = tuple(ids)
    found = networks(sql, f"network.id IN ({','.join('?' * len(wanted))})", wanted)
    return {network.id: network for network in found}


def find_network(sql: sqlite3.Connection, name: str) -> Network | None:
    """The network of this name."""
    found = networks(sql, "name = ?", (name,))
    return found[0] if found else None


def get_network(sql: sqlite3.Connection, name: str) -> Network:
    """The network of this name; raises NotFound."""
    network = find_network(sql, name)
    if network is None:
        raise no_network(name, (row[0] for row in sql.execute("SELECT name FROM network")))
    return network


def add_network(sql: sqlite3.Connection, network: Network, operation: int) -> None:
    """Insert a network with its subnets."""
    sql.execute(
        "INSERT INTO network"
        " (id, name, bridge, mac, mtu, nat, isolate, firewall, gateway6, operation)"
        " VALUES (?,?,?,?,?,?,?,?,?,?)",
        (
            network.id,
            network.name,
            network.bridge,
            network.mac,
            network.mtu,
            int(network.nat),
            int(network.isolate),
            network.firewall,
            network.gateway6,
            operation,
        ),
    )
    for cidr, gateway in zip(network.subnets, network.gateways, strict=True):
        sql.execute(
            "INSERT INTO subnet (network, family, cidr, gateway) VALUES (?,?,?,?)",
            (network.id, 6 if ":" in cidr else 4, cidr, gateway),
        )


def remove_network(sql: sqlite3.Connection, network: str) -> None:
    """Forget a network; its VMs must be gone (a foreign key sees to it)."""
    sql.execute("DELETE FROM network WHERE id = ?", (network,))


def users_of_network(sql: sqlite3.Connection, network: str) -> list[str]:
    """Names of the VMs with an interface in the network."""
    return [
        row[0]
        for row in sql.execute(
            "SELECT DISTINCT v.name FROM interface i JOIN vm v ON v.id = i.vm"
            " WHERE i.network = ? ORDER BY v.name",
            (network,),
        )
    ]


def seq(sql: sqlite3.Connection) -> int:
    """The number of the store's last change; 0 for a store that is not there."""
    found = sql.execute("SELECT seq FROM meta").fetchone()
    return int(found[0]) if found else 0


def tombstone_count(sql: sqlite3.Connection) -> int:
    """How many marks of released resources are kept."""
    return int(sql.execute("SELECT count(*) FROM resource WHERE state = 'released'").fetchone()[0])


# -- operations and lives ----------------------------------------------------------------------


_OPERATION = "id, verb, vm, network, began, writer_boot, writer_pid, writer_start"


def _operation(row: tuple[Any, ...]) -> Operation:
    return Operation(row[0], row[1], row[2], row[3], row[4], Identity(row[5], row[6], row[7]))


def operations(sql: sqlite3.Connection) -> list[Operation]:
    """Operations that have not ended, running or interrupted."""
    rows = sql.execute(f"SELECT {_OPERATION} FROM operation WHERE ended IS NULL ORDER BY id")
    return [_operation(row) for row in rows]


def operations_by_id(sql: sqlite3.Connection, ids: Iterable[int]) -> list[Operation]:
    """These operations, ended or not, by id; few."""
    wanted = sorted(ids)
    rows = sql.execute(
        f"SELECT {_OPERATION} FROM operation WHERE id IN ({','.join('?' * len(wanted))})"
        " ORDER BY id",
        wanted,
    )
    return [_operation(row) for row in rows]


def operation(sql: sqlite3.Connection, identity: int) -> dict[str, Any] | None:
    """``verb``, ``began``, ``ended`` and ``result`` of an operation, ended or not."""
    names = ("verb", "began", "ended", "result")
    row = sql.execute(
        f"SELECT {', '.join(names)} FROM operation WHERE id = ?", (identity,)
    ).fetchone()
    return dict(zip(names, row, strict=True)) if row else None


def newest_operation(sql: sqlite3.Connection) -> int:
    """The id of the operation that was begun last; 0 before the first."""
    return int(sql.execute("SELECT coalesce(max(id), 0) FROM operation").fetchone()[0])


def operations_since(sql: sqlite3.Connection, newest: int) -> list[tuple[int, str, str | None]]:
    """``(id, verb, VM)`` of the operations begun after ``newest``, ended by now or not."""
    return sql.execute(
        "SELECT id, verb, vm FROM operation WHERE id > ? ORDER BY id", (newest,)
    ).fetchall()


def still_open(sql: sqlite3.Connection, operations: Iterable[int]) -> set[int]:
    """Those of these operations that have not ended; few."""
    wanted = tuple(operations)
    return {
        row[0]
        for row in sql.execute(
            "SELECT id FROM operation WHERE ended IS NULL"
            f" AND id IN ({','.join('?' * len(wanted))})",
            wanted,
        )
    }


def writer_of(sql: sqlite3.Connection, operation: int) -> Identity | None:
    """The process that began an operation which has not ended."""
    row = sql.execute(
        "SELECT writer_boot, writer_pid, writer_start FROM operation"
        " WHERE id = ? AND ended IS NULL",
        (operation,),
    ).fetchone()
    return Identity(*row) if row else None


def current_life(sql: sqlite3.Connection) -> Life | None:
    """The life of the host that the store last worked in."""
    row = sql.execute(
        "SELECT l.id, l.boot_id, l.netns, l.recovered_at IS NOT NULL FROM meta m"
        " JOIN life l ON l.id = m.life"
    ).fetchone()
    return Life(row[0], row[1], row[2], bool(row[3])) if row else None


def lives(sql: sqlite3.Connection) -> dict[int, Life]:
    """Every life on record."""
    return {
        row[0]: Life(row[0], row[1], row[2], bool(row[3]))
        for row in sql.execute("SELECT id, boot_id, netns, recovered_at IS NOT NULL FROM life")
    }


def set_life(sql: sqlite3.Connection, boot_id: str, netns: int, now: str) -> Life:
    """Enter a life (a new row, or the known one); the first of a store counts as recovered."""
    first = sql.execute("SELECT count(*) FROM life").fetchone()[0] == 0
    sql.execute(
        "INSERT INTO life (boot_id, netns, began, recovered_at) VALUES (?,?,?,?)"
        " ON CONFLICT (boot_id, netns) DO NOTHING",
        (boot_id, netns, now, now if first else None),
    )
    row = sql.execute(
        "SELECT id, recovered_at IS NOT NULL FROM life WHERE boot_id = ? AND netns = ?",
        (boot_id, netns),
    ).fetchone()
    sql.execute("UPDATE meta SET life = ?", (row[0],))
    return Life(row[0], boot_id, netns, bool(row[1]))


def is_bare(sql: sqlite3.Connection) -> bool:
    """Whether nothing is on record but what is over: no VM, network, resource, open operation."""
    row = sql.execute(
        "SELECT EXISTS (SELECT 1 FROM vm) OR EXISTS (SELECT 1 FROM network)"
        " OR EXISTS (SELECT 1 FROM resource WHERE state != 'released')"
        " OR EXISTS (SELECT 1 FROM operation WHERE ended IS NULL)"
    ).fetchone()
    return not row[0]


def is_current(sql: sqlite3.Connection, life: int) -> bool:
    """Whether the store works in this life."""
    return bool(sql.execute("SELECT life IS ? FROM meta", (life,)).fetchone()[0])


def set_recovered(sql: sqlite3.Connection, life: int, now: str) -> None:
    """Remember that this life is recovered."""
    sql.execute("UPDATE life SET recovered_at = ? WHERE id = ?", (now, life))


def attempted(sql: sqlite3.Connection, life: int) -> set[str]:
    """VM ids whose autostart was tried in this life."""
    return {row[0] for row in sql.execute("SELECT vm FROM attempt WHERE life = ?", (life,))}


def set_attempted(sql: sqlite3.Connection, life: int, vm: str) -> None:
    """Remember that a VM's autostart was tried, whatever becomes of it."""
    sql.execute("INSERT OR IGNORE INTO attempt (life, vm) VALUES (?, ?)", (life, vm))
