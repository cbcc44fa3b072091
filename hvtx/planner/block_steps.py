"""What `gc --apply` does about a cluster's blocks, as values: a part of its plan. Pure.

It is made from the store alone: the cluster is asked when it is carried out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from hvtx.errors import StalePlan
from hvtx.model.block import Block, BlockState, BlockStep, Pool
from hvtx.model.typed import Any
from hvtx.planner.blocks import block_of, to_return

ACTIONS = {
    "compare": "ask the cluster which blocks are this host's",
    "ask-again": "ask for the answer to an interrupted claim",
    "give-back": "give the block back to the cluster",
}
REASONS = {
    "store-doubted": "the store was put back from a copy: its blocks may be others' by now",
    "claim-interrupted": "it was asked for, and no answer is on record",
    "return-interrupted": "it was to be given back, and that did not end",
    "network-gone": "its network is not on record any more",
    "block-spare": "it is empty, and another block of its network has room",
    "block-lost": "it is not this host's any more, and no VM has an address of it",
}
KIND = "block"  # in an identity, where an item has its kind


def steps(
    blocks: Sequence[Block],
    pools: Collection[Pool],
    *,
    doubted: bool,
    ending: Iterable[str] = (),
) -> tuple[BlockStep, ...]:
    """What is to be done, in its order; ``ending``: addresses whose leases the plan ends."""
    found = [_step("compare", "store-doubted", None)] if doubted else []
    known = _without(blocks, list(ending))
    opened = [block for block in known if block.state is BlockState.INTENDED]
    found += [_step("ask-again", "claim-interrupted", block) for block in sorted(opened)]
    late = [block for block in known if block.state is BlockState.RELEASING]
    found += [_step("give-back", "return-interrupted", block) for block in late]
    for block in to_return(known, pools):
        reason = "block-spare" if block.pool in pools else "network-gone"
        reason = "block-lost" if block.state is BlockState.LOST else reason
        found.append(_step("give-back", reason, block))
    return tuple(found)


def _without(blocks: Sequence[Block], ending: Sequence[str]) -> list[Block]:
    """The blocks as they are once these addresses are free."""
    known = []
    for block in blocks:
        cidr = block.cidr
        freed = sum(block_of(one, [cidr]) is not None for one in ending) if cidr else 0
        known.append(block._replace(used=max(block.used - freed, 0)))
    return known


def _step(action: str, reason: str, block: Block | None) -> BlockStep:
    words = f"{REASONS[reason]}: {ACTIONS[action]}"
    if block is None:
        return BlockStep(action, reason, None, None, "", words)
    return BlockStep(action, reason, block.pool.network, block.cidr, block.token, words)


def identity(step: BlockStep) -> tuple[Any, ...]:
    """What must be equal for two plans to mean the same by it, shaped as an item's."""
    place = " ".join(filter(None, (step.network, step.cidr)))
    return step.action, step.reason, KIND, place, 0, step.claim


def reviewed(
    planned: Sequence[BlockStep], saved: Sequence[tuple[Any, ...]]
) -> tuple[BlockStep, ...]:
    """Those of a saved plan; raises StalePlan where one of them is not planned now."""
    known = {identity(step): step for step in planned}
    for one in saved:
        if one not in known:
            action, reason, kind, place, *_ = one
            raise StalePlan(
                f"the plan is stale: {kind} {place} was {action} ({reason}), and is not now",
                hint="make a new plan: hvtx gc --plan --out FILE; nothing was changed",
            )
    return tuple(known[one] for one in saved)


def with_outcomes(
    planned: Iterable[BlockStep], blocks: Iterable[Block], *, doubted: bool
) -> tuple[BlockStep, ...]:
    """What became of each, by the store afterwards."""
    left = {block.token: block.state for block in blocks}

    def failed(step: BlockStep) -> bool:
        if step.action == "compare":
            return doubted
        if step.action == "ask-again":
            return left.get(step.claim) is BlockState.INTENDED
        return step.claim in left

    return tuple(step._replace(outcome="failed" if failed(step) else "done") for step in planned)
