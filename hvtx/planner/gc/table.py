"""A decision table: an ordered list of rules, of which the first that fits a case decides.

A rule names the fields of a case that matter to it, each with the values that it takes; fields
that are not named are free. A case is a value, so each distinct one is decided once (a plan of
30,000 rows has few of them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from hvtx.model.plan import Action
from hvtx.model.reason import Reason
from hvtx.model.typed import Any, NamedTuple
from hvtx.planner.gc.wording import Words


class Rule(NamedTuple):
    """What is decided where a pattern fits, and what is said of it."""

    pattern: tuple[tuple[str, tuple[Any, ...]], ...]
    action: Action
    reason: Reason
    words: Words

    def fits(self, case: Any) -> bool:
        """Whether every field that the pattern names has one of its values."""
        return all(getattr(case, field) in values for field, values in self.pattern)


def rule(action: Action, reason: Reason, words: Words, **pattern: Any) -> Rule:
    """A rule; a field's values are one value, or a tuple of them."""
    named = tuple((k, v if type(v) is tuple else (v,)) for k, v in pattern.items())
    return Rule(named, action, reason, words)


def decider(rules: Sequence[Rule]) -> Callable[[Any], Rule]:
    """The function that finds the first rule that fits a case, remembering each answer.

    It raises LookupError for a case that no rule fits: a table is whole, or wrong.
    """

    @cache
    def decide(case: Any) -> Rule:
        for each in rules:
            if each.fits(case):
                return each
        raise LookupError(f"no rule for {case}")

    return decide
