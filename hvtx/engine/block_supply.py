"""Whether a network of a cluster's blocks has an address to give; nothing is claimed."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.engine import block_machine
from hvtx.engine import blocks as engine
from hvtx.engine.runtime import Runtime
from hvtx.model.block import BlockState
from hvtx.model.vm import Network
from hvtx.store import blocks as rows
from hvtx.store import leases


def refuse_without(runtime: Runtime, network: Network, taken: Iterable[str]) -> None:
    """Raise what a lease would meet; the cluster is asked only where this host's blocks are full.

    ``taken``: addresses that guests cannot have. Raises NoRoom, Busy (the cluster does not answer),
    Refused (the blocks are another machine's), Conflict.
    """
    block_machine.refuse_elsewhere(runtime)
    if runtime.read(leases.free_in_blocks, network, tuple(taken)) is not None:
        return
    pool = engine.pool_of(network)
    assert pool is not None
    known = [block for block in runtime.read(rows.blocks) if block.pool == pool]
    with engine.opened(runtime) as blocks:
        blocks.source.last_claim()
        if blocks.source.has_free(pool):
            return
        granted = {one.token for one in blocks.source.mine()}
    late = {BlockState.INTENDED, BlockState.RELEASING}  # had by claims of this host that are open
    if not any(block.state in late and block.token in granted for block in known):
        raise engine.no_block_left(pool, blocks.source.where_blocks_are)
