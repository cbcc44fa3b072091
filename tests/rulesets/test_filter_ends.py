"""Where a chain of others ends, and whether our accepts come right before that."""

from __future__ import annotations

import pytest

from hvtx.model.filter_chain import ChainRule, Does, FilterChain
from hvtx.rulesets.filter_ends import end_of, in_place

SOME, LOG, DROP = ChainRule(Does.SOME), ChainRule(Does.NOTHING), ChainRule(Does.DROP)
ACCEPT, RETURN = ChainRule(Does.ACCEPT), ChainRule(Does.RETURN)
OURS, OTHER = ChainRule(Does.SOME, mark="hvtx:1:a:1.x"), ChainRule(Does.SOME, mark="hvtx:1:b:1.x")
MARK = "hvtx:1:a:1.x"


def to(chain: str) -> ChainRule:
    return ChainRule(Does.JUMP, chain)


OTHERS = {
    "rejects": (LOG, DROP),
    "decides": (SOME, DROP),
    "passes": (SOME,),
    "empty": (),
    "logs": (LOG,),
}


def chain(*rules: ChainRule, drops: bool = False) -> FilterChain:
    return FilterChain(drops, rules, OTHERS)


@pytest.mark.parametrize(
    ("rules", "policy", "end"),
    [
        ((), False, (0, False)),
        ((), True, (0, True)),
        ((SOME, LOG), True, (2, True)),
        ((SOME, DROP, SOME), False, (1, True)),
        ((SOME, to("rejects"), SOME), False, (1, True)),
        ((to("decides"), SOME), False, (2, False)),  # what it decides before, it means
        ((to("decides"),), True, (1, True)),
        ((to("nowhere"), to("empty"), to("logs"), DROP), False, (3, True)),
        ((ACCEPT, DROP), True, (0, False)),
        ((SOME, RETURN, SOME), True, (1, True)),
        ((RETURN,), False, (0, False)),
    ],
)
def test_the_end(rules: tuple[ChainRule, ...], policy: bool, end: tuple[int, bool]) -> None:
    assert end_of(chain(*rules, drops=policy)) == end


@pytest.mark.parametrize(
    ("rules", "right"),
    [
        ((), False),
        ((OTHER,), False),
        ((SOME, OURS, OURS), True),
        ((OURS, OTHER), True),
        ((OURS, LOG, to("empty"), to("logs"), DROP), True),
        ((OURS, SOME), False),  # somebody appended a rule, which is to hold
        ((OURS, to("passes")), False),
        ((OURS, SOME, OURS), False),
        ((DROP, OURS), False),  # nothing comes there any more
        ((OURS, DROP, SOME), True),
    ],
)
def test_the_place(rules: tuple[ChainRule, ...], right: bool) -> None:
    assert in_place(chain(*rules, drops=True), MARK, "hvtx:") is right
