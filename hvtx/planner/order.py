"""The order in which things are released. Pure.

Firewall objects go first, so that nothing is forwarded to a device that is about to go; then the
process record, the device, the bridge before its addresses, then what is only on record.
"""

from __future__ import annotations

from hvtx.model.resource import FIREWALL_KINDS, Kind, Resource

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


def release_order(rows: list[Resource]) -> list[Resource]:
    """Rows in the order in which they are released."""

    def key(row: Resource) -> tuple[int, bool, str, int]:
        """A firewall's base after everything that stands in it; one backend after the other."""
        base = row.role == "base"
        firewall = row.kind in FIREWALL_KINDS
        backend = row.backend if firewall else ""
        kind = Kind.PUBLISH if firewall else Kind(row.kind)
        return (RELEASED[kind], base, backend, row.id)

    return sorted(rows, key=key)
