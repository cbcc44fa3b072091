"""What gc does about blocks: from the store alone, in order, compared with what was looked at."""

from __future__ import annotations

import pytest

from hvtx.errors import StalePlan
from hvtx.model.block import Block, BlockState, Pool
from hvtx.planner.block_steps import ACTIONS, REASONS, identity, reviewed, steps, with_outcomes

POOL = Pool("lab", "10.64.0.0/16", 30)


def block(number: int, state: BlockState = BlockState.COMMITTED, used: int = 0) -> Block:
    cidr = None if state is BlockState.INTENDED else f"10.64.{number}.0/30"
    return Block(number, "aa", POOL, cidr, state, "", used=used)


INTENDED, RELEASING, LOST = BlockState.INTENDED, BlockState.RELEASING, BlockState.LOST
BLOCKS = [block(1, used=1), block(2), block(3, INTENDED), block(4, RELEASING), block(5, LOST)]


def short(*found):
    return [(step.action, step.reason, step.cidr) for step in found]


def test_everything_that_is_done_is_told() -> None:
    found = steps(BLOCKS, {POOL}, doubted=True)
    assert short(*found) == [
        ("compare", "store-doubted", None),
        ("ask-again", "claim-interrupted", None),
        ("give-back", "return-interrupted", "10.64.4.0/30"),
        ("give-back", "block-lost", "10.64.5.0/30"),
        ("give-back", "block-spare", "10.64.2.0/30"),
    ]
    assert {step.action for step in found} == set(ACTIONS)
    assert {step.reason for step in found} == set(REASONS) - {"network-gone"}
    assert short(*steps(BLOCKS[1:2], set(), doubted=False)) == [
        ("give-back", "network-gone", "10.64.2.0/30")
    ]
    assert steps(BLOCKS[:1], {POOL}, doubted=False) == ()


def test_what_the_plan_itself_frees_counts() -> None:
    """Of two blocks with a guest each one is empty once its guest's lease has gone."""
    two = [block(1, used=1), block(2, used=1)]
    assert steps(two, {POOL}, doubted=False) == ()
    ended = steps(two, {POOL}, doubted=False, ending=["10.64.2.3", "10.99.0.1"])
    assert short(*ended) == [("give-back", "block-spare", "10.64.2.0/30")]


def test_only_what_was_looked_at_is_done() -> None:
    found = steps(BLOCKS, {POOL}, doubted=False)
    saved = [identity(step) for step in found[:2]]
    assert reviewed(found, saved) == found[:2]
    now = steps([b for b in BLOCKS if b.id != 4], {POOL}, doubted=False)
    with pytest.raises(StalePlan, match="was give-back"):
        reviewed(now, saved)


def test_what_became_of_each() -> None:
    found = steps(BLOCKS, {POOL}, doubted=True)
    after = [block(1, used=1), block(3), block(5, LOST)]
    outcomes = [step.outcome for step in with_outcomes(found, after, doubted=False)]
    assert outcomes == ["done", "done", "done", "failed", "done"]
    after = [block(3, INTENDED), block(4, RELEASING)]
    outcomes = [step.outcome for step in with_outcomes(found, after, doubted=True)]
    assert outcomes == ["failed", "failed", "failed", "done", "done"]
