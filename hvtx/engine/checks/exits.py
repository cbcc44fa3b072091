"""The check of what networks leave the host by."""

from __future__ import annotations

from collections.abc import Iterator

from hvtx.engine import exits
from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime
from hvtx.store import records


def check_exits(runtime: Runtime) -> Iterator[Finding]:
    """Whether uplinks and source addresses of networks are there."""
    networks = runtime.read(records.networks)
    found = exits.gone(networks)
    for network, words, fix in found:
        yield Finding("uplinks", "error", f"network {network.name!r}: {words}", (), fix)
    if not found:
        yield Finding("uplinks", "ok", "what networks leave the host by is there")
