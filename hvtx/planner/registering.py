"""What a host has to say of its blocks to an etcd that does not have them, and what it may not.

Pure. An etcd that was put back from a snapshot, or was made anew, lacks claims; a person says that
it is to be gone on with (`hvtx cluster register`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from hvtx.model.block import Block, BlockState, Held, Pool
from hvtx.model.typed import NamedTuple


class Registration(NamedTuple):
    """What becomes of the store's blocks."""

    put: tuple[tuple[Block, Held | None], ...] = ()  # with the older claim that is there instead
    lost: tuple[Block, ...] = ()  # without guests, and not to be had
    taken: tuple[
        tuple[Block, Held | None], ...
    ] = ()  # with guests, and another host's, or nobody's


def registration(
    blocks: Iterable[Block],
    holders: Iterable[Held],
    pools: Collection[Pool],
    *,
    installation: str,
    another: bool,
) -> Registration:
    """What is to be done of the blocks on record that the cluster does not have for their claims.

    ``another``: the etcd is not the one that they are from. Only there a block that nobody has may
    be put back: in its own it went back, and somebody may have had it since. ``pools`` are the
    networks on record; a block of none of them is not wanted any more.
    """
    there = {(one.network, one.cidr): one for one in holders}
    put: list[tuple[Block, Held | None]] = []
    lost: list[Block] = []
    taken: list[tuple[Block, Held | None]] = []
    for block in blocks:
        if block.state is not BlockState.COMMITTED or block.cidr is None:
            continue
        held = there.get((block.pool.network, block.cidr))
        own = held is None or held.installation == installation
        if held is not None and own and held.token == block.token:
            continue
        if own and another and block.pool in pools:
            put.append((block, held))
        elif block.used:
            taken.append((block, held))
        else:
            lost.append(block)
    return Registration(tuple(put), tuple(lost), tuple(taken))


def words_of(taken: Sequence[tuple[Block, Held | None]]) -> str:
    """Whose the blocks are that cannot be had, in words."""
    return "; ".join(
        f"VMs here ({block.used}) have addresses of block {block.cidr} of network"
        f" {block.pool.network}, which is "
        + (f"host {held.host!r}, installation {held.installation}" if held else "not this host's")
        for block, held in taken
    )


def guests_of(lost: Block) -> str:
    """In words, what is known of the guests of a block that has none on record."""
    if not lost.kept:
        return "it has no guests"
    return (
        "it has no guests on record, but the store was put back: end those that it does not know,"
        " if some have addresses of the block"
    )
