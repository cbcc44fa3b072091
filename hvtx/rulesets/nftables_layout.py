"""What every command needs of our two nftables tables: their names, hooks and digests. Pure.

The tables themselves are those of :mod:`hvtx.rulesets.nftables_base`, which is loaded where one is
made or compared. What is said of them here is worked out there, 2 % of a start's instructions:
``tests/rulesets/test_nftables_layout.py`` does it, and says what is to stand here.
"""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.model.hook import Hook

BACKEND = "nftables"
FAMILIES = ("inet", "bridge")
PASSING = frozenset({("bridge", "seen6")})  # sets that packets fill: nothing in them is a row's

# What changes when the static part of a table does, with a version of hvtx or another.
LAYOUTS: Mapping[str, str] = {
    "inet": "73bcb1636181f67c3252",
    "bridge": "b07776c891c64527fbda",
}

# The names of their sets and maps, by family.
SETS: Mapping[str, tuple[str, ...]] = {
    "inet": (
        "bridges", "nat_bridges", "within", "guests4", "guests6", "masq4", "masq6", "flows4",
        "flows6", "flows_link", "dnat4_any", "dnat4_host", "dnat6_any", "dnat6_host", "bound",
        "uplinks", "snat4", "snat6", "vm_policies", "vm_input", "vm_deny4", "vm_deny4_ports",
        "vm_deny6", "vm_deny6_ports", "vm_allow4", "vm_allow4_ports", "vm_allow6",
        "vm_allow6_ports", "vm_named", "network_policies", "network_input", "network_deny4",
        "network_deny4_ports", "network_deny6", "network_deny6_ports", "network_allow4",
        "network_allow4_ports", "network_allow6", "network_allow6_ports", "network_named",
        "own_network", "refused_of",
    ),
    "bridge": (
        "ports", "apart", "only4", "macs", "lladdrs", "own4", "own6", "gateways6", "links6", "new6",
        "seen6",
    ),
}  # fmt: skip

# How our chains are called, by family and name; None: they are jumped to.
HOOKS: Mapping[tuple[str, str], Hook | None] = {
    ("inet", "raw"): Hook("filter", 0, -300),
    ("inet", "dnat4"): None,
    ("inet", "dnat6"): None,
    ("inet", "flows"): Hook("filter", 0, -150),
    ("inet", "prerouting"): Hook("nat", 0, -100),
    ("inet", "translated"): Hook("filter", 0, -90),
    ("inet", "output"): Hook("nat", 3, -100),
    ("inet", "postrouting"): Hook("nat", 4, 100),
    ("inet", "seen"): Hook("filter", 4, 1000),
    ("inet", "isolated"): None,
    ("inet", "between"): None,
    ("inet", "inward"): None,
    ("inet", "forward"): Hook("filter", 2, 0),
    ("inet", "leaving"): None,
    ("inet", "entering"): None,
    ("inet", "uplink"): Hook("filter", 2, -1),
    ("inet", "refuse"): None,
    ("inet", "vm_rules"): None,
    ("inet", "network_rules"): None,
    ("inet", "unreachable"): None,
    ("inet", "open"): None,
    ("inet", "source_routed"): None,
    ("inet", "options"): None,
    ("inet", "inside"): None,
    ("inet", "world"): None,
    ("inet", "elsewhere"): None,
    ("inet", "internet"): None,
    ("inet", "none"): None,
    ("inet", "by_network"): None,
    ("inet", "needed"): None,
    ("inet", "limited_input"): None,
    ("inet", "limited"): None,
    ("inet", "network_open"): None,
    ("inet", "network_internet"): None,
    ("inet", "network_none"): None,
    ("inet", "network_open_input"): None,
    ("inet", "network_limited_input"): None,
    ("inet", "vm_open"): None,
    ("inet", "vm_internet"): None,
    ("inet", "vm_none"): None,
    ("inet", "vm_more"): None,
    ("inet", "vm_open_input"): None,
    ("inet", "vm_limited_input"): None,
    ("inet", "vm_more_input"): None,
    ("inet", "unnamed"): Hook("filter", 2, -162),
    ("inet", "egress"): Hook("filter", 2, -160),
    ("inet", "decided"): None,
    ("inet", "input"): Hook("filter", 1, 0),
    ("bridge", "guard"): None,
    ("bridge", "untracked"): None,
    ("bridge", "guard_arp"): None,
    ("bridge", "guard_ip4"): None,
    ("bridge", "guard_igmp"): None,
    ("bridge", "guard_ip6"): None,
    ("bridge", "guard_icmp6"): None,
    ("bridge", "guard_solicit6"): None,
    ("bridge", "guard_router_solicit6"): None,
    ("bridge", "guard_ah6"): None,
    ("bridge", "guard_udp6"): None,
    ("bridge", "guard_source6"): None,
    ("bridge", "guard_advert"): None,
    ("bridge", "guard_nobody6"): None,
    ("bridge", "prerouting"): Hook("filter", 0, -300),
    ("bridge", "input"): Hook("filter", 1, -300),
    ("bridge", "forward"): Hook("filter", 2, -300),
    ("bridge", "output"): Hook("filter", 3, -300),
}


def table_name(installation: str) -> str:
    """The name of an installation's tables, in both families."""
    return f"hvtx-{installation}"
