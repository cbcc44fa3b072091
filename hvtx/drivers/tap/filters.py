"""The filters on a TAP: the guest's own addresses, checksum offload, and limits.

The first holds also when all rules are flushed (:mod:`hvtx.rulesets.port_filter`); by the second
nobody has the host write a checksum into what the rules saw (:mod:`hvtx.host.checksum_program`).
Where its VM has a limit there is one more for each direction (:mod:`hvtx.host.rate_program`).
"""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.host import checksum_filter, new_ports
from hvtx.host.links import Links
from hvtx.host.new_ports import Given, NewPort
from hvtx.model.resource import Resource, tap_spec
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.rulesets.port_shape import program_of

if TYPE_CHECKING:
    from hvtx.host.rate_program import Rate

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
    given = new_ports.guard(
        links, row.ifindex, program_of(wanted), loaded, apart=bool(wanted["apart"])
    )
    if tap_spec(row).get("limit"):  # the last, as where a device is made: the kernel asks it first
        limit(row)
    return given._asdict()


def put_back(links: Links, row: Resource, *, master: int, spec: Mapping[str, Any] | None) -> None:
    """Give a device under its own name what others changed of it: its filters before its bridge.

    Whoever is behind it may send at any moment, also where this process ends. ``master`` is the
    index of its bridge, ``spec`` what its guest is held to. Raises OSError, HostRefused,
    NotPermitted.
    """
    index, own = row.ifindex, tap_spec(row)
    if spec is not None:
        with program() as loaded:
            new_ports.guard(links, index, program_of(spec), loaded)
        limit(row)
    links.change(index, master=master, mac=own["mac"], mtu=own["mtu"], hairpin=True)
    if spec is not None and spec["apart"]:  # of a port of a bridge alone
        links.set_apart(index)
    links.change(index, up=True)


def new_port(row: Resource, loaded: int | None) -> NewPort:
    """What the device of a row is given when it is made, its filters included (pure)."""
    spec = tap_spec(row)
    wanted = spec.get("guard")
    return NewPort(
        row.ifindex,
        row.mark,
        spec["master"],
        spec["mac"],
        spec["mtu"],
        apart=wanted is not None and bool(wanted["apart"]),
        program=None if wanted is None else program_of(wanted),
        sums=loaded,
    )


def told(port: NewPort, given: Given) -> dict[str, bool]:
    """The same words as :func:`guard` has of it (pure)."""
    return {"guarded": False} if port.program is None else given._asdict()


SIDES = ("in", "out")  # into the guest, and out of it


def rates(limit: Mapping[str, int]) -> dict[str, Rate]:
    """The limits of a device by their direction, where there are any (pure)."""
    from hvtx.host.rate_program import Rate

    found = {side: Rate(limit.get(side), limit.get(f"{side}-packets")) for side in SIDES}
    return {side: rate for side, rate in found.items() if any(rate)}


def limit(row: Resource) -> None:
    """Hold a device to the limits of its row, and to no others.

    Each direction is held to the old limit, or to the new one, all along. Raises OSError,
    HostRefused, NotPermitted.
    """
    from hvtx.host import rate_filter  # most devices have no limit

    wanted = rates(tap_spec(row).get("limit", {}))
    for side in SIDES:
        if side in wanted:
            if rate_filter.seen(row.ifindex, side) != rate_filter.name_of(wanted[side]):
                rate_filter.put(row.ifindex, side, wanted[side])
        else:
            rate_filter.take(row.ifindex, side)
