"""By which device guests leave the host, and as whom: sets and chains of ``table inet``. Pure.

A network with an uplink is in ``bound``; the devices that its guests reach, its own bridge among
them, are in ``uplinks``. What is dropped is dropped before anything else is asked, established or
not: a flow that a route takes to another device, since the uplink went down, ends.

Answers to what came in by another device leave by it, as what a published port serves does; and
guests reach what other networks' guests publish, as that does not leave the host.
"""

from __future__ import annotations

from hvtx.model.hook import Chain

SETS = {
    "bound": "set|type ifname;",
    "uplinks": "set|type ifname . ifname;",
    "snat4": "map|type ipv4_addr : ipv4_addr;",
    "snat6": "map|type ipv6_addr : ipv6_addr;",
}
SOURCES = ("snat ip to ip saddr map @snat4", "snat ip6 to ip6 saddr map @snat6")
CHAINS = (
    Chain(
        "leaving",
        "",
        (
            "iifname . oifname @uplinks return",
            "ct direction reply return",
            "ct status dnat oifname @bridges return",
            "drop",
        ),
    ),
    Chain(
        "entering",
        "",
        (
            "oifname . iifname @uplinks return",
            "ct state established,related return",
            "ct status dnat return",
            "drop",
        ),
    ),
    Chain(
        "uplink",
        "type filter hook forward priority -1; policy accept;",
        ("iifname @bound goto leaving", "oifname @bound goto entering"),
    ),
)
