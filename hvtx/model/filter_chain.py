"""A built-in chain of a table `filter`, as far as it is asked how it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.model.typed import NamedTuple, StrEnum


class Does(StrEnum):
    """What a rule does with every packet that comes to it."""

    SOME = "some"  # it has a condition, and a verdict
    MAY_ACCEPT = "may accept"  # it has a condition, and accepts
    POLICY = "policy"  # it has a condition, and leads to a chain that is called a policy
    NOTHING = "nothing"  # it counts or logs
    DROP = "drop"  # rejects, too
    ACCEPT = "accept"
    RETURN = "return"
    JUMP = "jump"  # to another chain, without a condition


# ufw's, whose one rule is its default: `ufw-skip-to-policy-input`, `ufw6-skip-to-policy-forward` …
_POLICIES = ("ufw-skip-to-policy-", "ufw6-skip-to-policy-")


def is_policy(chain: str) -> bool:
    """Whether the name of a chain says that it is the policy of another one."""
    return chain.startswith(_POLICIES)


def with_condition(does: Does, leads: str) -> tuple[Does, str]:
    """What a rule does, and where it leads, if what it would do to all has a condition."""
    if does is Does.NOTHING:
        return does, leads
    if does is Does.JUMP and is_policy(leads):
        return Does.POLICY, leads
    return (Does.MAY_ACCEPT if does is Does.ACCEPT else Does.SOME), ""


class ChainRule(NamedTuple):
    """A rule of somebody's chain, or one of ours in it."""

    does: Does
    leads: str = ""  # the chain that it jumps to, with JUMP and POLICY
    mark: str | None = None
    handle: int = 0  # of nf_tables
    words: str | None = None  # of one that a passage may have made


class FilterChain(NamedTuple):
    """A built-in chain of a table `filter`."""

    drops: bool  # by its policy
    rules: tuple[ChainRule, ...]
    others: Mapping[str, Sequence[ChainRule]]  # the table's other chains
    owner: bool = False  # only one process may change the table
