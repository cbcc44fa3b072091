"""Which block is asked for, what an answer means, and which blocks go back."""

from __future__ import annotations

import ipaddress

import pytest

from hvtx.errors import UsageError
from hvtx.model.block import Block, BlockState, Held, Pool
from hvtx.planner import blocks
from hvtx.planner.blocks import FORGOTTEN, Answer, Verdict

POOL = Pool("lab", "10.64.0.0/20", 26)  # 64 blocks of 64 addresses
NOTHING = Answer(None, "m", "000000000004", "d", None)


def block(number: int, cidr: str | None, used: int = 0, state: str = "committed") -> Block:
    return Block(number, "aa", POOL, cidr, BlockState(state), "2026-01-01T00:00:00Z", used=used)


@pytest.mark.parametrize(
    ("text", "subnets", "size"),
    [("26", ["10.64.0.0/10"], 26), ("/26", ["10.64.0.0/10"], 26), ("122", ["fd00::/104"], 122)],
)
def test_a_size_is_a_prefix_length(text: str, subnets: list[str], size: int) -> None:
    assert blocks.parse_block_size(text, subnets) == size


@pytest.mark.parametrize(
    ("text", "subnets"),
    [
        ("x", ["10.0.0.0/8"]),
        ("²6", ["10.0.0.0/8"]),
        ("19", ["10.0.0.0/8"]),  # Calico's bound: a block of a host is no network
        ("33", ["10.0.0.0/8"]),
        ("26", ["10.64.0.0/26"]),  # one block: there is nothing to share
        ("26", ["10.64.0.0/27"]),
        ("26", ["10.64.0.0/10", "fd00::/64"]),
        ("122", ["fd00::/64"]),  # 2^58 blocks
    ],
)
def test_what_is_no_size_is_refused(text: str, subnets: list[str]) -> None:
    with pytest.raises(UsageError):
        blocks.parse_block_size(text, subnets)


@pytest.mark.parametrize(
    ("subnet", "size", "hint"),
    [("fd00::/64", "122", "smaller subnet: a /98"), ("10.0.0.0/28", "26", "--block-size")],
)
def test_what_is_told_to_be_chosen_can_be(subnet: str, size: str, hint: str) -> None:
    with pytest.raises(UsageError) as told:
        blocks.parse_block_size(size, [subnet])
    assert hint in (told.value.hint or "")


def test_candidates_are_blocks_and_the_same_for_the_same_token() -> None:
    """Or a claim whose answer was lost would ask for another block."""
    found = list(blocks.candidates(POOL, "t"))
    assert found == list(blocks.candidates(POOL, "t")) != list(blocks.candidates(POOL, "u"))
    assert len(set(found)) == len(found)
    assert all(blocks.is_of(POOL, cidr) for cidr in found)


def test_the_last_free_block_is_found_and_none_where_there_is_none() -> None:
    every = [str(one) for one in ipaddress.ip_network(POOL.subnet).subnets(new_prefix=26)]
    for left in (every[0], every[-1], every[17]):
        assert blocks.free_block(POOL, set(every) - {left}, "token") == left
    assert blocks.free_block(POOL, every, "token") is None


@pytest.mark.parametrize("cidr", ["10.64.0.0/25", "10.65.0.0/26", "fd00::/26", "10.64.0.1/26", "x"])
def test_what_is_no_block_of_a_pool(cidr: str) -> None:
    assert not blocks.is_of(POOL, cidr)


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (NOTHING, Verdict.AGAIN),
        (NOTHING._replace(holder="x 1"), Verdict.TAKEN),
        (NOTHING._replace(machine=None, last=None, definition=None), Verdict.UNREGISTERED),
        (NOTHING._replace(definition=None), Verdict.UNDEFINED),
        (NOTHING._replace(definition="other"), Verdict.OTHER_NETWORK),
        (NOTHING._replace(last="000000000005"), Verdict.SPENT),
        (NOTHING._replace(last="000000000017", holder="x 1"), Verdict.SPENT),
        (NOTHING._replace(claimed="10.64.0.0/26", last="000000000005"), Verdict.OURS),
        # neither a copy of the host nor one that was given up gets what its token once got
        (NOTHING._replace(claimed="10.64.0.0/26", machine="twin"), Verdict.CLONED),
        (NOTHING._replace(claimed="10.64.0.0/26", machine=FORGOTTEN), Verdict.FORGOTTEN),
    ],
)
def test_what_an_answer_means(answer: Answer, meaning: Verdict) -> None:
    assert blocks.verdict(answer, number="000000000005", machine="m", definition="d") is meaning


def test_store_and_cluster_are_compared_by_block_and_token() -> None:
    rows = [block(1, "10.64.0.0/26"), block(2, "10.64.0.64/26"), block(3, None, state="intended")]
    mine = [
        Held("lab", "10.64.0.0/26", "i", rows[0].token),
        Held("lab", "10.64.0.64/26", "i", "000000000002.another"),
        Held("lab", "10.64.0.128/26", "i", rows[2].token),
    ]
    found = blocks.difference(rows, mine)
    assert found.lost == (rows[1],)
    assert found.unrecorded == (mine[1],)


def test_a_claim_is_never_granted_behind_a_later_one() -> None:
    open_ones = [block(n, None, state="intended") for n in (4, 5, 6)]
    mine = [Held("lab", "10.64.0.0/26", "i", open_ones[0].token)]
    assert blocks.never_granted(open_ones, mine, 5) == [open_ones[1]]


def test_what_goes_back() -> None:
    """Spare blocks, and all of a network that is gone; never one with leases."""
    full, half, empty, spare = (
        block(1, "10.64.0.0/26", 64),
        block(2, "10.64.0.64/26", 32),
        block(3, "10.64.0.128/26"),
        block(4, "10.64.0.192/26"),
    )
    assert blocks.to_return([full, empty], {POOL}) == []
    assert blocks.to_return([full, empty, spare], {POOL}) == [spare]
    assert blocks.to_return([full, half, empty], {POOL}) == [empty]
    assert blocks.to_return([full, empty, spare], set()) == [empty, spare]
    anew = POOL._replace(subnet="10.128.0.0/20")
    assert blocks.to_return([full, empty, spare], {anew}) == [empty, spare]
    assert blocks.to_return([full, half, empty._replace(kept=True)], {POOL}) == []
    assert blocks.to_return([empty._replace(kept=True)], set()) == []
    lost = block(7, "10.64.2.0/26", state="lost")
    assert blocks.to_return([full, lost, lost._replace(kept=True)], {POOL}) == [lost]
    assert blocks.to_return([lost._replace(used=1)], {POOL}) == []
    going = block(5, "10.64.1.0/26", state="releasing")
    assert blocks.to_return([going, block(6, None, state="intended")], set()) == []


def test_what_a_configuration_names_in_vain() -> None:
    """Misspelt, of another size, outside the subnet, not on its boundary, of another family."""
    named = {
        "lab": ("10.64.3.0/26", "10.64.3.0/27", "10.65.0.0/26", "10.64.3.1/26", "fd00::/26"),
        "lba": ("10.64.3.64/26",),
        "plain": ("10.64.4.0/26",),
    }
    assert list(blocks.unused(named, {"lab": POOL, "plain": None, "other": POOL})) == [
        *(f"lab: {cidr} is no /26 in 10.64.0.0/20" for cidr in named["lab"][1:]),
        "lba: no network of that name is on record",
        "plain: the network was made without --block-size",
    ]
    assert list(blocks.unused({"lab": ("10.64.3.0/26",)}, {"lab": POOL})) == []


def test_an_etcd_that_knows_fewer_claims_than_were_granted_went_back() -> None:
    known = [
        block(3, "10.64.0.0/26"),
        block(7, "10.64.1.0/26", state="releasing"),
        block(9, None, state="intended"),
    ]
    assert blocks.went_back(known, 7) is None
    assert blocks.went_back(known, 9) is None
    said = blocks.went_back(known, 6)
    assert said is not None
    assert "above number 6, and block 10.64.1.0/26 of network lab is by number 7" in said
    assert blocks.went_back(known[:1], 0) is not None  # as of blocks that were the configuration's
    assert blocks.went_back(known[2:], 0) is None
    assert blocks.went_back([], 0) is None
