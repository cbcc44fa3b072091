"""ADD of the container network interface: an attachment, whole or not at all.

The leases, the evidence of the namespace, the veth pair, the elements of the firewall and the host
ports are one operation, as `vm run` is for a VM.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from hvtx.commands.cni_del import remove
from hvtx.commands.vm_create import check_request, record_vm, taken_addresses, with_room
from hvtx.commands.vm_start import intend, means_of
from hvtx.drivers import netns
from hvtx.engine import attachments, network_needs, privileges
from hvtx.engine.attachment_network import refuse_first as refuse_first_network
from hvtx.engine.attachment_network import take
from hvtx.engine.launching import bring_up
from hvtx.engine.peer_ports import Peers, refuse_ports
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now, vm_scope
from hvtx.engine.transaction import begin
from hvtx.engine.vm_launch import Launch
from hvtx.engine.vm_options import VmRequest
from hvtx.errors import Conflict, NotFound
from hvtx.model.attachment import Attached, AttachmentRequest
from hvtx.model.vm import Publish
from hvtx.planner.addressing import parse_address, parse_mac
from hvtx.planner.attaching import Container, name_of, namespace_id, recorded
from hvtx.planner.service import asks
from hvtx.planner.states import VmState
from hvtx.store import leases
from hvtx.store.history import Event

_MAY_LIVE = (VmState.RUNNING, VmState.UNKNOWN)


def add(runtime: Runtime, request: AttachmentRequest) -> Attached:
    """Attach a container's namespace to a network. One that is proven dead is released before.

    Raises Conflict (it is attached and lives; a taken address, port or name), NotFound (the
    namespace, the network), UsageError, NotPermitted, HostRefused (undone), Busy.
    """
    runtime.enter()
    name = name_of(request.key)
    runtime.lock("vm", name)
    _release_dead(runtime, name, request)
    given = netns.known_id(request.netns)
    nsid = namespace_id(os.urandom(4)) if given is None else given
    container = Container(request.netns, nsid, request.key.ifname, request.tap)
    if request.publish:
        known = runtime.read(leases.ports_of_container, request.key.container, name)
        ports = _unpublished(request.publish, known, lambda vm: _ended_if_dead(runtime, vm))
        request = request._replace(publish=ports)
    wanted = _as_vm(name, request)
    network = take(runtime, request)
    check_request(runtime, wanted)
    privileges.need_to_start([network], devices=request.tap is not None)
    networks = networks_now(runtime, [network.id])
    networks = network_needs.ready(runtime, networks, {network.id: [wanted.policy]})
    own = taken_addresses([network], runtime.off_record)
    with (
        with_room(runtime, [network], own),
        begin(runtime, "cni-add", vm=name) as (sql, operation),
    ):
        words = f"VM {name} for {recorded(request).words}"
        operation.history(sql, [Event("began", words)])
        vm, rows = record_vm(operation, sql, wanted, [network], committed=False, taken=own)
        means = means_of(operation, vm, networks)
        rows += intend(operation, sql, vm, (), means, container=container)
        launch = Launch(operation, vm, rows, means, new=True)
    bring_up([launch], operation)
    return attachments.told(vm, launch.committed(), networks.networks)


def refuse_first(runtime: Runtime, request: AttachmentRequest) -> None:
    """Raise what :func:`add` would where nothing is on record yet; makes nothing."""
    netns.known_id(request.netns)
    wanted = _as_vm(name_of(request.key), request)
    refuse_first_network(runtime, request)
    refuse_ports(Peers(runtime), wanted.publish, (), request.key.container)


def _release_dead(runtime: Runtime, name: str, request: AttachmentRequest) -> None:
    """Take away what is left of an earlier attachment of the same name. Raises Conflict."""
    if attachments.find(runtime, request.key) is None:
        return
    scope = vm_scope(runtime, name)
    key = request.key
    what = f"interface {key.ifname} of container {key.container} in network {key.network!r}"
    if scope.state is VmState.RUNNING:
        raise Conflict(
            f"{what} is attached already (VM {name})",
            hint=f"the runtime has to DEL it first; by hand: hvtx vm rm {name} --force",
        )
    if scope.state is VmState.UNKNOWN:
        raise Conflict(
            f"{what} was attached before (VM {name}), and it cannot be told whether it lives",
            hint=f"the runtime has to DEL it first; by hand: hvtx vm rm {name} --force",
        )
    remove(runtime, scope)


def _unpublished(
    wanted: Sequence[Publish], known: Mapping[Publish, str], is_ended: Callable[[str], bool]
) -> tuple[Publish, ...]:
    """The ports that no other interface of the container has, once dead ones are released.

    podman asks each network of a container for all ports of the container: the first has them.
    ``known``: what others have, with the VM of each.
    """
    asked = {(port.protocol, port.host_port) for port in wanted}
    holders = {vm for port, vm in known.items() if (port.protocol, port.host_port) in asked}
    free = {None, *filter(is_ended, sorted(holders))}
    return tuple(port for port in wanted if known.get(port) in free)


def _ended_if_dead(runtime: Runtime, name: str) -> bool:
    """Release another attachment if it is proven dead; whether it is gone. Raises PartialFailure.

    One that somebody else works on is left to him: who waited for it here, while he waits for what
    this call holds, would wait in vain.
    """
    if not runtime.try_lock("vm", name):
        return False
    try:
        scope = vm_scope(runtime, name)
        if scope.state in _MAY_LIVE:
            return False
        remove(runtime, scope)
    except NotFound:  # meanwhile, by its DEL
        return True
    finally:
        runtime.unlock("vm", name)
    return True


def _as_vm(name: str, request: AttachmentRequest) -> VmRequest:
    """What is recorded of it as of any VM. Raises UsageError."""
    attachment = recorded(request)
    return VmRequest(
        name=name,
        hypervisor="cni",
        networks=(request.bridge_network,),
        ips=tuple(map(parse_address, request.addresses)),
        macs=() if request.mac is None else (parse_mac(request.mac),),
        publish=request.publish,
        memory=0,
        cpus=0,
        kernel=None,
        initrd=None,
        append=None,
        disks=(),
        command=(),
        directory="/",
        autostart=False,
        limits=request.limits,
        attachment=attachment,
        asks=asks(attachment, tap=request.tap is not None),
    )
