"""Where a chain of others ends, and whether our accepts come right before that."""

from __future__ import annotations

import pytest

from hvtx.model.filter_chain import ChainRule, Does, FilterChain
from hvtx.rulesets.filter_ends import end_of, in_place, stands_behind

SOME, LOG, DROP = ChainRule(Does.SOME), ChainRule(Does.NOTHING), ChainRule(Does.DROP)
ACCEPT, RETURN = ChainRule(Does.ACCEPT), ChainRule(Does.RETURN)
MAY, POLICY = ChainRule(Does.MAY_ACCEPT), ChainRule(Does.POLICY, "ufw-skip-to-policy-input")
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
    "ufw-skip-to-policy-input": (DROP,),
    "ufw-skip-to-policy-forward": (ACCEPT,),
    "after": (POLICY, POLICY),
    "after, and more": (POLICY, MAY, LOG),
    "after, and drops": (POLICY, SOME),
    "after, and accepts": (ChainRule(Does.POLICY, "ufw-skip-to-policy-forward"),),
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
        # ufw's default, said earlier than at the end
        ((SOME, to("after"), LOG, to("empty")), True, (1, True)),
        ((SOME, to("after, and more"), to("logs"), to("rejects")), False, (1, True)),
        ((SOME, POLICY, MAY, to("after")), True, (1, True)),
        ((to("after"), SOME), True, (2, True)),  # what somebody drops behind it holds
        ((to("after, and drops"), LOG), True, (2, True)),
        ((to("after"), to("decides")), True, (2, True)),
        ((to("after"), OURS, OTHER, LOG), True, (0, True)),
        ((to("after, and accepts"),), True, (1, True)),
        ((to("after"),), False, (1, False)),
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
        ((SOME, OURS, to("after"), LOG), True),
        ((SOME, OURS, OTHER, to("after"), MAY), True),
        ((SOME, to("after"), OURS), False),
        ((SOME, OURS, to("after"), SOME), False),
        ((OURS, to("after, and drops")), False),
    ],
)
def test_the_place(rules: tuple[ChainRule, ...], right: bool) -> None:
    assert in_place(chain(*rules, drops=True), MARK) is right


def test_what_accepts_too_little() -> None:
    assert stands_behind(chain(SOME, to("after"), OURS, drops=True), MARK)
    assert stands_behind(chain(DROP, OURS), MARK)
    assert not stands_behind(chain(OURS, to("after"), SOME, drops=True), MARK)
    assert not stands_behind(chain(SOME, to("after, and drops"), OURS, drops=True), MARK)
