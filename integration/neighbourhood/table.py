"""The table of what was seen: each cell is kept as it is run, and printed with all others' last one.

python -m integration.neighbourhood.table
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from integration.boot.image import TOP
from integration.neighbourhood.cell import ORDERS, Seen
from integration.neighbourhood.rows import NEIGHBOURS

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
    """A table in Markdown (pure)."""
    lines = [
        "| neighbour | order | flows of 15 at each step (→ after doctor's mend) | faults |",
        "| --- | --- | --- | --- |",
    ]
    for seen in cells:
        steps = ", ".join(f"{step} {flows}" for step, flows in seen.flows.items())
        lines.append(f"| {seen.row} | {seen.order} | {steps} | {len(seen.faults)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print it."""
    sys.stdout.write(written(kept()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
