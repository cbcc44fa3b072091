"""The orders in which things are made and released, side by side. Pure.

Made: what others stand on goes first, firewall objects before the process that they guard and
before the port of a container, which may run already; settings late. Released: a container's port
goes first, since nobody can hold it, and its container may run on; then firewall objects, so that
nothing is forwarded to a device that is about to go; then the process record, the device, the
bridge before its addresses, then what is only on record.
"""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.resource import FIREWALL_KINDS, Kind, Resource

# What is made before what; equal numbers go to their driver in one batch.
MADE: dict[str, int] = {
    Kind.FILE: 1,
    Kind.BRIDGE: 2,
    Kind.ADDRESS: 3,
    Kind.TAP: 4,
    Kind.NETNS: 5,  # before what is put into the namespace
    Kind.FILTER: 6,
    Kind.MASQUERADE: 6,
    Kind.PUBLISH: 6,
    Kind.VETH: 7,
    Kind.SYSCTL: 8,  # late: settings stay on, so whatever the host refuses comes before them
    Kind.PROCESS: 9,
    Kind.LEASE: 10,
}

RELEASED: dict[str, int] = {
    Kind.VETH: 0,
    Kind.PUBLISH: 1,
    Kind.MASQUERADE: 2,
    Kind.FILTER: 3,
    Kind.PROCESS: 4,
    Kind.TAP: 5,
    Kind.NETNS: 6,
    Kind.BRIDGE: 7,
    Kind.ADDRESS: 8,
    Kind.SYSCTL: 9,
    Kind.FILE: 10,
    Kind.LEASE: 11,
}


def creation_order(rows: Iterable[Resource]) -> list[Resource]:
    """Rows in the order in which they are made; nftables before iptables."""

    def key(row: Resource) -> tuple[int, bool]:
        return (MADE[Kind(row.kind)], _backend(row) != "nftables")

    return sorted(rows, key=key)


def release_order(rows: Iterable[Resource]) -> list[Resource]:
    """Rows in the order in which they are released."""

    def key(row: Resource) -> tuple[int, bool, str, int]:
        """A firewall's base after everything that stands in it; one backend after the other."""
        base = row.role == "base"
        kind = Kind.PUBLISH if row.kind in FIREWALL_KINDS else Kind(row.kind)
        return (RELEASED[kind], base, _backend(row), row.id)

    return sorted(rows, key=key)


def _backend(row: Resource) -> str:
    return row.backend if row.kind in FIREWALL_KINDS else ""
