"""The filters on a TAP: the guest's own addresses, and checksum offload.

The first holds also when all rules are flushed (:mod:`hvtx.rulesets.port_filter`); by the second
nobody has the host write a checksum into what the rules saw (:mod:`hvtx.host.checksum_program`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hvtx.host import checksum_filter
from hvtx.host.links import Links
from hvtx.model.resource import Resource, tap_spec
from hvtx.rulesets.port_filter import port_program

program = checksum_filter.program


def guard(
    loaded: int | None, row: Resource, links: Links, spec: Mapping[str, Any] | None = None
) -> dict[str, bool]:
    """Put the filters on a device; which of them could be had: ``{"guarded", "summed"}``.

    ``loaded`` is of :func:`program`; ``spec`` is what the guest is held to, where the row
    does not say. Raises OSError.
    """
    wanted = spec or tap_spec(row).get("guard")
    if wanted is None:
        return {"guarded": False}
    index = row.ifindex
    if wanted["apart"]:
        links.keep_apart(index)
    guarded = links.guard(index, port_program(wanted))
    return {"guarded": guarded, "summed": guarded and checksum_filter.put(index, loaded)}
