"""`vm start`, `vm run`, `vm stop`, `vm rm`, `vm attach`: the operations of one VM."""

from __future__ import annotations

import contextlib
import os
import signal as signals
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from hvtx.drivers.vm_process import prepare, probe, scope, spawn, stop
from hvtx.drivers.vm_process.gate import TERM_SECONDS, Gate
from hvtx.engine import holding, own_addresses, privileges
from hvtx.engine.neighbours import holding_ports, refuse_others_ports
from hvtx.engine.networks import (
    bridge_row,
    ensure_networks,
)
from hvtx.engine.runtime import Runtime, process_facts, rows_by_vm
from hvtx.engine.survivors import end_survivors
from hvtx.engine.transaction import Operation, begin, forget_vm
from hvtx.engine.undo import taking_back, undo
from hvtx.engine.ways import refuse_diverted
from hvtx.errors import Conflict, HvtxError, NotFound, PartialFailure, StoreError, UsageError
from hvtx.host import failpoint, paths, procfs
from hvtx.host.flows import flow_limit
from hvtx.host.logger import older
from hvtx.hypervisors import base as hypervisors
from hvtx.model.plan import Reason
from hvtx.model.resource import Kind, Resource, State, only_flows_remain
from hvtx.model.user import ROOT, User
from hvtx.model.vm import Identity, Life, Liveness, Network, Publish, Vm
from hvtx.model.vm import Operation as OpenOperation
from hvtx.planner import provision
from hvtx.planner.states import VmState, identity_of, judge_vm, vm_state
from hvtx.store import intents, records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.engine.define import VmWish
    from hvtx.host.portholder import Held, Holder
    from hvtx.model.plan import Plan

READY_SECONDS = 10.0
_LOOKS = 5  # at the record of a VM whose process is dead, while it changes


def log_path(runtime: Runtime, vm: Vm) -> str:
    """Where a VM's output is kept."""
    return os.path.join(runtime.settings.state_directory, "logs", f"{vm.name}.log")


def log_paths(runtime: Runtime, vm: Vm) -> list[str]:
    """Both halves of a VM's log, as far as they are there, the older first."""
    path = log_path(runtime, vm)
    return [half for half in (older(path), path) if os.path.exists(half)]


def _remove_log(runtime: Runtime, vm: Vm) -> None:
    path = log_path(runtime, vm)
    for half in (older(path), path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(half)


def run_directory(runtime: Runtime, vm: Vm) -> str:
    """A VM's run-time directory: sockets and rendered configuration."""
    return os.path.join(runtime.store.run_directory, "vms", vm.id)


# -- state -----------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """What is on record of VMs at one moment, as their states are judged from it."""

    rows: Mapping[str, list[Resource]]  # live ones, by VM id
    operations: Mapping[str, list[OpenOperation]]  # that have not ended, by the VM's name
    lives: Mapping[int, Life]


def read_moment(sql: Any, vm: str | None = None) -> Moment:
    """The moment of one VM (by id), or of all; inside ``reading()``, with the VMs themselves."""
    rows = records.resources(sql) if vm is None else records.resources_of_vm(sql, vm)
    operations: dict[str, list[OpenOperation]] = {}
    for operation in records.operations(sql):
        if operation.vm:
            operations.setdefault(operation.vm, []).append(operation)
    return Moment(rows_by_vm(rows), operations, records.lives(sql))


def state_of(
    runtime: Runtime, vm: Vm, moment: Moment | None = None
) -> tuple[VmState, Liveness, list[Resource]]:
    """A VM's state now, with its live rows; ``moment``: what was read together with the VM.

    Its process is looked at after the record was read. One that is dead may be so because a stop
    began in between, so the record is read again, until it says the same as before.
    """
    seen = moment or runtime.read(read_moment, vm.id)
    for _ in range(_LOOKS):
        found = _judge(runtime, vm, seen)
        if found[0] is not VmState.CRASHED:
            break
        now = runtime.read(read_moment, vm.id)
        if _of(now, vm) == _of(seen, vm):
            break
        seen = now
    return found


def _of(moment: Moment, vm: Vm) -> tuple[list[Resource], list[OpenOperation]]:
    return moment.rows.get(vm.id, []), moment.operations.get(vm.name, [])


def _judge(runtime: Runtime, vm: Vm, moment: Moment) -> tuple[VmState, Liveness, list[Resource]]:
    rows, operations = _of(moment, vm)
    liveness, _ = judge_vm(
        vm.hypervisor,
        rows,
        life=runtime.life,
        lives=moment.lives,
        facts=process_facts(rows),
    )
    running = runtime.running(operations)
    verb = next((known.verb for known in operations if running[known.id]), None)
    return vm_state(rows, verb, liveness), liveness, rows


# -- starting --------------------------------------------------------------------------------------


def start_vm(runtime: Runtime, name: str, *, verb: str = "start") -> Vm:
    """Start a VM: its whole network and the hypervisor, or nothing.

    Raises NotFound, Conflict (state, a taken host port), HostRefused (undone), Busy.
    """
    runtime.enter()
    _lock_for_start(runtime, name)
    vm = runtime.read(records.get_vm, name)
    _free_for_start(runtime, vm)
    vm = runtime.read(records.get_vm, name)
    probes = _probe(runtime, vm)
    _let_go_of_ports(runtime, vm)
    with holding_ports(runtime, _ports_to_publish(vm), _families(vm)) as held:
        networks = _networks(runtime, vm)
        own_addresses.refuse_start(vm, networks.values())
        _refuse_diverted(runtime, vm, networks)
        with begin(runtime, verb, vm=name) as (sql, operation):
            vm, user = _with_user(operation, sql, vm, probes)
            rows = _intend(operation, sql, vm, networks, user)
            _take_over_flows(operation, sql, vm)
        _go(runtime, operation, vm, rows, Means(networks, probes, user, held))
    return vm


class Means(NamedTuple):
    """What a VM is started with, beside its rows."""

    networks: Mapping[str, Network]  # by id
    probes: hypervisors.Probes
    user: User | None  # whom its process runs as; None: hvtx's own
    held: Held | None  # its published ports; None if it has none


def _families(vm: Vm) -> set[int]:
    """The families in which a VM's ports are published: those of its first network."""
    first = vm.interfaces[:1]
    addresses = [address for i in first for address in (i.ipv4, i.ipv6) if address]
    return {6 if ":" in address else 4 for address in addresses}


def _let_go_of_ports(runtime: Runtime, vm: Vm) -> None:
    """End who still holds ports for rows that only wait for flows to end: it starts anew."""
    rows = runtime.read(records.resources_of_vm, vm.id)
    with contextlib.suppress(OSError):
        holding.end_all(row for row in rows if only_flows_remain(row))


def _take_over_flows(operation: Operation, sql: Any, vm: Vm) -> None:
    """Close the rows that only wait for flows to end: the new ones speak of the same addresses.

    They were the VM's own, and are again; whoever releases the new rows ends the flows.
    """
    rows = [row for row in records.resources_of_vm(sql, vm.id) if only_flows_remain(row)]
    if rows:
        intents.forget(sql, rows)
        words = "what flowed to it and could not be ended is its own again"
        operation.history(sql, [Event("forgotten", words, reason="flows-remain")])


def _lock_for_start(runtime: Runtime, name: str) -> None:
    """Hold the VM; one that another command is starting is refused at once: it will be up."""
    if runtime.try_lock("vm", name):
        return
    vm = runtime.read(records.find_vm, name)
    if vm is not None and state_of(runtime, vm)[0] is VmState.STARTING:
        raise Conflict(f"VM {name!r} is starting", hint=f"hvtx vm show {name} tells when it is up")
    runtime.lock("vm", name)


def run_vm(runtime: Runtime, wish: VmWish) -> Vm:
    """`create` and `start` as one operation: if it fails, nothing of the VM remains."""
    from hvtx.engine import define

    runtime.enter()
    runtime.lock("vm", wish.name)
    leftover = runtime.read(records.find_vm, wish.name)
    if leftover is not None:
        _resolve(runtime, wish.name)  # an interrupted `run` is undone whole
    families = define.check_wish(runtime, wish, starts=True)
    define.warn_of_disks(wish.kernel, wish.disks)
    probes = _probe(runtime, _draft(wish))
    with holding_ports(runtime, wish.publish, families) as held:
        networks = {network.id: network for network in define.take_networks(runtime, wish)}
        privileges.need_to_start(networks.values())
        ensure_networks(runtime, networks.values())
        own = own_addresses.in_subnets(networks.values())
        with begin(runtime, "run", vm=wish.name) as (sql, operation):
            vm, rows = define.record_vm(
                operation, sql, wish, list(networks.values()), committed=False, taken=own
            )
            vm, user = _with_user(operation, sql, vm, probes)
            rows += _intend(operation, sql, vm, networks, user)
        _go(runtime, operation, vm, rows, Means(networks, probes, user, held), new=True)
    return vm


def _probe(runtime: Runtime, vm: Vm) -> hypervisors.Probes:
    """What is there for a start, with a user that processes of this VM can become."""
    if vm.hypervisor == "external":
        return probe.probe(vm, runtime.store.run_directory)
    settings = runtime.settings
    user = privileges.need_user(settings.vm_user, runtime.installation, settings.state_directory)
    return probe.probe(vm, runtime.store.run_directory, user)


def _with_user(
    operation: Operation, sql: Any, vm: Vm, probes: hypervisors.Probes
) -> tuple[Vm, User | None]:
    """The VM with the number of its user id, and its user; None: hvtx's own.

    The number is that of the operation that made it, or first started it where it was imported or
    made by an earlier hvtx: no other VM's, now or later.
    """
    if vm.hypervisor == "external":
        return vm, None
    from hvtx.host import vmuser

    runtime = operation.runtime
    if not vm.number:
        vm = vm._replace(number=operation.id)
        records.set_vm(sql, vm)
    user = vmuser.choose(runtime.settings.vm_user, runtime.installation, vm.number)
    if user is not None and (probes.kvm or vm.hypervisor != "qemu"):
        user = vmuser.with_kvm(user)
    return vm, user


def _resolve(runtime: Runtime, name: str) -> Plan:
    """Release what is left of a VM; the planner is loaded only where something is."""
    from hvtx.engine.collect import resolve

    return resolve(runtime, vm=name)


def _draft(wish: VmWish) -> Vm:
    return Vm(
        "", wish.name, wish.hypervisor, wish.memory, wish.cpus, wish.kernel, wish.initrd,
        wish.append, wish.disks, wish.command, wish.directory, wish.autostart, (),
    )  # fmt: skip


def _free_for_start(runtime: Runtime, vm: Vm) -> None:
    """Refuse a VM that runs; release what a crash or an interruption left."""
    state, _, rows = state_of(runtime, vm)
    if state in (VmState.RUNNING, VmState.STARTING, VmState.STOPPING, VmState.UNKNOWN):
        if state is VmState.RUNNING and _interrupted(rows):
            _resolve(runtime, vm.name)  # the record of a start that was killed late
        raise Conflict(f"VM {vm.name!r} is {state.value}", hint=_first(vm.name, state))
    if state is VmState.DEFINED and not runtime.read(records.is_provisional, vm.id):
        return
    plan = _resolve(runtime, vm.name)
    rows = runtime.read(records.resources_of_vm, vm.id)
    left = [row for row in rows if row.kind != Kind.LEASE and not only_flows_remain(row)]
    if left:
        keys = {row.id for row in left}
        why = (
            "; ".join(item.message for item in plan.items if item.row in keys)
            or "see hvtx gc --plan"
        )
        from hvtx.engine import leftovers

        raise Conflict(
            f"VM {vm.name!r} crashed, and what it left cannot be released: {why}",
            hint=leftovers.hint(
                runtime, leftovers.kept_by(plan.items, left), again=f"hvtx vm start {vm.name}"
            ),
        )
    if runtime.read(records.find_vm, vm.name) is None:
        raise NotFound(
            f"VM {vm.name!r} was made by an interrupted `vm run`, which is undone now",
            hint=f"run it again: hvtx vm run {vm.name}, with all that it was given",
        )


def _first(name: str, state: VmState) -> str:
    """What comes before the start of a VM that is not down."""
    if state is VmState.RUNNING:
        return f"hvtx vm restart {name} stops it first"
    if state is VmState.UNKNOWN:
        return f"hvtx vm show {name} tells more; hvtx vm stop {name} releases what is there"
    return f"hvtx vm show {name} tells when that has ended"


def _interrupted(rows: Sequence[Resource]) -> bool:
    return any(row.state == State.INTENDED for row in rows)


def _ports_to_publish(vm: Vm) -> list[Publish]:
    return [port for interface in vm.interfaces for port in interface.publish]


def _networks(runtime: Runtime, vm: Vm) -> dict[str, Network]:
    """The VM's networks, rebuilt where this life of the host has not seen them.

    Raises NotPermitted, HostRefused before anything is made where the VM could not start.
    """
    known = runtime.read(records.networks_by_id, {i.network for i in vm.interfaces})
    own = {interface.network: known[interface.network] for interface in vm.interfaces}
    for network in own.values():
        runtime.lock("network", network.name, shared=True)
    privileges.need_to_start(own.values())
    ensure_networks(runtime, own.values())
    return own


def _refuse_diverted(runtime: Runtime, vm: Vm, networks: Mapping[str, Network]) -> None:
    """Refuse to start a VM that no packet of the host would reach."""
    for network in networks.values():
        row = bridge_row(runtime, network)
        own = [i for i in vm.interfaces if i.network == network.id]
        guests = [address for i in own for address in (i.ipv4, i.ipv6) if address]
        if row is not None and guests:
            refuse_diverted(network, row, guests)


def _intend(
    operation: Operation,
    sql: Any,
    vm: Vm,
    networks: Mapping[str, Network],
    user: User | None,
) -> list[Resource]:
    runtime = operation.runtime
    bridges = {}
    for network in networks.values():
        row = bridge_row(runtime, network)
        if row is None:
            raise Conflict(f"network {network.name!r} is being changed", hint="try again")
        bridges[network.id] = row.spec["ifindex"]
    runs = vm.hypervisor != "external"
    pairs = provision.want_vm(
        vm,
        networks,
        bridges=bridges,
        devices=[
            (
                provision.device_name(os.urandom(8)),
                provision.device_index(os.urandom(4)),
                provision.host_mac(os.urandom(5)),
            )
            for _ in vm.interfaces
        ],
        directory=run_directory(runtime, vm) if runs else None,
        process=runs,
        flows=flow_limit(),
        user=user,
    )
    return operation.intend(
        sql, [want for want, _ in pairs], vm=vm.id, networks=[network for _, network in pairs]
    )


def _go(
    runtime: Runtime,
    operation: Operation,
    vm: Vm,
    rows: list[Resource],
    means: Means,
    *,
    new: bool = False,
) -> None:
    """Act and commit; whatever fails is undone from the rows."""
    identity: Identity | None = None
    try:
        if new:  # its addresses were not known before
            _refuse_diverted(runtime, vm, means.networks)
        observed = operation.act(rows)
        refuse_others_ports(runtime, _ports_to_publish(vm))
        gate = holder = None
        try:
            if any(row.kind == Kind.PROCESS for row in rows):
                launch = _rendered(runtime, vm, rows, means)
                gate = _spawn(runtime, vm, launch, means.user)
                identity = gate.identity
            holder = holding.begin(means.held, identity, rows)
            if gate is not None or holder is not None:
                _enter_scope(vm, gate, holder)
                failpoint.reach("spawned")
                rows = operation.note(rows, _learnt(rows, observed, means, gate, holder))
                failpoint.reach("registered")
            if holder is not None:
                holder.open()
            if gate is not None:
                gate.open()
        except BaseException:
            for one in (gate, holder):
                if one is not None:
                    one.cancel()
            raise
        if gate is not None:
            failpoint.reach("opened")
            gate.wait_ready(launch, READY_SECONDS)
            failpoint.reach("up")
        if holder is not None:
            holder.confirm()
            observed |= {row.id: row.observed for row in rows if row.kind == Kind.PUBLISH}
        runtime.devices().keep_macs([row for row in rows if row.kind == Kind.TAP])
        operation.commit(
            rows,
            observed,
            then=lambda sql: records.set_vm_confirmed(sql, vm.id) if new else None,
        )
    except (Exception, KeyboardInterrupt) as problem:
        _take_back(runtime, operation, vm, rows, identity, problem, new=new)
        raise


def _rendered(
    runtime: Runtime, vm: Vm, rows: Sequence[Resource], means: Means
) -> hypervisors.Launch:
    return render(vm, rows, means.networks, means.probes, run_directory(runtime, vm))


def _learnt(
    rows: Sequence[Resource],
    observed: Mapping[int, Mapping[str, Any]],
    means: Means,
    gate: Gate | None,
    holder: Holder | None,
) -> dict[int, dict[str, Any]]:
    """What is kept of the processes that were spawned, by row, before they are let go on."""
    found: dict[int, dict[str, Any]] = {}
    if gate is not None:
        row = next(row for row in rows if row.kind == Kind.PROCESS)
        chosen = {**_accelerator(means.probes), "user": _shown(means.user)}
        found[row.id] = {**gate.identity._asdict(), **chosen}
    if holder is not None and means.held is not None:
        seen = [row._replace(observed=dict(observed.get(row.id, {}))) for row in rows]
        found |= holding.noted(seen, holder.identity, means.held.unheld)
    return found


def _shown(user: User | None) -> int | str:
    """Whom the process runs as, as it is kept beside it."""
    return ROOT if user is None else user.shown


def _accelerator(probes: hypervisors.Probes) -> dict[str, str]:
    """What is kept of the choice beside the process that it was made for."""
    if probes.why is None:
        return {}
    name = "kvm" if probes.kvm else "tcg"
    return {"accelerator": name, "accelerator_reason": probes.why}


def _spawn(runtime: Runtime, vm: Vm, launch: hypervisors.Launch, user: User | None) -> Gate:
    log = log_path(runtime, vm)
    directory = os.path.dirname(log)
    try:
        paths.make_directories(directory, 0o700)
    except OSError as problem:
        raise StoreError(
            f"the log directory {directory} cannot be made: {problem.strerror}",
            hint="free or remount the disk, or choose another place with --state-dir",
        ) from problem
    prepare.prepare(launch, run_directory(runtime, vm), log, user)
    return spawn.spawn(launch, log, vm.name, user)


def _enter_scope(vm: Vm, gate: Gate | None, holder: Holder | None) -> None:
    """Let what was spawned outlive the unit or the login that this command runs in."""
    pids = list(gate.pids) if gate is not None else []
    pids += [holder.identity.pid] if holder is not None else []
    warning = scope.enter_scope(vm.name, *pids)
    if warning:
        words = "".join(c if c.isprintable() else " " for c in warning)
        sys.stderr.write(f"warning: {words}\n")


def _take_back(
    runtime: Runtime,
    operation: Operation,
    vm: Vm,
    rows: Sequence[Resource],
    identity: Identity | None,
    problem: BaseException,
    *,
    new: bool,
) -> None:
    if operation.committed:
        return  # Ctrl-C came too late
    if isinstance(problem, HvtxError) and problem.code == "commit-unknown":
        return  # it may have been kept: only `recover` may decide, from the record
    with taking_back(problem):
        if identity is not None:
            directory = run_directory(runtime, vm)
            stop.stop(identity, directory=directory, power_down="none", force=True)
        released = [row for row in rows if row.kind != Kind.LEASE or new]
        undo(operation, released, problem)
        left = [r for r in runtime.read(records.resources_of_vm, vm.id) if r.kind != Kind.LEASE]
        if new and not left:
            with runtime.store.transaction() as sql:
                operation.history(sql, [forget_vm(sql, vm.id)])
            _remove_log(runtime, vm)


def render(
    vm: Vm,
    rows: Sequence[Resource],
    networks: Mapping[str, Network],
    probes: hypervisors.Probes,
    directory: str,
) -> hypervisors.Launch:
    """The hypervisor's command line and files for the devices that ``rows`` name."""
    devices = [row.key for row in rows if row.kind == Kind.TAP]
    ports = [
        _port(interface, networks[interface.network], device)
        for interface, device in zip(vm.interfaces, devices, strict=True)
    ]
    module = import_module(hypervisors.REGISTRY[vm.hypervisor])
    try:
        launch: hypervisors.Launch = module.render(vm, ports, probes, directory)
    except ValueError as problem:
        raise UsageError(
            str(problem),
            hint=f"make it again with what it lacks: hvtx vm rm {vm.name}; hvtx vm create …",
        ) from problem
    return launch


def _port(interface: Any, network: Network, device: str) -> hypervisors.Port:
    pairs = {
        ":" in subnet: (subnet, gateway)
        for subnet, gateway in zip(network.subnets, network.gateways, strict=True)
    }
    four, six = pairs.get(False), pairs.get(True)
    from hvtx.planner import addressing

    return hypervisors.Port(
        device=device,
        mac=interface.mac,
        ipv4=interface.ipv4,
        ipv6=interface.ipv6,
        prefix4=int(four[0].partition("/")[2]) if four else None,
        gateway4=four[1] if four else None,
        gateway6=six[1] if six else None,
        netmask=addressing.netmask_of(four[0]) if four else None,
    )


# -- stopping --------------------------------------------------------------------------------------


def stop_vm(
    runtime: Runtime,
    name: str,
    *,
    timeout: float = 30.0,
    force: bool = False,
    verb: str = "stop",
    tell: stop.Tell | None = None,
) -> Vm:
    """End the hypervisor, then release the VM's host resources; the leases stay.

    ``tell`` hears what is waited for, once that takes more than a moment.

    Raises NotFound, Conflict, PartialFailure (something is kept, and named), Busy.
    """
    runtime.enter()
    runtime.lock("vm", name)
    vm = runtime.read(records.get_vm, name)
    state, liveness, rows = state_of(runtime, vm)
    if state is VmState.DEFINED:
        return vm
    _refuse_external(vm, liveness, rows, force=force)
    privileges.need_for(rows)
    privileges.need_to_end(rows, runtime.boot_id)
    with begin(runtime, verb, vm=name) as (_, operation):
        pass
    try:
        operation.heed()
        for row in rows:
            identity = identity_of(row) if row.kind == Kind.PROCESS else None
            if identity is not None and _may_run(runtime, row, identity):
                _end_process(runtime, vm, identity, timeout=timeout, force=force, tell=tell)
                end_survivors(operation, row, identity, tell, force=force)
    except Exception:
        # It stays open, as after Ctrl-C: if the VM has ended all the same, `recover` carries the
        # stop through; if it has not, `recover` leaves it running.
        operation.unlock()
        raise
    failpoint.reach("ended:process")
    _release_all(runtime, operation, vm)
    return vm


def _refuse_external(vm: Vm, liveness: Liveness, rows: Sequence[Resource], *, force: bool) -> None:
    attached = any(row.kind == Kind.PROCESS for row in rows)
    if vm.hypervisor == "external" and attached and liveness is Liveness.ALIVE and not force:
        raise Conflict(
            f"the process of VM {vm.name!r} runs, and hvtx did not start it",
            hint="end it yourself first, or let it be ended (TERM, then KILL):"
            f" hvtx vm stop {vm.name} --force",
        )
    if liveness is Liveness.UNKNOWN and attached and not force:
        raise Conflict(
            f"it cannot be told whether the process of VM {vm.name!r} runs",
            hint=f"run hvtx as root; hvtx vm stop {vm.name} --force tries to end it",
        )


def _may_run(runtime: Runtime, row: Resource, identity: Identity) -> bool:
    """Whether there can be such a process: not of another boot, nor of a container that ended."""
    here = identity.pidns in (0, procfs.pid_namespace())
    return identity.boot_id == runtime.boot_id and (here or row.life == runtime.life.id)


def _end_process(
    runtime: Runtime,
    vm: Vm,
    identity: Identity,
    *,
    timeout: float,
    force: bool,
    tell: stop.Tell | None,
) -> None:
    if vm.hypervisor == "external":
        if procfs.signal(identity, signals.SIGTERM) and not procfs.wait_gone(
            identity, TERM_SECONDS
        ):
            stop.stop(identity, directory="", power_down="none", force=True)
        return
    stop.stop(
        identity,
        directory=run_directory(runtime, vm),
        power_down=hypervisors.TRAITS[vm.hypervisor].power_down,
        timeout=timeout,
        force=force,
        name=vm.name,
        tell=tell,
    )


def _release_all(runtime: Runtime, operation: Operation, vm: Vm) -> None:
    rows = [row for row in runtime.read(records.resources_of_vm, vm.id) if row.kind != Kind.LEASE]
    # a run directory on a disk outlives the boot: it is removed, not only forgotten
    here = [row for row in rows if row.life == runtime.life.id or row.kind == Kind.FILE]
    old = [row for row in rows if row not in here]
    if old:
        operation.forget(old, {row.id: "rebooted" for row in old})
    outcomes = operation.release(here, reasons={row.id: operation.verb for row in here})
    kept = [(row, outcomes[row.id]) for row in here if not outcomes[row.id].gone]
    operation.end("partial" if kept else "done")
    if kept:
        from hvtx.engine import leftovers

        left = "; ".join(dict.fromkeys(outcome.message for _, outcome in kept))
        flows = all(outcome.reason == Reason.FLOWS_REMAIN for _, outcome in kept)
        raise PartialFailure(
            f"VM {vm.name!r} is stopped, but not all of it could be released: {left}",
            hint="hvtx gc --apply tries again; until then nobody else gets its addresses and ports"
            if flows
            else leftovers.hint(runtime, kept),
        )


def restart_vm(
    runtime: Runtime,
    name: str,
    *,
    timeout: float = 30.0,
    force: bool = False,
    tell: stop.Tell | None = None,
) -> Vm:
    """Stop a VM, if it is not stopped, and start it: two operations under one lock.

    What would keep it from starting (a file or a program that is gone) is found before it is
    stopped. Raises what stopping and starting raise; a start that fails leaves it stopped.
    """
    runtime.enter()
    runtime.lock("vm", name)
    vm = runtime.read(records.get_vm, name)
    _probe(runtime, vm)
    own = {interface.network for interface in vm.interfaces}
    privileges.need_to_start(runtime.read(records.networks_by_id, own).values())
    try:
        stop_vm(runtime, name, timeout=timeout, force=force, tell=tell)
    except PartialFailure:
        rows = runtime.read(records.resources_of_vm, vm.id)
        if not all(row.kind == Kind.LEASE or only_flows_remain(row) for row in rows):
            raise
    return start_vm(runtime, name)


def remove_vm(runtime: Runtime, name: str, *, force: bool = False) -> None:
    """Forget a VM and free its leases and ports; ``force`` stops it first."""
    runtime.enter()
    runtime.lock("vm", name)
    vm = runtime.read(records.get_vm, name)
    state, _, _ = state_of(runtime, vm)
    if state is not VmState.DEFINED:
        if not force:
            raise Conflict(f"VM {name!r} is {state.value}", hint=f"hvtx vm rm {name} --force")
        stop_vm(runtime, name, timeout=5.0, force=True)
    with begin(runtime, "rm", vm=name) as (sql, operation):
        if records.has_vm(sql, vm.id):  # gc forgets what an interrupted run left, once it is bare
            operation.history(sql, [forget_vm(sql, vm.id)])
    _remove_log(runtime, vm)
    operation.end("done")


def attach(runtime: Runtime, name: str, pid: int) -> Vm:
    """Record a process that hvtx did not start as the process of an `external` VM."""
    runtime.enter()
    runtime.lock("vm", name)
    vm = runtime.read(records.get_vm, name)
    _, liveness, rows = state_of(runtime, vm)
    if vm.hypervisor != "external":
        raise Conflict(
            f"hvtx starts the process of VM {name!r} itself",
            hint=f"hvtx vm start {name}; only VMs made with --hypervisor external are told theirs",
        )
    own = [row for row in rows if row.kind not in (Kind.LEASE, Kind.PROCESS)]
    own = [row for row in own if not only_flows_remain(row)]
    if not any(row.life == runtime.life.id for row in own):  # what a reboot left is only on record
        raise Conflict(f"VM {name!r} is not started", hint=f"hvtx vm start {name}")
    if liveness is Liveness.ALIVE:
        raise Conflict(
            f"VM {name!r} has a process already", hint=f"hvtx vm show {name} tells its pid"
        )
    try:
        identity = procfs.identify(pid)
    except ProcessLookupError as problem:
        raise NotFound(
            f"there is no process {pid}",
            hint="give the pid of the running hypervisor: pgrep or ps shows it, as seen from here",
        ) from problem
    except OSError as problem:
        raise Conflict(
            f"process {pid} cannot be told from others: {problem}",
            hint="mount /proc of this pid namespace without hidepid, and run hvtx as root",
        ) from problem
    if pid in (1, os.getpid()):
        raise Conflict(f"process {pid} is no VM", hint="give the pid of the hypervisor")
    for row in runtime.read(records.resources_of_kind, Kind.PROCESS):
        if row.vm != vm.id and identity_of(row) == identity:
            raise Conflict(
                f"process {pid} is that of VM {row.key!r}",
                hint="a process runs one VM: give its pid",
            )
    old = [row for row in rows if row.kind == Kind.PROCESS]
    with begin(runtime, "attach", vm=name) as (sql, operation):
        intents.forget(sql, old)
        row = operation.intend(
            sql,
            [provision.Want(Kind.PROCESS, name, {"hypervisor": "external", "directory": None})],
            vm=vm.id,
            committed=True,
        )[0]
        intents.note(sql, row.id, identity._asdict())
    operation.end("done", events=[Event("attached", f"process {pid}", Kind.PROCESS, name)])
    return vm
