"""What reading commands tell: the JSON objects of the interface, from record and liveness."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from hvtx.engine import guests
from hvtx.engine.runtime import Runtime
from hvtx.engine.vm_paths import log_path, log_paths, run_directory
from hvtx.engine.vm_state import Moment, read_moment, state_of
from hvtx.errors import Conflict, NotFound, UsageError
from hvtx.host import devices as host_devices
from hvtx.host import paths
from hvtx.hypervisors.base import TRAITS
from hvtx.model.address import family_of, is_ipv6
from hvtx.model.guest import NOTES, Guest
from hvtx.model.resource import Kind, Resource
from hvtx.model.vm import Interface, Liveness, Network, Publish, Vm
from hvtx.planner.states import VmState, identity_of
from hvtx.store import history, records

Document = dict[str, Any]
Subnets = Mapping[str, Sequence[tuple[str, str]]]  # network id -> (subnet, gateway), a family each


def vm_document(runtime: Runtime, vm: Vm, seen: tuple[Moment, Subnets] | None = None) -> Document:
    """`vm show --json`; ``seen``: what was read together with the VM."""
    if seen is None:
        with runtime.reading() as sql:
            seen = read_moment(sql, vm.id), read_subnets(sql, vm)
    return vm_documents(runtime, [vm], *seen)[0]


def vm_documents(
    runtime: Runtime, vms: Sequence[Vm], moment: Moment, subnets: Subnets
) -> list[Document]:
    """The same of several; their guests are asked at the same time."""
    seen = [(vm, *state_of(runtime, vm, moment)) for vm in vms]
    asked = guests.states(runtime, [guests.Judged(vm, state) for vm, state, _, _ in seen])
    return [
        describe_vm(vm, state, liveness, rows, asked[vm.id], subnets)
        for vm, state, liveness, rows in seen
    ]


def read_subnets(sql: Any, vm: Vm | None = None) -> dict[str, list[tuple[str, str]]]:
    """The subnets, with their gateways, of one VM's networks, or of all."""
    if vm is None:
        found: Iterable[Network] = records.networks(sql)
    else:
        found = records.networks_by_id(sql, {i.network for i in vm.interfaces}).values()
    return {n.id: list(n.ranges) for n in found}


def describe_vm(
    vm: Vm,
    state: VmState,
    liveness: Liveness,
    rows: Sequence[Resource],
    guest: Guest | None,
    subnets: Subnets,
) -> Document:
    """A VM's object from its record, state, live rows, guest's state and networks (pure)."""
    devices = [row.key for row in rows if row.kind == Kind.TAP]
    pid, started = None, dict[str, Any]()
    for row in rows:
        identity = identity_of(row) if row.kind == Kind.PROCESS else None
        if identity is not None and liveness is not Liveness.DEAD:
            pid, started = identity.pid, row.observed
    return {
        "schema": "hvtx/vm/1",
        "name": vm.name,
        "id": vm.id,
        "state": state.value,
        "guest": None if guest is None else guest.value,
        "accelerator": started.get("accelerator"),
        "accelerator_reason": started.get("accelerator_reason"),
        "hypervisor": vm.hypervisor,
        "pid": pid,
        "user": started.get("user"),
        "autostart": vm.autostart,
        "memory": vm.memory,
        "cpus": vm.cpus,
        "kernel": vm.kernel,
        "initrd": vm.initrd,
        "append": vm.append,
        "disks": list(vm.disks),
        "command": list(vm.command),
        "directory": vm.directory or None,
        "interfaces": [
            {
                "network": interface.network_name,
                "device": devices[n] if n < len(devices) else None,
                "mac": interface.mac,
                "ipv4": interface.ipv4,
                "ipv6": interface.ipv6,
                **_ways_out(interface, subnets.get(interface.network, ())),
                "publish": [port._asdict() for port in interface.publish],
            }
            for n, interface in enumerate(vm.interfaces)
        ],
        "resources": _resources(rows),
        "notes": [*_guest_notes(guest), *_notes(vm)],
    }


def _ways_out(interface: Interface, subnets: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The prefix length and the gateway of each family that the interface has an address of."""
    found: dict[str, Any] = dict.fromkeys(("prefix", "gateway", "prefix6", "gateway6"))
    for subnet, gateway in subnets:
        six = is_ipv6(subnet)
        if (interface.ipv6 if six else interface.ipv4) is not None:
            suffix = "6" if six else ""
            found[f"prefix{suffix}"] = int(subnet.partition("/")[2])
            found[f"gateway{suffix}"] = gateway
    return found


def _resources(rows: Sequence[Resource]) -> list[dict[str, Any]]:
    return [{"kind": r.kind, "key": r.key, "state": r.state, "mark": r.mark or None} for r in rows]


def _guest_notes(guest: Guest | None) -> list[str]:
    return [NOTES[guest]] if guest in NOTES else []


def _notes(vm: Vm) -> list[str]:
    ports = [(interface, port) for interface in vm.interfaces for port in interface.publish]
    notes = []
    if any(i.ipv6 if port.host_ip is None else port.host_ip == "::1" for i, port in ports):
        notes.append("published ports are not reachable through [::1]: NAT cannot serve it")
    notes += [
        f"port {port.host_port}/{port.protocol} is not answered by IPv{family}: what guests send"
        f" from port {port.guest_port}/udp is dropped, as it is that of a DHCP server"
        for interface, port in ports
        if (family := _guarded(interface, port)) is not None
    ]
    notes += [
        f"port {port.host_port}/{port.protocol} on {port.host_ip} leads nowhere: no IPv{family}"
        " address is leased to the VM's first interface"
        for interface, port in ports
        if port.host_ip is not None
        for family in (family_of(port.host_ip),)
        if not interface.address(family)
    ]
    return notes


def _guarded(interface: Interface, port: Publish) -> int | None:
    """The family in which a port cannot be answered; of a VM that an earlier hvtx made."""
    if port.protocol != "udp":
        return None
    from hvtx.planner.addressing import guarded

    has = {4: interface.ipv4, 6: interface.ipv6}
    return guarded(port, [family for family, address in has.items() if address])


def show_vm(runtime: Runtime, name: str) -> dict[str, Any]:
    """One VM; raises NotFound."""
    with runtime.reading() as sql:
        vm = records.get_vm(sql, name)
        seen = read_moment(sql, vm.id), read_subnets(sql, vm)
    return vm_document(runtime, vm, seen)


def list_vms(runtime: Runtime) -> dict[str, Any]:
    """`vm ls --json`."""
    with runtime.reading() as sql:
        vms, seen = records.vms(sql), (read_moment(sql), read_subnets(sql))
    return {"schema": "hvtx/vms/1", "vms": vm_documents(runtime, vms, *seen)}


def vm_log(runtime: Runtime, name: str) -> list[str]:
    """Where a VM's log is, the older part first; raises NotFound if there is none yet."""
    paths = log_paths(runtime, runtime.read(records.get_vm, name))
    if not paths:
        raise NotFound(f"VM {name!r} has no log yet", hint=f"hvtx vm start {name}")
    return paths


def console(runtime: Runtime, name: str) -> tuple[str, str | None, str]:
    """``(run-time directory, socket or None, log)`` of a running VM's console."""
    vm = runtime.read(records.get_vm, name)
    state, _, _ = state_of(runtime, vm)
    if state is not VmState.RUNNING:
        raise Conflict(
            f"VM {name!r} is {state.value}",
            hint=f"a console needs a running VM: hvtx vm start {name}",
        )
    return run_directory(runtime, vm), TRAITS[vm.hypervisor].console, log_path(runtime, vm)


def log_document(name: str, paths: Sequence[str]) -> dict[str, Any]:
    """`vm logs --json`: the lines as they were written, bytes that are no text as U+FFFD."""
    text = b"".join(map(_bytes_of, paths)).decode(errors="replace")
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    return {"schema": "hvtx/logs/1", "vm": name, "path": paths[-1], "lines": lines if text else []}


def open_log(path: str) -> BinaryIO | None:
    """A file of :func:`vm_log`, a regular one; None if its logger has renamed it just now."""
    try:
        return os.fdopen(paths.open_regular(path), "rb")
    except FileNotFoundError:
        return None


def _bytes_of(path: str) -> bytes:
    log = open_log(path)
    if log is None:
        return b""
    with log:
        return log.read()


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
    """`network show --json`; of the moment of ``network`` if called inside ``reading()``."""
    with runtime.reading() as sql:
        users = records.users_of_network(sql, network.id)
        rows = records.resources_of_network(sql, network.id)
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
        "vms": users,
        "resources": _resources(rows),
    }


def show_network(runtime: Runtime, name: str) -> dict[str, Any]:
    """One network; raises NotFound."""
    with runtime.reading() as sql:
        return network_document(runtime, records.get_network(sql, name))


def list_networks(runtime: Runtime) -> dict[str, Any]:
    """`network ls --json`."""
    with runtime.reading() as sql:
        found = [network_document(runtime, network) for network in records.networks(sql)]
    return {"schema": "hvtx/networks/1", "networks": found}


def names(runtime: Runtime, kind: str) -> list[str]:
    """The names of all VMs (``vm``) or networks (``network``)."""
    found = runtime.read(records.vms) if kind == "vm" else runtime.read(records.networks)
    return [thing.name for thing in found]


def objects(runtime: Runtime) -> list[str]:
    """What `explain` can be asked about, as far as it is on record: for a shell's completion."""
    found = {*names(runtime, "vm"), *names(runtime, "network")}
    kinds = (Kind.TAP, Kind.BRIDGE, Kind.LEASE, Kind.PUBLISH)
    for row in runtime.read(records.resources_of_kind, *kinds):
        found |= {row.key, row.mark} if row.mark else {row.key}
    return sorted(found)


def devices() -> list[str]:
    """The names of all devices of this host, for a shell's completion."""
    return host_devices.names()


def list_intents(runtime: Runtime) -> dict[str, Any]:
    """`intents --json`: operations that have not ended, and rows that one left half-done."""
    rows: dict[int, list[Resource]] = {}
    with runtime.reading() as sql:
        for row in records.unsettled_resources(sql):
            rows.setdefault(row.operation, []).append(row)
        operations = records.operations(sql)
        ended = records.operations_by_id(sql, rows.keys() - {known.id for known in operations})
    running = runtime.running(operations)
    found = [
        {
            "id": operation.id,
            "verb": operation.verb,
            "vm": operation.vm,
            "network": operation.network,
            "state": "running" if running[operation.id] else "interrupted",
            "since": operation.started,
            "resources": _resources(rows.pop(operation.id, [])),
        }
        for operation in operations
    ]
    found += [  # operations that ended with things that they could not remove
        {
            "id": operation.id,
            "verb": operation.verb,
            "vm": operation.vm,
            "network": operation.network,
            "state": "interrupted",
            "since": operation.started,
            "resources": _resources(rows[operation.id]),
        }
        for operation in ended
    ]
    return {"schema": "hvtx/intents/1", "operations": found}


def list_history(runtime: Runtime, *, limit: int, detail: bool, **wanted: Any) -> dict[str, Any]:
    """`log --json`; ``wanted`` are fields of :class:`hvtx.store.history.Wanted`.

    With ``detail`` each entry has what it speaks of: an object, or None.
    """
    since = wanted.pop("since", None)
    _check_words(runtime, wanted)
    filters = history.Wanted(**wanted, since=None if since is None else moment(since))
    entries = runtime.read(history.entries, filters, limit=limit)
    if not detail:
        for entry in entries:
            del entry["detail"]
    return {"schema": "hvtx/log/1", "entries": entries}


def _check_words(runtime: Runtime, wanted: Mapping[str, Any]) -> None:
    """Refuse what no line of the history can have; raises UsageError, NotFound.

    Words of older versions count where the history has them.
    """
    with runtime.reading() as sql:
        for name in ("verb", "kind", "event", "reason"):
            word = wanted.get(name)
            if word is not None and not history.has(sql, name, word):
                check_word(name, word)
        vm, known = wanted.get("vm"), records.vm_names(sql).values()
        if vm is not None and vm not in known and not history.has(sql, "vm", vm):
            raise unheard_of(vm, known)


def check_word(name: str, word: str) -> None:
    """Refuse what is no verb, kind, event or reason (``name``) at all; raises UsageError."""
    from hvtx.model.nearest import meant
    from hvtx.model.words import WORDS

    if word not in WORDS[name]:
        known = f"known are {', '.join(WORDS[name])}"
        raise UsageError(
            f"{word!r} is no {name} of the history", hint=meant(word, WORDS[name], known)
        )


def unheard_of(vm: str, known: Iterable[str]) -> NotFound:
    """The error of a VM that nothing is known of."""
    from hvtx.model.nearest import meant

    return NotFound(
        f"VM {vm!r} is neither on record nor in the history",
        hint=meant(vm, known, "`hvtx vm ls` lists those on record"),
    )


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
    return stamp.removesuffix("Z")  # which a fraction of the same second would stand before


def join_console(directory: str, socket: str | None, log: str) -> None:
    """Join the caller's terminal to a console that :func:`console` found."""
    from hvtx.drivers.vm_process import console

    console.console(directory, socket, log)
