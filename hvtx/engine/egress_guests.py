"""Flows of guests, looked at by the policies that hold for them now."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import lru_cache

from hvtx.host.ctmessages import Flow
from hvtx.host.inet import packed
from hvtx.host.links import Links
from hvtx.host.nfanswers import all_elements
from hvtx.host.nfnetlink import Nftables
from hvtx.host.retry import retry_transient
from hvtx.model.firewall import FirewallSpec
from hvtx.model.typed import NamedTuple
from hvtx.planner.egress_flows import (
    Going,
    Host,
    LinkUse,
    Named,
    Near,
    Port,
    guests,
    host,
    link_use,
    nothing,
    refused,
)
from hvtx.rulesets.nftables_layout import table_name

_NAME = 16  # bytes of a device's name in a key


class Concerned(NamedTuple):
    """The networks of which a policy has changed, with what holds in them now."""

    vms: Sequence[FirewallSpec]
    networks: Sequence[FirewallSpec]
    every: Sequence[Near]  # the networks of this host, others too
    ports: Callable[[], Sequence[FirewallSpec]]  # of the guests in those that are concerned


def concerns(
    concerned: Concerned, installation: str, named: Named = nothing
) -> Callable[[Flow], bool]:
    """Whether a flow is one of a guest's that would not pass now. Raises OSError.

    What it returns raises OSError, HvtxError where it cannot be told who sends.
    """
    those = guests(concerned.vms, concerned.networks)
    here = _host(those.bridges, concerned.every)

    @lru_cache(1)
    def links() -> LinkUse:
        ports = (Port(spec["device"], spec["bridge"], spec["mac"]) for spec in concerned.ports())
        return link_use(ports, _seen(table_name(installation)))

    def ends(flow: Flow) -> bool:
        translated = (flow.reply_source, flow.reply_port) != (flow.destination, flow.port)
        going = Going(flow.source, flow.reply_source, flow.protocol, flow.reply_port, translated)
        return refused(going, those, here, links, named)

    return ends


def _host(bridges: Iterable[str], networks: Iterable[Near]) -> Host:
    with closing(Links()) as links:
        every = [(one.ifindex, packed(one.address.partition("/")[0])) for one in links.addresses()]
        devices = {bridge: links.get(name=bridge) for bridge in bridges}
    gateways = {
        bridge: {address for index, address in every if device and index == device.ifindex}
        for bridge, device in devices.items()
    }
    return host({address for _, address in every}, gateways, networks)


def _seen(table: str) -> set[tuple[str, bytes]]:
    """Which devices have sent from which link-local addresses of late, as their filter knows it."""
    try:
        with closing(Nftables()) as nft:
            found = all_elements(
                retry_transient(lambda: nft.dump_elements("bridge", table, "seen6"))
            )
    except OSError as problem:
        if problem.errno == errno.ENOENT:  # somebody flushed the ruleset: nobody is known
            return set()
        raise
    keys = (element.key for element in found)
    return {(key[:_NAME].rstrip(b"\0").decode(errors="replace"), key[_NAME:]) for key in keys}
