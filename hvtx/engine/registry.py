"""Which driver makes what, and where its module is."""

from __future__ import annotations

from hvtx.model.resource import FIREWALL_KINDS, Resource

DRIVERS = {
    "tap": "hvtx.drivers.tap:TapDriver",
    "bridge": "hvtx.drivers.bridge:BridgeDriver",
    "address": "hvtx.drivers.address:AddressDriver",
    "sysctl": "hvtx.drivers.sysctl:SysctlDriver",
    "file": "hvtx.drivers.file:FileDriver",
    "nftables": "hvtx.drivers.nftables:NftablesDriver",
    "iptables": "hvtx.drivers.iptables:IptablesDriver",
}
FIREWALLS = ("nftables", "iptables")


def driver_name(row: Resource) -> str:
    """Which driver a row belongs to; empty for rows without an object of their own."""
    if row.kind in FIREWALL_KINDS:
        return str(row.spec["backend"])
    return row.kind if row.kind in DRIVERS else ""
