"""What is told of measured values: medians, quartiles, ratios of pairs, tables."""

from __future__ import annotations

import json

import pytest

from bench.figures import Key, Samples, markdown, number, ratio_text, ratios, read, spread, table


def test_spread_of_an_odd_and_an_even_count() -> None:
    assert spread([5, 1, 4, 2, 3]) == (3, 2, 4, 1, 5, 5)
    assert spread([4, 1, 3, 2]) == (2.5, 1.75, 3.25, 1, 4, 4)
    assert spread([7]) == (7, 7, 7, 7, 7, 1)


def test_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_a_ratio_is_of_pairs_and_not_of_medians() -> None:
    """The machine was busy in the second round: both took long, and the ratio does not see it."""
    before, after = [10.0, 100.0, 12.0], [5.0, 50.0, 6.0]
    found = ratios(after, before)
    assert found is not None
    assert (found.median, found.low, found.high, found.count) == (0.5, 0.5, 0.5, 3)
    assert ratios([1.0, 9.0, 9.0], [10.0, 9.0, 1.0]).median == 1.0  # type: ignore[union-attr]


def test_a_ratio_without_a_pair_is_none() -> None:
    assert ratios([], [1.0]) is None
    assert ratios([1.0], [0.0]) is None
    assert ratios([1.0, 4.0], [0.0, 2.0]).count == 1  # type: ignore[union-attr]


def test_samples_go_through_json_and_keep_their_order() -> None:
    samples = Samples()
    for value in (3.0, 1.0, 2.0):
        samples.add("start", "now", 1000, value)
    samples.add("made", "now", 5000, 700.0, "VMs/s")
    again = read(json.loads(json.dumps(samples.document())))
    assert again.values == samples.values
    assert again.units == {"start": "ms", "made": "VMs/s"}
    assert list(again.values) == [Key("start", "now", 1000), Key("made", "now", 5000)]
    assert (again.vms("start"), again.vms(), again.whos("made")) == ([1000], [1000, 5000], ["now"])
    assert again.of("start", "before", 1000) == []
    assert again.spread("start", "before", 1000) is None


def test_a_figure_has_one_unit() -> None:
    samples = Samples()
    samples.add("start", "now", 0, 1.0)
    with pytest.raises(ValueError, match="start: MiB, and before it was ms"):
        samples.add("start", "now", 0, 1.0, "MiB")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.123, "0.12"),
        (9.994, "9.99"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text


def test_tables() -> None:
    assert table(("figure", "ms"), [("start", "1.0"), ("a", "10.0")]) == (
        "figure    ms\nstart    1.0\na       10.0"
    )
    assert markdown(("figure", "ms"), [("start", "1.0")]) == (
        "| figure | ms |\n| --- | ---: |\n| start | 1.0 |"
    )
    assert ratio_text(None) == "-"
    assert ratio_text(spread([0.5, 0.4, 0.6])) == "0.50 (0.45-0.55)"
