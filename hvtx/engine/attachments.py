"""Attachments on record: found by what a runtime tells them by, and told as ADD tells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hvtx.engine.runtime import Runtime
from hvtx.model.address import family_of
from hvtx.model.attachment import Attached, AttachedAddress, AttachmentKey
from hvtx.model.container import has_default, tap_mac, veth_spec
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Network, Vm
from hvtx.planner.attaching import name_of
from hvtx.store import records


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
        addresses=tuple(
            AttachedAddress(address, gateway, has_default(row, family_of(gateway)))
            for address, gateway in spec["peer_addresses"]
        ),
        tap=spec["tap"]["name"] if "tap" in spec else None,
        tap_mac=tap_mac(row),
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
