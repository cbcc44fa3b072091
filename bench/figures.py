"""What was measured, as values: samples, their spread, ratios of samples taken in turns, tables.

Nothing here measures or prints. A sample has a figure ("start, in process"), who was measured
("hvtx, nftables", "netavark", a commit), how many VMs were there, a unit and a value. Values of one
figure stand in the order of rounds, so the n-th of two that were measured in turns are a pair: the
ratio of a pair is what other work on the machine changes least.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

SCHEMA = "hvtx/bench/2"
MORE_IS_BETTER = frozenset({"VMs/s", "packets/s", "Gbit/s"})  # units; of others less is better


class Key(NamedTuple):
    """What a list of values is of."""

    figure: str
    who: str
    vms: int


class Spread(NamedTuple):
    """A list of values in short. ``low`` and ``high`` are quartiles."""

    median: float
    low: float
    high: float
    least: float
    most: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Median, quartiles, extremes. Raises ValueError of no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    low, high = (_quantile(ordered, share) for share in (0.25, 0.75))
    return Spread(statistics.median(ordered), low, high, ordered[0], ordered[-1], len(ordered))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = (len(ordered) - 1) * share
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def ratios(values: Sequence[float], of: Sequence[float]) -> Spread | None:
    """Spread of ``values[n] / of[n]``; None where there is no pair, or only pairs with a zero."""
    pairs = [a / b for a, b in zip(values, of, strict=False) if b]
    return spread(pairs) if pairs else None


class Samples:
    """Values by figure, who and number of VMs, in the order of first appearance."""

    def __init__(self) -> None:
        """Nothing is there yet."""
        self.values: dict[Key, list[float]] = {}
        self.units: dict[str, str] = {}

    def add(self, figure: str, who: str, vms: int, value: float, unit: str = "ms") -> None:
        """Keep one value. Raises ValueError if the figure has another unit."""
        if self.units.setdefault(figure, unit) != unit:
            raise ValueError(f"{figure}: {unit}, and before it was {self.units[figure]}")
        self.values.setdefault(Key(figure, who, vms), []).append(value)

    def of(self, figure: str, who: str, vms: int) -> list[float]:
        """The values of one key; empty if there are none."""
        return self.values.get(Key(figure, who, vms), [])

    def spread(self, figure: str, who: str, vms: int) -> Spread | None:
        """The spread of one key; None if there are no values."""
        found = self.of(figure, who, vms)
        return spread(found) if found else None

    def figures(self) -> list[str]:
        """Names of figures, in the order of first appearance."""
        return list(self.units)

    def whos(self, figure: str) -> list[str]:
        """Who has values of a figure."""
        return list(dict.fromkeys(key.who for key in self.values if key.figure == figure))

    def vms(self, figure: str | None = None) -> list[int]:
        """Numbers of VMs that a figure, or anything, was measured at."""
        return sorted({k.vms for k in self.values if figure is None or k.figure == figure})

    def forget(self) -> None:
        """Drop what a first round brought: it warmed caches."""
        self.values.clear()

    def document(self) -> list[dict[str, Any]]:
        """As JSON: all values, so that whatever is told of them can be told again."""
        return [
            {**key._asdict(), "unit": self.units[key.figure], "values": [round(v, 4) for v in all_]}
            for key, all_ in self.values.items()
        ]


def read(document: Iterable[dict[str, Any]]) -> Samples:
    """The samples of :meth:`Samples.document`."""
    found = Samples()
    for one in document:
        for value in one["values"]:
            found.add(one["figure"], one["who"], one["vms"], value, one["unit"])
    return found


# -- text ------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three digits that count, and thousands set apart."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def ratio_text(found: Spread | None) -> str:
    """``0.42 (0.40-0.45)``: the median of ratios and their quartiles."""
    if found is None:
        return "-"
    return f"{found.median:.2f} ({found.low:.2f}-{found.high:.2f})"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Columns for a terminal: the first to the left, others to the right."""
    every = [tuple(head), *(tuple(line) for line in lines)]
    widths = [max(len(line[n]) for line in every) for n in range(len(head))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in every
    )


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """The same as a table of Markdown."""
    rows = [head, ["---", *("---:" for _ in head[1:])], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
