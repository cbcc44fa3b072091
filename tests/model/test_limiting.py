"""What `--limit` takes, and how a limit is shown."""

from __future__ import annotations

import pytest

from hvtx.errors import UsageError
from hvtx.model.limiting import parse_limit, told, words
from hvtx.model.policy import NO_LIMITS, Limits


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("in=100mbit,out=10mbit", Limits(100_000_000, 10_000_000)),
        ("out=10mbit", Limits(None, 10_000_000)),
        ("in=1.5mbit", Limits(1_500_000)),
        ("in=64000", Limits(64_000)),
        ("in=64000bit", Limits(64_000)),
        ("in=1Gbit", Limits(10**9)),
        ("in=1tbit", Limits(10**12)),
        ("in-packets=20000,out-packets=1", Limits(None, None, 20_000, 1)),
        ("out-packets=5,in=1kbit", Limits(1000, None, None, 5)),
        ("none", NO_LIMITS),
    ],
)
def test_limits_that_are_taken(text: str, limits: Limits) -> None:
    assert parse_limit(text) == limits


@pytest.mark.parametrize(
    "text",
    [
        "", "in", "in=", "=1mbit", "in=0", "in=0mbit", "in=-1mbit", "in=1mbyte", "in=1 mbit",
        "in=mbit", "in=1mbit,", ",in=1mbit", "in=1mbit,in=2mbit", "up=1mbit", "in=1e6", "in=1.5bit",
        "in=999", "in=2tbit", "in=٣mbit", "in-packets=0", "in-packets=1.5", "in-packets=1k",
        "out-packets=", "out-packets=1000000001", "none,in=1mbit", "in=none", "in=1mbit;out=1mbit",
        "IN=1mbit", "in==1mbit", "in=" + "9" * 400,
    ],
)  # fmt: skip
def test_limits_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_limit(text)
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["in=100mbit,out=10mbit", "in=1500kbit", "out=1234bit,in-packets=7", "none", "in=1000gbit"],
)
def test_words_are_what_could_be_written(text: str) -> None:
    limits = parse_limit(text)
    assert parse_limit(words(limits)) == limits


def test_told_by_the_names_of_the_option() -> None:
    assert told(Limits(1000, None, None, 3)) == {"in": 1000, "out-packets": 3}
    assert told(NO_LIMITS) == {}
