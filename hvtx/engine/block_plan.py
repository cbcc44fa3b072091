"""What gc's plan says of a cluster's blocks, and how that is carried out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hvtx.engine import block_machine, notice
from hvtx.engine import blocks as engine
from hvtx.engine.runtime import Runtime
from hvtx.errors import HvtxError
from hvtx.model.block import BlockStep
from hvtx.planner.block_steps import steps, with_outcomes
from hvtx.store import blocks as rows
from hvtx.store import records


def planned(runtime: Runtime, ending: Iterable[str]) -> tuple[BlockStep, ...]:
    """What `gc --apply` would do about blocks; nobody is asked.

    ``ending``: addresses whose leases the plan ends. On a copy of a host it is nothing.
    """
    try:
        block_machine.refuse_elsewhere(runtime)
    except HvtxError:
        return ()
    with runtime.reading() as sql:
        networks, known, doubted = records.networks(sql), rows.blocks(sql), rows.is_doubted(sql)
    pools = {pool for network in networks if (pool := engine.pool_of(network)) is not None}
    return steps(known, pools, doubted=doubted, ending=ending)


def carry_out(
    runtime: Runtime, blocks: Sequence[BlockStep], *, saved: bool
) -> tuple[BlockStep, ...]:
    """Do it, and tell what became of each.

    Without a ``saved`` plan everything that there is to do by now is done, and the cluster is
    asked, too, whether the blocks on record are this host's still.
    """
    if saved and not blocks:
        return ()
    found = engine.settle(runtime, only={step.claim for step in blocks} if saved else None)
    for words in found.done:
        notice.note(words)
    for what, why in found.failed:
        notice.warning(f"{what}: {why}")
    if found.unasked:
        notice.warning(f"cluster: {found.unasked}")
    known, doubted = runtime.read(rows.blocks), runtime.read(rows.is_doubted)
    return with_outcomes(blocks, known, doubted=doubted)
