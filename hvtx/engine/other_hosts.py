"""Whose an address of a cluster is, if it is another host's."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from hvtx.engine import blocks as engine
from hvtx.engine.runtime import Runtime
from hvtx.errors import Conflict, HvtxError
from hvtx.model.vm import Network
from hvtx.planner.blocks import block_of
from hvtx.store import blocks as rows
from hvtx.store import leases


def whose(runtime: Runtime, text: str, networks: Sequence[Network]) -> list[str]:
    """Evidence of an address or prefix in a network of blocks; nothing of any other thing."""
    try:
        address = ipaddress.ip_network(text, strict=False).network_address
    except ValueError:
        return []
    inside = [
        network
        for network in networks
        if network.block_size is not None and block_of(str(address), network.subnets)
    ]
    if not inside or runtime.settings.cluster is None:
        return []
    try:
        with engine.opened(runtime) as blocks:
            held = {one.cidr: one for one in blocks.source.holders(inside[0].name)}
            static = blocks.source.name == "static"
    except HvtxError as problem:
        return [f"which host has its block is not known: {problem.message}"]
    cidr = block_of(str(address), held)
    if cidr is None and static:
        return ["this host has not its block; of others the configuration says nothing"]
    if cidr is None:
        return ["no host has its block"]
    holder = held[cidr]
    if holder.installation in ("", runtime.installation):
        return [f"its block {cidr} is this host's"]
    where = f" at {holder.address}" if holder.address else ""
    name, theirs = holder.host, holder.installation
    return [f"its block {cidr} is host {name!r}'s{where}, installation {theirs}"]


def refuse(runtime: Runtime, network: Network, addresses: Sequence[str]) -> None:
    """Refuse what was asked for and is of no block of this host, before one is claimed.

    Raises Conflict that tells whose it is. In doubt the cluster is to be asked first: no word.
    """
    if runtime.read(rows.is_doubted):
        return
    for address in addresses:
        try:
            runtime.read(leases.refuse_others_block, network, address)
        except Conflict as problem:
            known = "; ".join(whose(runtime, address, [network]))
            raise Conflict(
                f"{problem.message}: {known}" if known else problem.message, hint=problem.hint
            ) from problem
