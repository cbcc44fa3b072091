"""What a host says of its blocks to an etcd that lacks them: what it had, and nobody else has."""

from __future__ import annotations

import pytest

from hvtx.model.block import Block, BlockState, Held, Pool
from hvtx.planner.registering import guests_of, registration, words_of

POOL = Pool("lab", "10.64.0.0/16", 26)
OURS, OTHER = "aaaaaaaaaa", "bbbbbbbbbb"


def block(used: int = 0, state: BlockState = BlockState.COMMITTED) -> Block:
    return Block(2, "bb", POOL, "10.64.0.0/26", state, "", used=used)


def held(installation: str, token: str = block().token) -> Held:
    return Held("lab", "10.64.0.0/26", installation, token, "two")


def found(one: Block, *there: Held, another: bool = True, pools: tuple[Pool, ...] = (POOL,)):
    return registration([one], there, pools, installation=OURS, another=another)


def test_what_nobody_has_is_put_back_in_another_etcd_only() -> None:
    assert found(block(3)).put == ((block(3), None),)
    assert found(block(3), another=False).taken == ((block(3), None),)
    assert found(block(0), another=False).lost == (block(0),)


def test_what_is_there_already_is_left() -> None:
    assert found(block(3), held(OURS)) == ((), (), ())
    assert found(block(3), held(OURS), another=False) == ((), (), ())


def test_an_older_claim_of_this_host_gives_way_in_another_etcd() -> None:
    """It was put back from a snapshot: the block went back since, and was had again."""
    old = held(OURS, "000000000001.aa")
    assert found(block(3), old).put == ((block(3), old),)
    assert found(block(3), old, another=False).taken == ((block(3), old),)


@pytest.mark.parametrize("another", [True, False])
def test_what_another_host_has_is_not_to_be_had(another: bool) -> None:
    theirs = held(OTHER)
    assert found(block(0), theirs, another=another) == ((), (block(0),), ())
    refused = found(block(3), theirs, another=another).taken
    assert refused == ((block(3), theirs),)
    assert "(3) have addresses of block 10.64.0.0/26" in words_of(refused)
    assert "host 'two', installation bbbbbbbbbb" in words_of(refused)


def test_a_block_of_no_network_on_record_is_not_wanted() -> None:
    assert found(block(0), pools=()).lost == (block(0),)


@pytest.mark.parametrize("state", [s for s in BlockState if s is not BlockState.COMMITTED])
def test_only_what_is_had_is_spoken_of(state: BlockState) -> None:
    assert found(block(0, state)) == ((), (), ())


def test_of_a_block_of_an_older_store_not_all_guests_are_known() -> None:
    assert guests_of(block(0)) == "it has no guests"
    assert "no guests on record, but the store was put back" in guests_of(
        block(0)._replace(kept=True)
    )
