"""Attachments on record: found by what a runtime tells them by, and told as ADD tells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hvtx.engine.network_options import parse_network
from hvtx.engine.new_network import describe, take_network, take_or_make
from hvtx.engine.runtime import Runtime
from hvtx.errors import Conflict, NotFound, advised
from hvtx.model.attachment import Attached, AttachedAddress, AttachmentKey, AttachmentRequest
from hvtx.model.container import veth_spec
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Network, Vm
from hvtx.planner.attaching import name_of
from hvtx.store import records

_MTU = 1500


def key_of(vm: Vm) -> AttachmentKey:
    """What a runtime tells an attachment by (pure)."""
    assert vm.attachment is not None, vm.name
    return AttachmentKey(vm.attachment.network, vm.attachment.container, vm.attachment.ifname)


def find(runtime: Runtime, key: AttachmentKey) -> Vm | None:
    """The VM that stands for an attachment."""
    return runtime.read(records.find_vm, name_of(key))


def told(vm: Vm, rows: Iterable[Resource], networks: Mapping[str, Network]) -> Attached:
    """A committed attachment, as ADD tells it (pure); ``networks`` by id, ``rows`` its own."""
    assert vm.attachment is not None, vm.name
    row = next(row for row in rows if row.kind == Kind.VETH)
    spec, network = veth_spec(row), networks[vm.interfaces[0].network]
    return Attached(
        key=key_of(vm),
        vm=vm.name,
        netns=vm.attachment.netns,
        bridge=network.bridge,
        bridge_mac=network.mac,
        host_device=row.key,
        host_mac=spec["mac"],
        mac=spec["peer_mac"],
        mtu=spec["mtu"],
        addresses=tuple(AttachedAddress(*one) for one in spec["peer_addresses"]),
        tap=spec["tap"]["name"] if "tap" in spec else None,
    )


def show(runtime: Runtime, key: AttachmentKey) -> Attached | None:
    """An attachment as ADD told it; None where there is none that was committed."""
    with runtime.reading() as sql:
        vm = records.find_vm(sql, name_of(key))
        if vm is None:
            return None
        rows = [row for row in records.resources_of_vm(sql, vm.id) if row.state == State.COMMITTED]
        networks = {network.id: network for network in records.networks(sql)}
    has = any(row.kind == Kind.VETH for row in rows)
    return told(vm, rows, networks) if has else None


def take(runtime: Runtime, request: AttachmentRequest) -> Network:
    """The network of an attachment, locked against removal until this run ends.

    It is made where it is not there, if the configuration declares it. Raises NotFound, Conflict
    (the configuration declares other subnets than it has), UsageError, HostRefused, Busy.
    """
    name = request.bridge_network
    if not request.subnets:
        return _known(runtime, name)
    wanted = parse_network(
        name, request.subnets, None, request.mtu or _MTU, nat=request.nat, isolate=request.isolate
    )
    if request.addresses:  # before a network is made for what cannot be
        from hvtx.planner.addressing import check_guest_address

        described = describe(runtime, wanted)
        for address in request.addresses:
            with advised("ask for one in the network's subnets, or leave it out"):
                check_guest_address(address, described)
    network = take_or_make(runtime, wanted)
    if set(wanted.subnets) != set(network.subnets):
        raise Conflict(
            f"network {name!r} has {', '.join(network.subnets)}, and the configuration of"
            f" {request.key.network!r} declares {', '.join(wanted.subnets)}",
            hint=f"change the configuration, or make it anew: hvtx network rm {name}",
        )
    return network


def _known(runtime: Runtime, name: str) -> Network:
    try:
        return take_network(runtime, name)
    except NotFound as problem:
        problem.hint = (
            f"hvtx network create {name} --subnet CIDR, or declare subnets in the configuration"
        )
        raise
