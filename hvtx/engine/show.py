"""What reading commands tell: the JSON objects of the interface, from record and liveness."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hvtx.engine.launch import log_path, log_paths, run_directory, state_of
from hvtx.engine.runtime import Runtime
from hvtx.errors import Conflict, NotFound, UsageError
from hvtx.hypervisors.base import TRAITS
from hvtx.model.resource import Kind, Resource
from hvtx.model.vm import Liveness, Network, Vm
from hvtx.planner.states import VmState, identity_of
from hvtx.store import history, records


def vm_document(runtime: Runtime, vm: Vm) -> dict[str, Any]:
    """`vm show --json`."""
    return describe_vm(vm, *state_of(runtime, vm))


def describe_vm(
    vm: Vm, state: VmState, liveness: Liveness, rows: Sequence[Resource]
) -> dict[str, Any]:
    """A VM's object from its record, its state and its live rows (pure)."""
    devices = [row.key for row in rows if row.kind == Kind.TAP]
    pid = None
    for row in rows:
        identity = identity_of(row) if row.kind == Kind.PROCESS else None
        if identity is not None and liveness is not Liveness.DEAD:
            pid = identity.pid
    return {
        "schema": "hvtx/vm/1",
        "name": vm.name,
        "id": vm.id,
        "state": state.value,
        "hypervisor": vm.hypervisor,
        "pid": pid,
        "autostart": vm.autostart,
        "memory": vm.memory,
        "cpus": vm.cpus,
        "interfaces": [
            {
                "network": interface.network_name,
                "device": devices[n] if n < len(devices) else None,
                "mac": interface.mac,
                "ipv4": interface.ipv4,
                "ipv6": interface.ipv6,
                "publish": [port._asdict() for port in interface.publish],
            }
            for n, interface in enumerate(vm.interfaces)
        ],
        "resources": _resources(rows),
        "notes": _notes(vm),
    }


def _resources(rows: Sequence[Resource]) -> list[dict[str, Any]]:
    return [{"kind": r.kind, "key": r.key, "state": r.state, "mark": r.mark or None} for r in rows]


def _notes(vm: Vm) -> list[str]:
    ports = [(interface, port) for interface in vm.interfaces for port in interface.publish]
    notes = []
    if any(i.ipv6 if port.host_ip is None else port.host_ip == "::1" for i, port in ports):
        notes.append("published ports are not reachable through [::1]: NAT cannot serve it")
    notes += [
        f"port {port.host_port}/{port.protocol} on {port.host_ip} leads nowhere: no IPv{family}"
        " address is leased to the VM's first interface"
        for interface, port in ports
        if port.host_ip is not None
        for family in (6 if ":" in port.host_ip else 4,)
        if not (interface.ipv6 if family == 6 else interface.ipv4)
    ]
    return notes


def show_vm(runtime: Runtime, name: str) -> dict[str, Any]:
    """One VM; raises NotFound."""
    return vm_document(runtime, records.get_vm(runtime.sql, name))


def list_vms(runtime: Runtime) -> dict[str, Any]:
    """`vm ls --json`."""
    return {
        "schema": "hvtx/vms/1",
        "vms": [vm_document(runtime, vm) for vm in records.vms(runtime.sql)],
    }


def vm_log(runtime: Runtime, name: str) -> list[str]:
    """Where a VM's log is, the older part first; raises NotFound if there is none yet."""
    paths = log_paths(runtime, records.get_vm(runtime.sql, name))
    if not paths:
        raise NotFound(f"VM {name!r} has no log yet", hint=f"hvtx vm start {name}")
    return paths


def console(runtime: Runtime, name: str) -> tuple[str, str | None, str]:
    """``(run-time directory, socket or None, log)`` of a running VM's console."""
    vm = records.get_vm(runtime.sql, name)
    state, _, _ = state_of(runtime, vm)
    if state is not VmState.RUNNING:
        raise Conflict(f"VM {name!r} is {state.value}", hint="a console needs a running VM")
    return run_directory(runtime, vm), TRAITS[vm.hypervisor].console, log_path(runtime, vm)


def log_document(name: str, paths: Sequence[str]) -> dict[str, Any]:
    """`vm logs --json`: the lines as they were written, bytes that are no text as U+FFFD."""
    text = b"".join(map(_bytes_of, paths)).decode(errors="replace")
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    return {"schema": "hvtx/logs/1", "vm": name, "path": paths[-1], "lines": lines if text else []}


def _bytes_of(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:  # its logger has renamed it just now
        return b""


def console_document(name: str, directory: str, socket: str | None, log: str) -> dict[str, Any]:
    """`vm console --json`: the socket to connect to. Raises Conflict as joining it would."""
    hint = f"what the VM printed is in {log}: hvtx vm logs"
    if socket is None:
        raise Conflict("this VM's hypervisor has no console to type at", hint=hint)
    path = os.path.join(directory, socket)
    if not os.path.exists(path):
        raise Conflict(f"the console {path} cannot be reached: it is gone", hint=hint)
    return {"schema": "hvtx/console/1", "vm": name, "socket": path}


def network_document(runtime: Runtime, network: Network) -> dict[str, Any]:
    """`network show --json`."""
    return {
        "schema": "hvtx/network/1",
        "name": network.name,
        "id": network.id,
        "bridge": network.bridge,
        "subnets": list(network.subnets),
        "gateway": list(network.gateways),
        "nat": network.nat,
        "isolate": network.isolate,
        "mtu": network.mtu,
        "firewall": network.firewall,
        "vms": records.users_of_network(runtime.sql, network.id),
        "resources": _resources(records.resources_of_network(runtime.sql, network.id)),
    }


def show_network(runtime: Runtime, name: str) -> dict[str, Any]:
    """One network; raises NotFound."""
    return network_document(runtime, records.get_network(runtime.sql, name))


def list_networks(runtime: Runtime) -> dict[str, Any]:
    """`network ls --json`."""
    return {
        "schema": "hvtx/networks/1",
        "networks": [network_document(runtime, n) for n in records.networks(runtime.sql)],
    }


def names(runtime: Runtime, kind: str) -> list[str]:
    """The names of all VMs (``vm``) or networks (``network``)."""
    found = records.vms(runtime.sql) if kind == "vm" else records.networks(runtime.sql)
    return [thing.name for thing in found]


def list_intents(runtime: Runtime) -> dict[str, Any]:
    """`intents --json`: operations that have not ended, and rows that one left half-done."""
    rows: dict[int, list[Resource]] = {}
    for row in records.resources(runtime.sql, "state IN ('intended', 'releasing')"):
        rows.setdefault(row.operation, []).append(row)
    found = [
        {
            "id": operation.id,
            "verb": operation.verb,
            "vm": operation.vm,
            "network": operation.network,
            "state": "running" if runtime.is_running(operation.id) else "interrupted",
            "since": operation.started,
            "resources": _resources(rows.pop(operation.id, [])),
        }
        for operation in records.operations(runtime.sql)
    ]
    for identity, left in rows.items():  # an operation that ended with things it could not remove
        ended = runtime.sql.execute(
            "SELECT verb, vm, network, began FROM operation WHERE id = ?", (identity,)
        ).fetchone()
        found.append(
            {
                "id": identity,
                "verb": ended[0],
                "vm": ended[1],
                "network": ended[2],
                "state": "interrupted",
                "since": ended[3],
                "resources": _resources(left),
            }
        )
    return {"schema": "hvtx/intents/1", "operations": found}


def list_history(runtime: Runtime, *, limit: int, detail: bool, **wanted: Any) -> dict[str, Any]:
    """`log --json`; ``wanted`` are fields of :class:`hvtx.store.history.Wanted`.

    With ``detail`` each entry has what it speaks of: an object, or None.
    """
    since = wanted.pop("since", None)
    filters = history.Wanted(**wanted, since=None if since is None else moment(since))
    entries = history.entries(runtime.sql, filters, limit=limit)
    if not detail:
        for entry in entries:
            del entry["detail"]
    return {"schema": "hvtx/log/1", "entries": entries}


_AGO = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def moment(text: str) -> str:
    """``2h`` (ago), or the beginning of an RFC 3339 time in UTC, as one; raises UsageError."""
    if text[:-1].isascii() and text[:-1].isdigit() and text[-1] in _AGO and len(text) < 10:
        return history.at(max(0, time.time_ns() - int(text[:-1]) * _AGO[text[-1]] * 10**9))
    from datetime import datetime

    whole = "2000-01-01T00:00:00Z"
    stamp = text.replace(" ", "T", 1)
    try:
        if not text:
            raise ValueError("empty")  # noqa: TRY301
        datetime.fromisoformat(stamp.removesuffix("Z") + whole[len(stamp.removesuffix("Z")) : -1])
    except ValueError as problem:
        raise UsageError(
            f"{text!r} is no time",
            hint="2h, 3d, 2026-05-01 or 2026-05-01T12:30 (in UTC)",
        ) from problem
    return stamp


def join_console(directory: str, socket: str | None, log: str) -> None:
    """Join the caller's terminal to a console that :func:`console` found."""
    from hvtx.drivers import process

    process.console(directory, socket, log)
