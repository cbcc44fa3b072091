"""The orders in which things are made and released, side by side. Pure.

Made: what others stand on goes first, firewall objects before the process that they guard, settings
late. Released: firewall objects go first, so that nothing is forwarded to a device that is about to
go; then the process record, the device, the bridge before its addresses, then what is only on
record.
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
    Kind.FILTER: 5,
    Kind.MASQUERADE: 5,
    Kind.PUBLISH: 5,
    Kind.SYSCTL: 6,  # late: settings stay on, so whatever the host refuses comes before them
    Kind.PROCESS: 7,
    Kind.LEASE: 8,
}

RELEASED: dict[str, int] = {
    Kind.PUBLISH: 0,
    Kind.MASQUERADE: 1,
    Kind.FILTER: 2,
    Kind.PROCESS: 3,
    Kind.TAP: 4,
    Kind.BRIDGE: 5,
    Kind.ADDRESS: 6,
    Kind.SYSCTL: 7,
    Kind.FILE: 8,
    Kind.LEASE: 9,
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
