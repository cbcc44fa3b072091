"""The table ``vm``, with the interfaces, leases and ports of a VM."""

from __future__ import annotations

import _sqlite3 as sqlite3
from collections.abc import Iterable

from hvtx.errors import NotFound
from hvtx.model import json_text
from hvtx.model.typed import Any
from hvtx.model.vm import Attachment, Interface, Publish, Vm
from hvtx.store import settings
from hvtx.store.codec import decode, decode_all

_ATTACHMENT = "network, container, ifname, netns, pod, pod_namespace, pod_uid"
_CNI = "cni"  # the hypervisor of VMs that stand for attachments


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
    for vm, identity, position, network, name, mac, four, six, more in sql.execute(
        "SELECT i.vm, i.id, i.position, i.network, n.name, i.mac, a.address, b.address,"
        " (SELECT group_concat(m.address, ' ') FROM (SELECT address FROM lease"
        "  WHERE interface = i.id AND position > 0 ORDER BY family, position) m)"
        " FROM interface i JOIN network n ON n.id = i.network"
        " LEFT JOIN lease a ON a.interface = i.id AND a.family = 4 AND a.position = 0"
        " LEFT JOIN lease b ON b.interface = i.id AND b.family = 6 AND b.position = 0"
        f" WHERE {where} ORDER BY i.vm, i.position",
        values,
    ):
        found.setdefault(vm, []).append(
            Interface(
                position,
                network,
                name,
                mac,
                four,
                six,
                tuple(ports.get(identity, ())),
                tuple((more or "").split()),
            )
        )
    return found


def _vm(
    row: tuple[Any, ...],
    interfaces: Iterable[Interface],
    spec: dict[str, Any] | None = None,
    attachment: Attachment | None = None,
) -> Vm:
    spec = decode(row[3]) if spec is None else spec
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
        attachment=attachment,
        **settings.vm_fields(spec),
    )


def vms(sql: sqlite3.Connection) -> list[Vm]:
    """All VMs by name."""
    interfaces = _interfaces(sql, "1", ())
    rows = sql.execute(
        "SELECT id, name, hypervisor, spec, autostart FROM vm ORDER BY name"
    ).fetchall()
    specs = decode_all([row[3] for row in rows])
    attached = attachments(sql)
    return [
        _vm(row, interfaces.get(row[0], ()), spec, attached.get(row[0]))
        for row, spec in zip(rows, specs, strict=True)
    ]


def attachments(sql: sqlite3.Connection) -> dict[str, Attachment]:
    """Which interfaces of containers VMs (by id) stand for."""
    rows = sql.execute(f"SELECT vm, {_ATTACHMENT} FROM attachment")
    return {vm: Attachment(*rest) for vm, *rest in rows}


def attachment_of(sql: sqlite3.Connection, vm: str) -> Attachment | None:
    """Which interface of a container a VM (by id) stands for; None of others."""
    row = sql.execute(f"SELECT {_ATTACHMENT} FROM attachment WHERE vm = ?", (vm,)).fetchone()
    return Attachment(*row) if row else None


def bare_attachments(sql: sqlite3.Connection) -> dict[str, str]:
    """The VMs (names by id) of attachments that are on record for good and have only leases."""
    found = sql.execute(
        "SELECT v.id, v.name FROM attachment a JOIN vm v ON v.id = a.vm WHERE v.operation IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM resource r WHERE r.state <> 'released' AND r.vm = v.id"
        " AND r.kind <> 'lease')"
    )
    return dict(found)


def vm_names(sql: sqlite3.Connection) -> dict[str, str]:
    """The names of all VMs by id."""
    return dict(sql.execute("SELECT id, name FROM vm"))


def vm_name(sql: sqlite3.Connection, vm: str) -> str | None:
    """The name of a VM (by id), if it is on record."""
    found = sql.execute("SELECT name FROM vm WHERE id = ?", (vm,)).fetchone()
    return found[0] if found else None


def vm_heads(sql: sqlite3.Connection) -> list[tuple[str, str, str, bool]]:
    """``(id, name, hypervisor, provisional)`` of all VMs: what judging them needs."""
    return [
        (*row[:3], bool(row[3]))
        for row in sql.execute("SELECT id, name, hypervisor, operation IS NOT NULL FROM vm")
    ]


def hypervisors(sql: sqlite3.Connection, names: Iterable[str]) -> dict[str, str]:
    """The hypervisors of VMs by name, of those that are on record."""
    found = sql.execute(
        "SELECT name, hypervisor FROM vm WHERE name IN (SELECT value FROM json_each(?))",
        (json_text.dumps([*names]),),
    )
    return dict(found)


def is_provisional(sql: sqlite3.Connection, vm: str) -> bool:
    """Whether a VM (by id) is there only as long as the operation that is making it."""
    found = sql.execute("SELECT operation FROM vm WHERE id = ?", (vm,)).fetchone()
    return found is not None and found[0] is not None


def is_half_made(sql: sqlite3.Connection, name: str) -> bool:
    """The same of a VM by its name; whether there is one."""
    asked = "SELECT 1 FROM vm WHERE name = ? AND operation IS NOT NULL"
    return sql.execute(asked, (name,)).fetchone() is not None


def provisional_vms(sql: sqlite3.Connection) -> dict[str, int]:
    """The VMs (by id) that are there only as long as the operation that is making them; which."""
    return dict(sql.execute("SELECT id, operation FROM vm WHERE operation IS NOT NULL"))


def find_vm(sql: sqlite3.Connection, name: str) -> Vm | None:
    """The VM of this name."""
    row = sql.execute(
        "SELECT id, name, hypervisor, spec, autostart FROM vm WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        return None
    attachment = attachment_of(sql, row[0]) if row[2] == _CNI else None
    interfaces = _interfaces(sql, "i.vm = ?", (row[0],)).get(row[0], ())
    return _vm(row, interfaces, attachment=attachment)


def get_vm(sql: sqlite3.Connection, name: str) -> Vm:
    """The VM of this name; raises NotFound."""
    vm = find_vm(sql, name)
    if vm is None:
        raise no_vm(name, vm_names(sql).values())
    return vm


def no_vm(name: str, known: Iterable[str]) -> NotFound:
    """The error of a VM that is not on record, with the one that was probably meant."""
    return NotFound(f"there is no VM {name!r}", hint=likely(name, known, "`hvtx vm ls` lists them"))


def likely(name: str, known: Iterable[str], otherwise: str) -> str:
    """A hint: the known name that was probably meant, if there is one, then ``otherwise``."""
    from hvtx.model.nearest import meant  # for a refusal only

    return meant(name, known, otherwise)


def vm_record(sql: sqlite3.Connection, vm: str) -> dict[str, Any]:
    """All that is on record of a VM by its id, as the history keeps it when it is forgotten."""
    row = sql.execute(
        "SELECT id, name, hypervisor, spec, autostart FROM vm WHERE id = ?", (vm,)
    ).fetchone()
    attachment = attachment_of(sql, vm) if row[2] == _CNI else None
    known = _vm(row, _interfaces(sql, "i.vm = ?", (vm,)).get(vm, ()), attachment=attachment)
    interfaces = [
        {
            "network": i.network_name,
            "mac": i.mac,
            "ipv4": i.ipv4,
            "ipv6": i.ipv6,
            "publish": [port._asdict() for port in i.publish],
            "more": list(i.more),
        }
        for i in known.interfaces
    ]
    own = {"attachment": attachment._asdict() if attachment else None}
    return {**known._asdict(), "interfaces": interfaces, **own}


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
    return json_text.dumps(spec | settings.of_vm(vm))


def add_vm(sql: sqlite3.Connection, vm: Vm, operation: int) -> None:
    """Insert the VM without its interfaces."""
    sql.execute(
        "INSERT INTO vm (id, name, hypervisor, spec, autostart, operation) VALUES (?,?,?,?,?,?)",
        (vm.id, vm.name, vm.hypervisor, _spec(vm), int(vm.autostart), operation),
    )
    if vm.attachment is not None:
        sql.execute(
            f"INSERT INTO attachment (vm, {_ATTACHMENT}) VALUES (?,?,?,?,?,?,?,?)",
            (vm.id, *vm.attachment),
        )


def set_vm(sql: sqlite3.Connection, vm: Vm) -> None:
    """Put what a VM is in the place of what it was; its name and interfaces stay."""
    sql.execute(
        "UPDATE vm SET spec = ?, autostart = ? WHERE id = ?",
        (_spec(vm), int(vm.autostart), vm.id),
    )


def set_vm_confirmed(sql: sqlite3.Connection, vm: str, operation: int | None = None) -> None:
    """A VM (by id) that was provisional is on record for good; only if ``operation`` is making it.

    None: whatever makes it.
    """
    sql.execute(
        "UPDATE vm SET operation = NULL WHERE id = ? AND (? IS NULL OR operation = ?)",
        (vm, operation, operation),
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
