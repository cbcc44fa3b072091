"""Blocks that the configuration names: who wrote it for all hosts gave each to one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hvtx.model.block import Block, BlockState, Cluster, Held, Pool
from hvtx.planner.blocks import is_of


class StaticBlocks:
    """The source ``static``: nobody is asked, so nothing is ever unknown."""

    name = "static"
    counts = False  # claims: nobody does
    where_blocks_are = (
        "the configuration has none for it: name one of /{size} in its subnet that no other host"
        " has, in [cluster.blocks], {name} = […]; or remove VMs"
    )

    def __init__(self, cluster: Cluster, on_record: Callable[[], Sequence[Block]]) -> None:
        """``on_record`` tells the blocks of the store."""
        self._cluster = cluster
        self._on_record = on_record

    def claim(self, pool: Pool, token: str) -> str | None:
        """The first block of the network that is not on record yet."""
        del token
        return self._free(pool)

    def has_free(self, pool: Pool) -> bool:
        """Whether there is one."""
        return self._free(pool) is not None

    def _free(self, pool: Pool) -> str | None:
        used = {b.cidr for b in self._on_record() if b.state is not BlockState.LOST}
        return next(
            (c for c in self._named(pool.network) if c not in used and is_of(pool, c)), None
        )

    def end(self, pool: Pool, token: str) -> str | None:
        """Nobody is told."""

    def mine(self) -> list[Held]:
        """What is on record and named in the configuration."""
        return [
            Held(block.pool.network, block.cidr, "", block.token)
            for block in self._on_record()
            if block.cidr is not None and block.cidr in self._named(block.pool.network)
        ]

    def holders(self, network: str | None = None) -> list[Held]:
        """The same: of other hosts this configuration says nothing."""
        return [one for one in self.mine() if network in (None, one.network)]

    def release(self, block: Held) -> None:
        """Nobody is told."""

    def last_claim(self) -> int:
        """None is counted by anybody."""
        return 0

    def announce(self) -> None:
        """Nobody is told."""

    def define(self, pool: Pool) -> bool:  # noqa: ARG002 - of the other source
        """Nobody has to agree."""
        return False

    def undefine(self, network: str) -> None:
        """Nobody is told."""

    def close(self) -> None:
        """Nothing is open."""

    def _named(self, network: str) -> tuple[str, ...]:
        return self._cluster.blocks.get(network, ())
