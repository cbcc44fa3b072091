"""`network create`: what was asked for, checked, and made."""

from __future__ import annotations

from collections.abc import Callable

from hvtx.engine import uplink_ways
from hvtx.engine.new_network import (
    NetworkRequest,
    check_free,
    make_network,
    take_network,
)
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.engine.unsettled import resolved_networks
from hvtx.engine.vm_options import warn_of_useless
from hvtx.model.vm import DEFAULT, Network


def create_default(runtime: Runtime) -> Network:
    """The network ``default``, made from a free private /24 where it is not there.

    Raises Conflict (none is free), NotPermitted, HostRefused (undone), Busy.
    """
    runtime.enter()
    return take_network(runtime, DEFAULT)


def refusing(request: NetworkRequest) -> Callable[[Runtime], None]:
    """What raises Conflict or NotFound, before anything is made, for what is taken or not there."""
    return lambda runtime: check_free(all_networks(runtime), request)


def create_network(runtime: Runtime, request: NetworkRequest) -> Network:
    """Make a network, whole or not at all.

    Raises Conflict (name, bridge or subnet taken), NotPermitted, HostRefused (undone), Busy.
    """
    runtime.enter()
    runtime.lock("network", request.name)
    runtime.lock("all", "networks")
    scope = resolved_networks(runtime, all_networks(runtime))
    network = make_network(runtime, request, scope)
    warn_of_useless(network.policy, [network])
    uplink_ways.tell(network)
    return network
