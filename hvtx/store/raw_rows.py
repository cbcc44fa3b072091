"""Rows as they stand in the table, and what their texts hold: many are read as one."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.model.resource import RawResource, Resource
from hvtx.model.typed import Any
from hvtx.store.codec import decode_all


def decoded(rows: Sequence[RawResource]) -> list[Resource]:
    """Rows with what their texts hold."""
    specs, observed = specs_of(rows), observed_of(rows)
    return [
        Resource._make((*row[:5], spec, seen, *row[7:]))
        for row, spec, seen in zip(rows, specs, observed, strict=True)
    ]


def specs_of(rows: Sequence[RawResource]) -> list[dict[str, Any]]:
    """What their ``spec`` holds, without the rows."""
    return decode_all([row[5] for row in rows])


def observed_of(rows: Sequence[RawResource]) -> list[dict[str, Any]]:
    """What their ``observed`` holds, without the rows."""
    return decode_all([row[6] for row in rows])
