"""What guests may reach, in ``table inet hvtx-I``: sets, maps and chains of egress policies. Pure.

A guest whose VM has a policy of its own is found in ``vm_policies`` by its bridge and its MAC
address, which the bridge family holds it to; any other by its bridge in ``network_policies``. What
either leads to is a static chain, so a new flow costs the same with one policy and with thousands,
and a packet of a known flow is let through before.

Facts that shaped the rules:

- The chain stands before ``mangle FORWARD`` (-150), where the iptables backend drops: what an
  ``--allow`` lets through is marked (0x20000000) for the drops that come later, in this table and
  there. The mark is taken off again after all.
- The bridges of iptables networks are known to that backend alone: these are no elements here, and
  may have addresses of the world. So what passes because it leads to the world, and what somebody
  translated and would be refused by where it leads, is marked (0x08000000) and decided once
  mangle FORWARD has been asked: there what leads to a guest by a published port loses the mark,
  and what leads to a guest and carries it is dropped. What is translated and carries it at 0
  leads to nobody's guest, and is refused.
- Others use these two bits for purposes of their own. So both are taken off before, of packets of
  no known flow that come in or leave by a bridge: guests' all do, by ours. Which bridges are ours
  the table does not know of all; but nothing else of others' is changed, from card to tunnel or
  to a container's own link.
- What a name opens is marked before (:mod:`hvtx.rulesets.egress_names`): 0x40000000 if a VM's own
  policy has the name, 0x80000000 if its network's has, so that each is heeded behind the denials of
  the same policy. Both are heeded only of who has a rule about a name, and what others have set of
  them is taken off these packets first, here, where it holds without the network's table.
- A rule that reads a port does not match what is too short to have one, or has none: denials and
  accepts of a whole address have sets of their own, which look at the address alone.
- Conntrack puts fragments together before (nf_defrag_ipv4, nf_defrag_ipv6), so a port is always
  that of the whole packet; and ``th`` of IPv6 is what comes after the extension headers.
- The key of a set with ranges (pipapo) must not lie within two elements: an owner's rules are made
  into boxes that do not overlap (:mod:`hvtx.planner.egress_boxes`).
- A link-local source of IPv6 says nothing about who sends: so the MAC address is asked, not the IP.

What is not the world: RFC 6890 and IANA's two registries of special-purpose addresses; of IPv6
everything outside of 2000::/3, which IANA has given to nobody or to something else, and with
2001::/23 and 2002::/16 the tunnels that lead back into IPv4 (Teredo, 6to4). The metadata services
of clouds: 169.254.169.254 nearly everywhere; fd00:ec2::254 and ::23 (AWS: EC2 user guide, EKS Pod
Identity), fd20:ce::254 (Google), fd00:c1::a9fe:a9fe (Oracle), fd00:42::42 (Scaleway);
100.100.100.200 (Alibaba) and 168.63.129.16 (Azure's platform, with an address of the world).
"""

from __future__ import annotations

from collections.abc import Iterator

from hvtx.model.hook import Chain

ALLOWED = "meta mark & 0x20000000 == 0x20000000"
NOT_ALLOWED = f"{ALLOWED} meta mark set meta mark & 0xdfffffff"
_ALLOW = "meta mark set meta mark | 0x20000000 accept"
# let through where it leads to the world, or to a guest by a published port: docs above
UNDECIDED = "0x08000000"
IS_UNDECIDED = f"meta mark & {UNDECIDED} == {UNDECIDED}"
_UNDECIDED = f"meta mark set meta mark | {UNDECIDED}"
_DECIDED = "meta mark set meta mark & 0xf7ffffff"
# a device that is not made, such as a card, has no kind, and `!=` would be wrong of it as well
COMES_BY_A_BRIDGE, _LEAVES_BY_A_BRIDGE = 'meta iifkind "bridge"', 'meta oifkind "bridge"'
_UNKNOWN, _NOT_OURS = "ct state new,invalid,untracked", "meta mark set meta mark & 0xd7ffffff"
# by a rule about a name of such an owner, before: rulesets/egress_names.py
NAMED = {"vm": "0x40000000", "network": "0x80000000"}
_ANY_OF_THESE, _NOT_NAMED = "0xe8000000", "0x3fffffff"

LINK_LOCAL4 = "169.254.0.0/16"
METADATA6 = ("fd00:ec2::/32", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42")
METADATA4 = ("100.100.100.200",)
NOT_THE_WORLD4 = (
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", LINK_LOCAL4,
    "168.63.129.16", "0.0.0.0/8", "127.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24",
    "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
)  # fmt: skip
THE_WORLD6 = "2000::/3"
NOT_THE_WORLD6 = ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")

# Whose rules: a VM's by bridge and MAC address, a network's by its bridge.
OWNERS = {
    "vm": ("ifname . ether_addr", "iifname . ether saddr"),
    "network": ("ifname", "iifname"),
}
_VM, _NETWORK = (key for _, key in OWNERS.values())


def _sets() -> Iterator[tuple[str, str]]:
    for owner, (kind, _) in OWNERS.items():
        for name in (f"{owner}_policies", f"{owner}_input"):
            yield name, f"map|type {kind} : verdict;"
        for action in ("deny", "allow"):
            for family in (4, 6):
                to = f"{kind} . ipv{family}_addr"
                yield f"{owner}_{action}{family}", f"set|type {to}; flags interval;"
                yield (
                    f"{owner}_{action}{family}_ports",
                    f"set|type {to} . inet_proto . inet_service; flags interval;",
                )
        yield f"{owner}_named", f"set|type {kind};"
    yield "own_network", "set|type ifname . ether_addr . ifname;"
    yield "refused_of", f"set|type {OWNERS['vm'][0]}; counter;"


SETS = dict(_sets())
COUNTED = frozenset({"refused_of"})  # sets whose elements count for themselves


def _rules(owner: str) -> Chain:
    """An owner's denials, then what it allows: addresses, then names."""
    key, found = OWNERS[owner][1], []
    for action, verdict in (("deny", "goto refuse"), ("allow", _ALLOW)):
        for family, to in ((4, "ip daddr"), (6, "ip6 daddr")):
            name = f"{owner}_{action}{family}"
            found.append(f"{key} . {to} @{name} {verdict}")
            found.append(f"{key} . {to} . meta l4proto . th dport @{name}_ports {verdict}")
    named = f"oifname != @bridges meta mark & {NAMED[owner]} == {NAMED[owner]}"
    # not marked as allowed: the drops that come later are of neighbours' networks
    found.append(f"{key} @{owner}_named {named} goto world")
    return Chain(f"{owner}_rules", "", tuple(found))


# What a host and its guests need of each other, whatever is denied.
_NEEDED = Chain(
    "needed",
    "",
    (
        "udp dport 67 accept",
        "udp dport 547 accept",
        "icmpv6 type nd-router-solicit accept",
        "icmpv6 type nd-neighbor-solicit accept",
        "icmpv6 type nd-neighbor-advert accept",
        "icmpv6 type mld-listener-report accept",
        "icmpv6 type mld-listener-done accept",
        "icmpv6 type mld2-listener-report accept",
    ),
)

_LIMITED_INPUT = Chain(
    "limited_input",
    "",
    (
        "icmp type echo-request accept",
        "icmpv6 type echo-request accept",
        # an address of the bridge itself, not another of the host's
        "fib daddr . iif type local udp dport 53 accept",
        "fib daddr . iif type local tcp dport 53 accept",
        "goto refuse",
    ),
)


def _with_rules(owner: str, jumps: dict[str, str]) -> Iterator[Chain]:
    for mode, target in jumps.items():
        yield Chain(f"{owner}_{mode}", "", (f"jump {owner}_rules", f"goto {target}"))
    for mode in ("open", "limited"):
        inside = ("goto limited_input",) if mode == "limited" else ()
        yield Chain(f"{owner}_{mode}_input", "", ("jump needed", f"jump {owner}_rules", *inside))


CHAINS = (
    Chain(
        "refuse",
        "",
        (f"{_VM} @refused_of drop", "drop"),
    ),
    _rules("vm"),
    _rules("network"),
    # never forwarded, but where a policy allows it
    Chain(
        "unreachable",
        "",
        (
            *(f"ip daddr {to} goto refuse" for to in (LINK_LOCAL4, *METADATA4)),
            *(f"ip6 daddr {to} goto refuse" for to in METADATA6),
        ),
    ),
    Chain("open", "", ("jump unreachable",)),
    # It would be led on after all rules were asked, by what its options or headers say.
    Chain("source_routed", "", (f"{_VM} @refused_of drop", "iifname @bridges drop")),
    Chain(
        "options",
        "",
        (
            "ip option lsrr exists jump source_routed",
            "ip option ssrr exists jump source_routed",
        ),
    ),
    # An iptables network's own bridge is known by its guest.
    Chain("inside", "", (f"{_VM} . oifname @own_network accept",)),
    Chain("world", "", ("ct status dnat accept", f"{_UNDECIDED} accept")),
    Chain("elsewhere", "", (f"ct status dnat {_UNDECIDED} accept", "goto refuse")),
    Chain(
        "internet",
        "",
        (
            "jump inside",
            "oifname @bridges goto refuse",
            *(f"ip daddr {to} goto elsewhere" for to in NOT_THE_WORLD4),
            f"ip6 daddr != {THE_WORLD6} goto elsewhere",
            *(f"ip6 daddr {to} goto elsewhere" for to in NOT_THE_WORLD6),
            "goto world",
        ),
    ),
    Chain("none", "", ("jump inside", "goto elsewhere")),
    Chain("by_network", "", (f"{_NETWORK} vmap @network_policies", "goto open")),
    _NEEDED,
    _LIMITED_INPUT,
    Chain("limited", "", ("jump needed", "goto limited_input")),
    *_with_rules("network", {"open": "open", "internet": "internet", "none": "none"}),
    *_with_rules(
        "vm", {"open": "open", "internet": "internet", "none": "none", "more": "by_network"}
    ),
    Chain(
        "vm_more_input",
        "",
        ("jump needed", "jump vm_rules", f"{_NETWORK} vmap @network_input"),
    ),
    Chain(
        "unnamed",  # whoever set these bits for purposes of his own has allowed nothing
        "type filter hook forward priority -162; policy accept;",
        (
            f"meta mark & {_ANY_OF_THESE} == 0 accept",
            f"{_UNKNOWN} {COMES_BY_A_BRIDGE} {_NOT_OURS}",
            f"{_UNKNOWN} {_LEAVES_BY_A_BRIDGE} {_NOT_OURS}",
            f"{_VM} @vm_named meta mark set meta mark & {_NOT_NAMED} accept",
            f"{_NETWORK} @network_named meta mark set meta mark & {_NOT_NAMED}",
        ),
    ),
    Chain(
        "egress",
        "type filter hook forward priority -160; policy accept;",
        (
            "ip hdrlength != 5 jump options",
            "ct state established,related accept",
            "ct status dnat oifname @bridges accept",  # published ports, of an isolated network too
            "iifname . oifname vmap @within",  # guests of one network: it says whether apart
            f"{_VM} vmap @vm_policies",
            f"{_NETWORK} vmap @network_policies",
            "iifname @bridges goto open",
        ),
    ),
    Chain("decided", "", ("ct status dnat goto refuse", _DECIDED)),
    Chain(
        "input",
        "type filter hook input priority 0; policy accept;",
        (
            "exthdr rt exists jump source_routed",
            "ct state established,related accept",
            f"{_VM} vmap @vm_input",
            f"{_NETWORK} vmap @network_input",
        ),
    ),
)
