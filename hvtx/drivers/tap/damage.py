"""What is gone of the filters on a TAP (:mod:`filters`): for `doctor` and `repair`."""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.drivers.tap.filters import SIDES, rates
from hvtx.host import rate_filter, tap_filter_check
from hvtx.host.links import Links
from hvtx.model.resource import Resource, device_observed, tap_spec
from hvtx.model.typed import Any
from hvtx.rulesets.port_filter import port_program


def missing(row: Resource, links: Links, spec: Mapping[str, Any]) -> str | None:
    """What is gone of the filters of a device that has to hold to ``spec``, in words. OSError.

    What could not be had at the start is missing once it can be.
    """
    if device_observed(row).get("guarded") is False:  # this kernel has none
        return None
    if links.guarding(row.ifindex) != port_program(spec):
        return "its address filter (which works without nft rules) was missing or replaced"
    if not tap_filter_check.summed(row.ifindex) and tap_filter_check.can_be_had():
        return (
            "its checksum filter (no host writes into checked parts of a frame) was "
            "missing or replaced"
        )
    return unlimited(row)


def unlimited(row: Resource) -> str | None:
    """How a device is not held to the limits of its row, in words. OSError."""
    wanted = rates(tap_spec(row).get("limit", {}))
    for side in SIDES:
        name = rate_filter.name_of(wanted[side]) if side in wanted else None
        if rate_filter.seen(row.ifindex, side) != name:
            where = "into" if side == "in" else "out of"
            return f"the limit of what goes {where} its guest was missing or another"
    return None
