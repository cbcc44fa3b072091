"""Puts back the dnsmasq of a network that ended since, for `integration.lab.checkpoint`."""

from __future__ import annotations

import copy
import json
import os
from contextlib import suppress
from typing import Any

from hvtx.drivers.base import Host
from hvtx.drivers.dnsmasq import DnsmasqDriver
from hvtx.model.resource import Resource
from integration.lab.crash_state import Raw, identity, lives

Told = tuple[str, tuple[Any, ...]]


def is_service(row: dict[str, Any]) -> bool:
    """Whether a row as the store has it is a network's dnsmasq."""
    return row["kind"] == "process" and row["vm"] is None and row["network"] is not None


def lost(raw: Raw) -> list[dict[str, Any]]:
    """Rows of services that lived in a state and do not live now."""
    return [
        row
        for row in raw.rows["resource"]
        if is_service(row) and (who := identity(row)) in raw.alive and who and not lives(*who)
    ]


def served_again(raw: Raw, row: dict[str, Any]) -> tuple[Told, Raw]:
    """Start one that was lost, whose files stand again; a statement for the store, and the state."""
    resource = Resource(**{name: row[name] for name in Resource._fields})
    places = [os.environ[name] for name in ("HVTX_RUN_DIR", "HVTX_STATE_DIR")]
    driver = DnsmasqDriver(Host("", *places, 10.0))
    seen = {**row["observed"], **driver.create([resource._replace(observed={})])[row["id"]]}
    driver.open([resource])
    rows = copy.deepcopy(raw.rows)
    next(own for own in rows["resource"] if own["id"] == row["id"])["observed"] = seen
    alive = list(raw.alive)
    with suppress(ValueError):
        alive.remove(identity(row))  # type: ignore[arg-type]
    alive = sorted([*alive, (seen["pid"], seen["start"])])
    told = ("UPDATE resource SET observed = ? WHERE id = ?", (json.dumps(seen), row["id"]))
    return told, raw._replace(rows=rows, alive=alive)
