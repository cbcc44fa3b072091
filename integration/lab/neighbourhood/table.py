"""The table of what was seen: each cell is kept as it is run, and printed with all others' last one.

python -m integration.lab.neighbourhood.table
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from integration.lab.boot.image import TOP
from integration.lab.neighbourhood.cell import ORDERS, Seen
from integration.lab.neighbourhood.rows import NEIGHBOURS

PLACE = TOP / ".cache" / "neighbourhood"


def keep(seen: Seen) -> None:
    """Write down what a cell gave."""
    PLACE.mkdir(parents=True, exist_ok=True)
    name = f"{seen.row}-{seen.order.replace(' ', '-')}.json"
    (PLACE / name).write_text(json.dumps(seen._asdict(), indent=1))


def kept() -> list[Seen]:
    """What was written down, in the order of the rows."""
    found = []
    for row in NEIGHBOURS:
        for order in ORDERS:
            path = PLACE / f"{row}-{order.replace(' ', '-')}.json"
            if path.exists():
                found.append(Seen(**json.loads(path.read_text())))
    return found


def written(cells: Iterable[Seen]) -> str:
    """A table in Markdown (pure): a line for each neighbour, a column for each order."""
    lines = ["| neighbour | version | neighbour first | hvtx first |", "| --- | --- | --- | --- |"]
    rows: dict[str, dict[str, Seen]] = {}
    for seen in cells:
        rows.setdefault(seen.row, {})[seen.order] = seen
    for name, orders in rows.items():
        version = next(iter(orders.values())).version or "–"
        columns = [_column(orders[order]) if order in orders else "–" for order in ORDERS]
        lines.append(f"| {name} | {version} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _column(seen: Seen) -> str:
    """The steps of a cell, those with the same figures together."""
    steps: dict[str, list[str]] = {}
    for step, passed in seen.flows.items():
        steps.setdefault(passed, []).append(step)
    words = "; ".join(f"{', '.join(names)}: {passed}" for passed, names in steps.items())
    return f"{words} (**{len(seen.faults)} faults**)" if seen.faults else words


def main() -> int:
    """Print it."""
    sys.stdout.write(written(kept()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
