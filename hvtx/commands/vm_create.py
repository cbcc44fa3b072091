"""`vm create`: the record of a VM, its leases and its host ports; no kernel object."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from hvtx.engine import guest_routes, notice, own_addresses
from hvtx.engine.guest_options import GuestOptions, check_user_data
from hvtx.engine.new_network import default_draft, take_network
from hvtx.engine.peer_ports import Peers, refuse_ports
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import bridges_now
from hvtx.engine.transaction import Operation, begin
from hvtx.engine.vm_options import VmRequest, check_fit, refuse_names, warn_of_useless
from hvtx.engine.vm_record import forget_vm
from hvtx.engine.vm_user import check_user
from hvtx.errors import Conflict, NotFound, UsageError, advised
from hvtx.host import named_files, paths
from hvtx.model.policy import EgressRule, Limits, Policy, names_in
from hvtx.model.resource import Kind, Resource
from hvtx.model.shell import word
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import DEFAULT, Interface, Network, Publish, Vm
from hvtx.planner import addressing, provision
from hvtx.planner.assigning import Asked, assigned, refuse_never_given
from hvtx.planner.provision import ResourceSpec
from hvtx.store import history, leases, records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.engine.off_record import OffRecord


def request_from_log(runtime: Runtime, name: str, operation: int | None = None) -> VmRequest:
    """A VM as it was when it was last forgotten (by ``operation``): with its addresses and ports.

    Raises NotFound where the history has none, or where one of its networks is gone; Conflict for
    an attachment, which its runtime alone makes.
    """
    kept = runtime.read(history.forgotten_vm, name, operation)
    if kept is None:
        known = [] if operation else runtime.read(history.forgotten_names)
        raise _never_removed(name, operation, known)
    record = _checked(kept, name)
    interfaces = record["interfaces"]
    return VmRequest(
        name=name,
        hypervisor=record["hypervisor"],
        networks=tuple(i["network"] for i in interfaces),
        ips=(),
        macs=tuple(i["mac"] for i in interfaces),
        publish=tuple(Publish(**port) for i in interfaces for port in i["publish"]),
        published=tuple(i["network"] for i in interfaces for _ in i["publish"]),
        memory=record["memory"],
        cpus=record["cpus"],
        kernel=record["kernel"],
        initrd=record["initrd"],
        append=record["append"],
        disks=tuple(record["disks"]),
        command=tuple(record["command"]),
        directory=record["directory"],
        autostart=record["autostart"],
        leases=tuple(Asked(i["ipv4"], i["ipv6"], tuple(i.get("more", ()))) for i in interfaces),
        guest=GuestOptions(
            record.get("queues", 1),
            record.get("user_data"),
            tuple(record.get("ssh_keys", ())),
            record.get("user"),
        ),
        policy=_policy_of(record.get("policy")),
        limits=Limits(*record.get("limits", ())),
    )


def _never_removed(name: str, operation: int | None, known: Sequence[str]) -> NotFound:
    """The error of a VM that was not removed (by ``operation``), with the ``known`` one meant."""
    return NotFound(
        f"the history has no VM {name!r} that was removed"
        + (f" by operation {operation}" if operation else ""),
        hint=records.likely(name, known, "hvtx log --event removed shows what was removed"),
    )


def _checked(record: dict[str, Any], name: str) -> dict[str, Any]:
    """A record that the history keeps, of a VM that `create` makes. Raises NotFound, Conflict."""
    if record.get("attachment"):
        raise Conflict(
            f"VM {name!r} stood for an interface of a container, which only its runtime makes",
            hint="let its runtime do it (CNI ADD)",
        )
    if not record["interfaces"]:
        raise NotFound(
            f"VM {name!r} had no network of hvtx's: it had been taken over from another tool",
            hint="`hvtx import --help` and `hvtx adopt --help` say how it is taken over",
        )
    return record


def _policy_of(kept: Any) -> Policy:
    """A policy as the history keeps it: the mode and the rules, each a list; older lines: none."""
    egress, rules = kept or (None, ())
    return Policy(egress, tuple(EgressRule(*rule) for rule in rules))


# -- creating --------------------------------------------------------------------------------------


def create_vm(runtime: Runtime, request: VmRequest) -> Vm:
    """Record a VM with its leases and ports.

    Raises Conflict (name, address, MAC or port taken), NotFound (network), UsageError (an address
    that its network cannot give).
    """
    runtime.enter()
    runtime.lock("vm", request.name)
    if runtime.read(records.is_half_made, request.name):  # what was interrupted is undone whole
        from hvtx.engine.resolve import resolve  # the planner is loaded only where something is

        resolve(runtime, request.name)
    check_request(runtime, request)
    warn_of_disks(request.kernel, request.disks)
    networks = take_networks(runtime, request)
    refuse_lost(bridges_now(runtime, networks), networks, request.ips)
    own = taken_addresses(networks, runtime.off_record)
    with (
        with_room(runtime, networks, own),
        begin(runtime, "create", vm=request.name) as (sql, operation),
    ):
        vm, rows = record_vm(operation, sql, request, networks, committed=True, taken=own)
    operation.end_if_interrupted(then=lambda sql: operation.history(sql, [forget_vm(sql, vm.id)]))
    operation.end(
        "done",
        events=[Event("made", f"VM {vm.name}")],
        then=lambda sql: records.set_vm_confirmed(sql, vm.id),
    )
    del rows
    return vm


def taken_addresses(networks: Sequence[Network], off_record: OffRecord | None) -> Collection[str]:
    """Addresses that no guest can be leased: the host's own, and those of guests off the record."""
    own = own_addresses.in_subnets(networks)
    return own if off_record is None else {*own, *off_record.guests(networks)}


def with_room(
    runtime: Runtime, networks: Sequence[Network], taken: Collection[str]
) -> AbstractContextManager[None]:
    """Inside, networks that lease from a cluster's blocks have a free address in one of this host.

    Raises NoRoom, Busy (the cluster is asked, and does not answer), Conflict, Refused.
    """
    if all(network.block_size is None for network in networks):
        return nullcontext()
    from hvtx.engine import blocks

    return blocks.room(runtime, networks, taken)


def refuse_lost(
    bridges: Mapping[str, Resource], networks: Sequence[Network], ips: Sequence[str]
) -> None:
    """Refuse here and now what the start would: packets for the guest go elsewhere.

    One without a request gets any address, so it is refused only where the whole subnet is lost.
    """
    for network in networks:
        row = bridges.get(network.id)
        if row is not None:
            guest_routes.refuse_lost_subnet(network, row, ips)


def check_request(runtime: Runtime, request: VmRequest, *, starts: bool = False) -> set[int]:
    """Refuse what can be refused before anything is written or made, the network `default` too.

    Returns the families in which its ports are published. Whether others translate them is not
    asked for a VM that ``starts`` at once: its start asks.
    """
    if runtime.read(records.find_vm, request.name) is not None:
        hint = f"choose another name, or take it as it is: hvtx vm show {request.name}"
        raise Conflict(f"VM {request.name!r} exists already", hint=hint)
    check_files(request.kernel, request.initrd, request.disks)
    check_formats(request.hypervisor, request.kernel, request.disks)
    check_user_data(request.guest.user_data)
    where = runtime.installation, runtime.settings.state_directory
    check_user(request.guest.user, request.hypervisor, *where)
    with runtime.reading() as sql:
        for port in request.publish:
            holder = leases.port_holder(sql, port)
            if holder:
                raise leases.port_conflict(sql, port, holder)
        for mac in request.macs:
            leases.refuse_taken_mac(sql, mac)
        known = {n: records.get_network(sql, n) for n in request.networks if n != DEFAULT}
    named = bool(names_in(request.policy.rules))
    networks = [
        default_draft(runtime, serves=named) if name == DEFAULT else known[name]
        for name in request.networks or (DEFAULT,)
    ]
    _check_addresses(runtime, request, networks)
    refuse_names(request.policy, networks)
    warn_of_useless(request.policy, networks)
    families = {f for n, own in enumerate(networks) if request.ports(n) for f in own.families}
    container = request.attachment.container if request.attachment else None
    refuse_ports(Peers(runtime), request.publish, () if starts else families, container)
    return families


def check_files(kernel: str | None, initrd: str | None, disks: Sequence[str]) -> None:
    """Raise NotFound for a file that is not there, UsageError for what is no file.

    A disk may be a block device. NotPermitted is for a link that somebody else made and that leads
    further than its maker may go.
    """
    for path, what in ((kernel, "kernel"), (initrd, "initrd"), *((d, "disk") for d in disks)):
        if path is None:
            continue
        if not os.path.exists(path):
            leads = f": it is a link to {os.readlink(path)}" if os.path.islink(path) else ""
            raise NotFound(
                f"the {what} {path} does not exist{leads}",
                hint="put it there, or give a path that exists (relative ones count from here)",
            )
        problem = _no_image(what, path)
        if problem is not None:
            hint = f"name an image: --{what} FILE"
            if os.path.isdir(path):
                hint = f"name a file in it: --{what} {word(os.path.join(path, 'FILE'))}"
            raise UsageError(f"the {what} {path} cannot be used: {problem}", hint=hint)


def _no_image(what: str, path: str) -> str | None:
    try:
        return paths.no_image(named_files.look(path, disk=what == "disk").seen, disk=what == "disk")
    except paths.UnsafeError as unsafe:
        raise named_files.refused(what, path, unsafe) from unsafe
    except OSError as problem:  # it is no regular file; or it is gone since, or replaced
        return problem.strerror


def check_formats(hypervisor: str, kernel: str | None, disks: Sequence[str]) -> None:
    """Raise UsageError for disks that a hypervisor can never read; they are there."""
    if hypervisor == "firecracker":
        from hvtx.drivers.vm_process.probe import looked_into  # which ADD has no use for

        check_fit(hypervisor, kernel, disks, looked_into(disks))


def warn_of_disks(kernel: str | None, disks: Sequence[str]) -> None:
    """Tell if a VM has nothing but disks to boot from, and cannot boot from any of them."""
    if kernel is None and disks and not any(map(_may_boot, disks)):
        has, it = ("has", "it") if len(disks) == 1 else ("have", "them")
        notice.warning(
            f"{', '.join(disks)} {has} no boot sector: without --kernel nothing boots from {it}"
        )


def _may_boot(path: str) -> bool:
    """Whether a disk image has a boot sector (MBR, or the one that GPT keeps), or may have one."""
    if path.endswith(".qcow2"):
        return True
    try:
        first = named_files.head(path, 512)
    except OSError:
        return True
    return first[510:] == b"\x55\xaa" or first.startswith(b"QFI\xfb")


def take_networks(runtime: Runtime, request: VmRequest) -> list[Network]:
    """The VM's networks, locked against removal; `default` is made if it is not there.

    They are read again, now that they are locked, and so are the addresses: before, a network could
    be removed and made anew with another subnet.
    """
    networks = [take_network(runtime, name) for name in request.networks or (DEFAULT,)]
    _check_addresses(runtime, request, networks)
    refuse_names(request.policy, networks)
    return networks


def _check_addresses(runtime: Runtime, request: VmRequest, networks: Sequence[Network]) -> None:
    asked = _asked(request, networks)
    with runtime.reading() as sql:
        for each, network in zip(asked, networks, strict=True):
            for address in each.addresses:
                with advised(
                    f"hvtx network show {network.name} tells its subnets; without an address asked"
                    " for, a free one is chosen"
                ):
                    addressing.check_guest_address(address, network)
                leases.refuse_taken_address(sql, address)
            if request.asks:  # who asks for it is to be given it
                refuse_never_given(each.ipv6, network)
    for position, network in enumerate(networks):
        for port in request.ports(position):
            addressing.check_published(port, network)
    refuse_elsewhere(runtime, [each.addresses for each in asked], networks)


def refuse_elsewhere(
    runtime: Runtime, asked: Sequence[Sequence[str]], networks: Sequence[Network]
) -> None:
    """Raise Conflict for addresses of each network that somebody has who is not on record here.

    This host itself, another one of the cluster, a guest that an older store knew.
    """
    for addresses, network in zip(asked, networks, strict=True):
        if network.block_size is not None and addresses:
            from hvtx.engine import other_hosts

            other_hosts.refuse(runtime, network, addresses)
    wanted = [address for addresses in asked for address in addresses]
    if wanted:
        own_addresses.refuse(wanted, own_addresses.in_subnets(networks))
    if wanted and runtime.off_record is not None:
        runtime.off_record.refuse(wanted, networks)


def _asked(request: VmRequest, networks: Sequence[Network]) -> list[Asked]:
    """The addresses of each interface, which leases say where they are known."""
    return list(request.leases) or assigned(request.ips, networks)


def record_vm(
    operation: Operation,
    sql: Any,
    request: VmRequest,
    networks: Sequence[Network],
    *,
    committed: bool,
    taken: Collection[str] = (),
) -> tuple[Vm, list[Any]]:
    """Insert the VM, its interfaces, leases and ports; returns it and the rows of its leases.

    No address is leased that is among those ``taken``, the host's own, unless it was asked for.
    """
    vm = _new_vm(request, operation.id)
    records.add_vm(sql, vm, operation.id)
    wanted = [
        leases.Claim(
            network,
            request.macs[n] if n < len(request.macs) else provision.guest_mac(os.urandom(5)),
            asked.ipv4,
            asked.ipv6,
            request.ports(n),
            asked.more,
        )
        for n, (network, asked) in enumerate(zip(networks, _asked(request, networks), strict=True))
    ]
    interfaces = leases.claim(sql, vm.id, wanted, taken)
    return vm._replace(interfaces=interfaces), operation.intend(
        sql,
        want_leases(interfaces),
        vm=vm.id,
        networks=lease_networks(interfaces),
        committed=committed,
    )


def _new_vm(request: VmRequest, number: int) -> Vm:
    """The VM without its interfaces; ``number`` is that of the operation, which makes no other."""
    return Vm(
        id=os.urandom(16).hex(),
        name=request.name,
        hypervisor=request.hypervisor,
        memory=request.memory,
        cpus=request.cpus,
        kernel=request.kernel,
        initrd=request.initrd,
        append=request.append,
        disks=request.disks,
        command=request.command,
        directory=request.directory,
        autostart=request.autostart,
        interfaces=(),
        number=number,
        policy=request.policy,
        limits=request.limits,
        attachment=request.attachment,
        **request.guest._asdict(),
    )


def want_leases(interfaces: Sequence[Interface]) -> list[ResourceSpec]:
    """One lease resource per address."""
    return [
        ResourceSpec(Kind.LEASE, address, {"address": address, "mac": interface.mac})
        for interface in interfaces
        for address in interface.addresses
    ]


def lease_networks(interfaces: Sequence[Interface]) -> list[str | None]:
    """The network of each lease, in the order of :func:`want_leases`."""
    return [interface.network for interface in interfaces for address in interface.addresses]
