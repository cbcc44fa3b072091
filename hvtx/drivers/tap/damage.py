"""What is gone of the filters on a TAP (:mod:`filters`): for `doctor` and `repair`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hvtx.host import tapseen
from hvtx.host.links import Links
from hvtx.model.resource import Resource, device_observed
from hvtx.rulesets.port_filter import port_program


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
