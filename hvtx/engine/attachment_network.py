"""The network that an attachment is to be in: the one on record, or as its configuration has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hvtx.engine import privileges
from hvtx.engine.network_options import parse_network
from hvtx.engine.new_network import (
    NetworkRequest,
    check_free,
    default_draft,
    describe,
    take_network,
    take_or_make,
)
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.errors import Conflict, NotFound, advised
from hvtx.host import libnftables
from hvtx.model.attachment import AttachmentRequest
from hvtx.model.vm import DEFAULT, Network
from hvtx.planner.addressing import check_guest_address
from hvtx.store import records

_MTU = 1500


def take(runtime: Runtime, request: AttachmentRequest) -> Network:
    """The network of an attachment, locked against removal until this run ends.

    It is made where it is not there, if the configuration declares it. Raises NotFound, Conflict
    (it is another than the configuration declares), UsageError, HostRefused, Busy.
    """
    name = request.bridge_network
    if not request.subnets:
        if name == DEFAULT:
            network = take_or_make(runtime, _default(request))
        else:
            network = _known(runtime, name)
        refuse_another(network, (), request.mtu, nat=request.nat, isolate=request.isolate)
        return network
    wanted = _declared(runtime, request)
    network = take_or_make(runtime, wanted)
    refuse_another(network, wanted.subnets, request.mtu, nat=request.nat, isolate=request.isolate)
    return network


def refuse_first(runtime: Runtime, request: AttachmentRequest) -> None:
    """Raise what :func:`take` would where no network is on record yet; makes nothing."""
    if request.subnets:
        check_free(all_networks(runtime), _declared(runtime, request))
    elif request.bridge_network != DEFAULT:
        with _said_how_to_have(request.bridge_network):
            runtime.read(records.get_network, request.bridge_network)


def _declared(runtime: Runtime, request: AttachmentRequest) -> NetworkRequest:
    """The network that a configuration declares, with room for the addresses that are asked for."""
    wanted = _wanted(
        request.bridge_network, request.subnets, request.mtu, request.nat, request.isolate
    )
    if request.addresses:  # before a network is made for what cannot be
        described = describe(runtime, wanted)
        for address in request.addresses:
            with advised("ask for one in the network's subnets, or leave it out"):
                check_guest_address(address, described)
    return wanted


def judge(
    runtime: Runtime,
    name: str,
    network: Network | None,
    subnets: Sequence[str],
    mtu: int | None,
    *,
    nat: bool | None,
    isolate: bool | None,
) -> None:
    """Raise what ADD would say of a declaration: UsageError, or Conflict with what is there.

    Where the network is not there, ADD would make it: NotPermitted, HostRefused if it could not.
    """
    wanted = _wanted(name, subnets, mtu, nat, isolate) if subnets else None
    if network is not None:
        found = () if wanted is None else wanted.subnets
        refuse_another(network, found, mtu, nat=nat, isolate=isolate)
        return
    if wanted is not None:
        check_free(all_networks(runtime), wanted)
    elif name == DEFAULT:
        wanted = NetworkRequest(DEFAULT, default_draft(runtime).subnets)
    privileges.need_to_start([describe(runtime, wanted or NetworkRequest(name))])
    libnftables.run("list tables")  # either backend needs the library, and the kernel's nf_tables


def refuse_another(
    network: Network,
    subnets: Sequence[str],
    mtu: int | None = None,
    *,
    nat: bool | None = None,
    isolate: bool | None = None,
) -> None:
    """Raise Conflict where a network is another than a configuration declares.

    A network is made by its first container and keeps what it is: who writes ``isolate`` into the
    configuration later is not to believe that guests are kept from each other.
    """
    name, again = network.name, f"or make it anew: hvtx network rm {network.name}"
    if subnets and set(subnets) != set(network.subnets):
        there, wanted = ", ".join(network.subnets), ", ".join(subnets)
    elif mtu is not None and mtu != network.mtu:
        there, wanted = f'"mtu": {network.mtu}', str(mtu)
    elif nat is not None and nat != network.nat:
        there, wanted = f'"nat": {_word(network.nat)}', _word(nat)
    elif isolate is not None and isolate != network.isolate:
        there, wanted = f'"isolate": {_word(network.isolate)}', _word(isolate)
        option = "--isolate" if isolate else "--no-isolate"
        again = f"or the network, once no VM is up in it: hvtx network set {name} {option}"
    else:
        return
    raise Conflict(
        f"network {name!r} has {there}, and the configuration declares {wanted}",
        hint=f"change the configuration, {again}",
    )


def _word(flag: bool) -> str:
    return "true" if flag else "false"


def _wanted(
    name: str, subnets: Sequence[str], mtu: int | None, nat: bool | None, isolate: bool | None
) -> NetworkRequest:
    return parse_network(
        name, subnets, None, mtu or _MTU, nat=nat is not False, isolate=isolate is True
    )


def _default(request: AttachmentRequest) -> NetworkRequest:
    """The network `default` as it is declared (pure)."""
    return NetworkRequest(
        DEFAULT,
        mtu=request.mtu or _MTU,
        nat=request.nat is not False,
        isolate=request.isolate is True,
    )


def _known(runtime: Runtime, name: str) -> Network:
    with _said_how_to_have(name):
        return take_network(runtime, name)


@contextmanager
def _said_how_to_have(name: str) -> Iterator[None]:
    try:
        yield
    except NotFound as problem:
        problem.hint = records.to_have_network(name)
        raise
