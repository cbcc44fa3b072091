"""Rows by their VMs, and a look at the processes that they name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hvtx.host import procfs
from hvtx.model.resource import Kind, Resource
from hvtx.planner.states import identity_of


def rows_by_vm(rows: Sequence[Resource]) -> dict[str, list[Resource]]:
    """The rows of each VM (by id), in their order; those of no VM are left out (pure)."""
    found: dict[str, list[Resource]] = {}
    for row in rows:
        if row.vm:
            found.setdefault(row.vm, []).append(row)
    return found


def process_facts(rows: list[Resource]) -> dict[int, Any]:
    """Look at every process that the rows name, by row."""
    facts = {}
    for row in rows:
        if row.kind == Kind.PROCESS:
            identity = identity_of(row)
            if identity is not None:
                facts[row.id] = procfs.look_again(identity)
    return facts
