"""The network that an attachment is to be in: the one on record, or as its configuration has it."""

from __future__ import annotations

from hvtx.engine.network_options import parse_network
from hvtx.engine.new_network import describe, take_network, take_or_make
from hvtx.engine.runtime import Runtime
from hvtx.errors import Conflict, NotFound, advised
from hvtx.model.attachment import AttachmentRequest
from hvtx.model.vm import Network
from hvtx.planner.addressing import check_guest_address
from hvtx.store import records

_MTU = 1500


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
        problem.hint = records.to_have_network(name)
        raise
