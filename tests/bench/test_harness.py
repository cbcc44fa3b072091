"""Turns, and what a run does with a worker that fails. No namespace is made here."""

from __future__ import annotations

import pytest

from bench.figures import Samples
from bench.harness import Failed, in_turns
from bench.measure import Run


def test_every_round_has_the_opposite_order_and_the_first_is_numbered_0() -> None:
    seen: list[tuple[str, int]] = []
    kept = in_turns(["a", "b"], 2, lambda who, number: seen.append((who, number)))
    assert kept == 2
    assert seen == [("b", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]


def test_no_round_begins_when_time_is_over_but_for_the_least() -> None:
    seen: list[int] = []
    kept = in_turns(["a"], 9, lambda _, number: seen.append(number), seconds=-1, least=3)
    assert (kept, seen) == (3, [0, 1, 2, 3])


def test_who_fails_is_left_out_and_named_and_the_others_go_on() -> None:
    run = Run()

    def measure(who: str, to: Samples) -> None:
        if who == "broken" and to is run.samples:
            raise Failed("broken: it does not answer")
        to.add("start", who, 0, 1.0)

    run.rounds(["broken", "whole"], 3, measure, 60)
    assert run.problems == ["broken: it does not answer"]
    assert run.samples.of("start", "whole", 0) == [1.0, 1.0, 1.0]
    assert run.samples.of("start", "broken", 0) == []


def test_another_error_ends_the_run() -> None:
    def measure(who: str, to: Samples) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Run().rounds(["a"], 1, measure, 60)
