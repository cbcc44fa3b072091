"""The filters on a TAP that hold its guest: to its addresses, and to what was checked of a frame.

The first holds also when all rules are flushed (:mod:`hvtx.rulesets.port_filter`); by the second
nobody has the host write a checksum into what the rules saw (:mod:`hvtx.host.sumfilter`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hvtx.host import sums, tapseen
from hvtx.host.links import Links
from hvtx.model.resource import Resource, device_observed, tap_spec
from hvtx.rulesets.port_filter import port_program

program = sums.program


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
    return {"guarded": guarded, "summed": guarded and sums.put(index, loaded)}


def missing(row: Resource, links: Links, spec: Mapping[str, Any]) -> str | None:
    """What is gone of the filters of a device that has to hold to ``spec``, in words. OSError.

    What could not be had at the start is missing once it can be.
    """
    if device_observed(row).get("guarded") is False:  # this kernel has none
        return None
    if links.guarding(row.ifindex) != port_program(spec):
        return "its filter, which holds when rules are flushed, was gone or another"
    if not tapseen.summed(row.ifindex) and tapseen.can_be_had():
        return "its filter, which keeps the host from writing into frames, was gone or another"
    return None
