"""Each reason of a plan has its words, and belongs to one action."""

from __future__ import annotations

import pytest

from hvtx.model.plan import DELETING, Action
from hvtx.model.reason import Reason
from hvtx.model.reasons import EXPLANATION, MEANING, action_of, explanation_of


def test_every_reason_says_when_it_is_given() -> None:
    assert set(MEANING) == set(Reason)
    assert all(MEANING.values())


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_deletes_only_if_it_is_one_that_deletes(reason: Reason) -> None:
    assert (action_of(reason) is Action.DELETE) is (reason in DELETING)


def test_what_is_gone_is_forgotten_and_what_is_in_use_is_committed() -> None:
    assert action_of(Reason.ALREADY_GONE) is action_of(Reason.REBOOTED) is Action.FORGET
    assert action_of(Reason.IN_USE_BEFORE_COMMIT) is Action.COMMIT
    for reason in (Reason.FOREIGN, Reason.VM_ALIVE, Reason.LIVENESS_UNKNOWN, Reason.UNRECORDED):
        assert action_of(reason) is Action.SKIP


def test_an_attachment_is_not_told_what_only_vms_can() -> None:
    """`vm stop` and `vm attach` are refused for one."""
    for reason in Reason:
        told = explanation_of(reason, "cni-x")
        assert "vm stop" not in told
        assert "vm attach" not in told
        assert explanation_of(reason) == EXPLANATION[reason]
    assert "`hvtx vm rm cni-x --force`" in explanation_of(Reason.VM_ALIVE, "cni-x")
