"""Flows of guests, looked at by the policies that hold for them now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing

from hvtx.host.ctmessages import Flow
from hvtx.host.inet import packed
from hvtx.host.links import Links
from hvtx.model.firewall import FirewallSpec, addresses_in
from hvtx.planner.egress_flows import Guests, Named, Sent, nothing, refused


def concerns(
    vms: Sequence[FirewallSpec],
    networks: Sequence[FirewallSpec],
    own: Collection[tuple[str, ...]],
    named: Named = nothing,
) -> Callable[[Flow], bool]:
    """Whether a flow is one of a guest's that would not pass now; ``own``: subnets of networks."""
    shared = {spec["bridge"]: spec for spec in networks}
    guests = Guests(
        {
            packed(address): (spec, *_of(shared, spec["bridge"]))
            for spec in vms
            for address in addresses_in(spec)
        },
        tuple((spec,) for spec in networks),
        tuple(tuple(spec.get("subnets", ())) for spec in networks),
    )
    with closing(Links()) as links:
        local = {packed(one.address.partition("/")[0]) for one in links.addresses()}

    def ends(flow: Flow) -> bool:
        if flow.reply_source != flow.destination:
            return False  # translated: by a port that is published
        sent = Sent(flow.destination, flow.protocol, flow.port, flow.destination in local)
        return refused(flow.source, sent, guests, own, named)

    return ends


def _of(shared: dict[str, FirewallSpec], bridge: str) -> tuple[FirewallSpec, ...]:
    return (shared[bridge],) if bridge in shared else ()
