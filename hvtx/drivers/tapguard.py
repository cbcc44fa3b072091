"""The filters on a TAP that hold its guest: to its addresses, and to what was checked of a frame.

The first holds also when all rules are flushed (:mod:`hvtx.host.portfilter`); by the second nobody
has the host write a checksum into what the rules saw (:mod:`hvtx.host.sumfilter`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hvtx.host import sums
from hvtx.host.links import Links
from hvtx.host.portfilter import port_program
from hvtx.model.resource import Resource


def guard(
    row: Resource, links: Links, program: int | None, spec: Mapping[str, Any] | None = None
) -> dict[str, bool]:
    """Put the filters on a device; which of them could be had: ``{"guarded", "summed"}``.

    ``program`` is of :func:`sums.program`; ``spec`` is what the guest is held to, where the row
    does not say. Raises OSError.
    """
    wanted = spec or row.spec.get("guard")
    if wanted is None:
        return {"guarded": False}
    index = row.spec["ifindex"]
    if wanted["apart"]:
        links.keep_apart(index)
    guarded = links.guard(index, port_program(wanted))
    return {"guarded": guarded, "summed": guarded and sums.put(index, program)}


def put_back(row: Resource, links: Links, spec: Mapping[str, Any]) -> None:
    """Put the filters on a device again, where they can be had. Raises OSError."""
    with sums.program() as program:
        guard(row, links, program, spec)


def missing(row: Resource, links: Links, spec: Mapping[str, Any] | None = None) -> str | None:
    """What is gone of the filters that a device should have, in words. Raises OSError.

    What could not be had at the start is missing once it can be.
    """
    wanted = spec or row.spec.get("guard")
    if wanted is None or row.observed.get("guarded") is False:  # this kernel has none
        return None
    if links.guarding(row.spec["ifindex"]) != port_program(wanted):
        return "its filter, which holds when rules are flushed, was gone or another"
    if not sums.there(row.spec["ifindex"]) and sums.can_be_had():
        return "its filter, which keeps guests from having the host write addresses, was gone"
    return None
