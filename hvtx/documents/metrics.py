"""``hvtx/metrics/1``: `metrics --json`."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.metrics import Gauge


def document(gauges: Iterable[Gauge]) -> dict[str, Any]:
    """Every number with its labels."""
    return {
        "schema": "hvtx/metrics/1",
        "metrics": [
            {
                "name": gauge.name,
                "help": gauge.help,
                "values": [
                    {"labels": dict(zip(gauge.labels, labels, strict=True)), "value": value}
                    for labels, value in gauge.values.items()
                ],
            }
            for gauge in gauges
        ],
    }
