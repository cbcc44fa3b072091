"""What is not said is no policy and no limit."""

from __future__ import annotations

from hvtx.model.policy import EGRESS, NO_LIMITS, NO_POLICY, EgressRule


def test_nothing_said_is_the_default() -> None:
    """No mode of its own, no rules, no limits; a rule without ports is of every protocol."""
    assert NO_POLICY == (None, ())
    assert not any(NO_LIMITS)
    assert EgressRule("deny", "192.0.2.0/24")[2:] == (None, None, None)


def test_the_modes_are_those_of_the_interface() -> None:
    """From the widest to the narrowest."""
    assert EGRESS == ("open", "internet", "none")
