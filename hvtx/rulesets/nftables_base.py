"""The text of hvtx's two nftables tables: :mod:`nftables_elements` fills them. All pure.

What every command needs of them is in :mod:`nftables_layout`, so that only who makes or compares
one loads this.

``table inet hvtx-I`` translates addresses and filters what is routed, ``table bridge hvtx-I``
holds guests to their own addresses. Chains and rules are static; what belongs to a VM or a network
is an element of a set or map that a rule looks up, so a packet costs the same with one VM or with
thousands. Each rule carries the base row's mark, so that copies of it can be told.

Facts that shaped the rules:

- The bridge of a frame (``meta ibrname``) needs CONFIG_NFT_BRIDGE_META, which not every kernel
  has. A frame to the host is known by ``pkttype host`` instead: br_handle_frame sets it before
  the prerouting hook for the bridge's own MAC address (net/bridge/br_input.c).
- With bridge-nf-call-iptables=1 a frame from guest to host that is translated to a guest in the
  same bridge never becomes a routed packet: it is bridged, and leaves with the sender's MAC as
  source (br_nf_pre_routing_finish, ``bridged_dnat``). So isolation cannot drop unicast frames in
  the forward hook; it drops them in prerouting, before the translation, by their destination.
- The same way a guest reaches its own published port only if its bridge port is in hairpin mode,
  and then the bridge would send its broadcasts back to it (duplicate address detection would fail
  on them): the forward chain drops those.
- Frames to 01:80:c2:00:00:0X skip prerouting and go to the input hook, where the bridge learns
  their source address (br_handle_local_finish): the input chain guards them. Those to …:0e (LLDP)
  and, with STP on, …:00 meet no hook at all: only the bridge's own ``no_linklocal_learn`` helps.
- A VLAN tag is taken off before the bridge sees the frame, so ``meta protocol`` shows what is
  inside; ``ether type`` shows the tag.
- Conntrack is not asked in the bridge family: that would switch on nf_conntrack_bridge.
- What came in by another device than ``lo`` with an address of 127.0.0.0/8 is a martian for the
  routing decision, which comes after the translation: translated, it is none any more. So it is
  never translated (any neighbour could send it otherwise: the uplink's, a container on a bridge).
- A set may have a statement (``ct count``, ``limit``) that each element carries for itself; a
  lookup that finds the element goes on only where the statement matches. So what belongs to a
  guest is counted in its own element, which goes with the guest. ``seen6`` is filled by packets;
  how quickly and how far is held by ``new6``.
- Most systems choose the interface part of fe80:: by themselves, so a guest may have any but those
  that follow from the MAC of another (``links6``) and the gateway's.
- ``typeof … @nh,64,128`` makes sets of IPv6 addresses that can be compared with the target of a
  neighbour advertisement, which nft 1.0.6 has no name for. nft prints everything here in a form
  that it reads back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from hvtx.model.digest import sha256
from hvtx.model.hook import HOOKS, BaseRuleset, Chain, Hook
from hvtx.rulesets import nftables_uplink
from hvtx.rulesets.nftables_bridge import BRIDGE
from hvtx.rulesets.nftables_egress import (
    ALLOWED,
    CHAINS,
    COMES_BY_A_BRIDGE,
    IS_UNDECIDED,
    NOT_ALLOWED,
    SETS,
)
from hvtx.rulesets.nftables_layout import table_name

_INET = BaseRuleset(
    {
        "bridges": "set|type ifname;",
        "nat_bridges": "set|type ifname;",
        "within": "map|type ifname . ifname : verdict;",
        "guests4": "set|type ipv4_addr . ifname;",
        "guests6": "set|type ipv6_addr . ifname;",
        "masq4": "set|type ipv4_addr;",
        "masq6": "set|type ipv6_addr;",
        "flows4": "set|type ipv4_addr . ifname; ct count over 16384;",
        "flows6": "set|type ipv6_addr . ifname; ct count over 16384;",
        "flows_link": "set|type ifname; ct count over 16384;",
        "dnat4_any": "map|type inet_proto . inet_service : ipv4_addr . inet_service;",
        "dnat4_host": "map|type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
        "dnat6_any": "map|type inet_proto . inet_service : ipv6_addr . inet_service;",
        "dnat6_host": "map|type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;",
        **nftables_uplink.SETS,
        **SETS,
    },
    (
        Chain(
            "raw",
            "type filter hook prerouting priority -300; policy accept;",
            # route_localnet on our bridges would let guests in to the host's loopback services
            (
                "iifname @bridges ip daddr 127.0.0.0/8 drop",
                "iifname @bridges ip saddr 127.0.0.0/8 drop",
            ),
        ),
        Chain(
            "dnat4",
            "",
            (
                "dnat ip to ip daddr . meta l4proto . th dport map @dnat4_host",
                "dnat ip to meta l4proto . th dport map @dnat4_any",
            ),
        ),
        Chain(
            "dnat6",
            "",
            (
                "dnat ip6 to ip6 daddr . meta l4proto . th dport map @dnat6_host",
                "dnat ip6 to meta l4proto . th dport map @dnat6_any",
            ),
        ),
        Chain(
            "flows",
            "type filter hook prerouting priority -150; policy accept;",
            # what would be tracked beyond its limit ends before it is entered
            (
                "ct state new ip saddr . iifname @flows4 drop",
                "ct state new ip6 saddr . iifname @flows6 drop",
                "ct state new ip6 saddr fe80::/10 iifname @flows_link drop",
            ),
        ),
        Chain(
            "prerouting",
            "type nat hook prerouting priority -100; policy accept;",
            (
                'iifname != "lo" ip daddr 127.0.0.0/8 return',
                'iifname != "lo" ip saddr 127.0.0.0/8 return',
                "fib daddr type != local return",
                "meta nfproto ipv4 goto dnat4",
                "ip6 daddr != ::1 goto dnat6",
            ),
        ),
        # What br_netfilter translates inside a bridge leaves by the bridge's device while its
        # receiver's MAC address is asked for, and has met no later hook yet; see bridge_program.
        Chain(
            "translated",
            "type filter hook prerouting priority -90; policy accept;",
            ("ct status dnat iifname @bridges meta mark set meta mark | 0x10000000",),
        ),
        Chain(
            "output",
            "type nat hook output priority -100; policy accept;",
            (
                "fib daddr type != local return",
                "meta nfproto ipv4 goto dnat4",
                "ip6 daddr != ::1 goto dnat6",
            ),
        ),
        Chain(
            "postrouting",
            "type nat hook postrouting priority 100; policy accept;",
            # a guest that reached one in its own bridge through a host address must get its
            # answers through the host too; other traffic inside a bridge stays as it is
            (
                "ct status dnat ip saddr . oifname @guests4 masquerade",
                "ct status dnat ip6 saddr . oifname @guests6 masquerade",
                "ip saddr . oifname @guests4 accept",
                "ip6 saddr . oifname @guests6 accept",
                *nftables_uplink.SOURCES,
                "ip saddr @masq4 masquerade",
                "ip6 saddr @masq6 masquerade",
                "ip saddr 127.0.0.0/8 oifname @bridges masquerade",
                # A guest with two networks would answer another address of the host by the other
                # one, where its own is not let out.
                "ct status dnat oifname @bridges fib saddr type local masquerade",
            ),
        ),
        Chain(
            "seen",
            "type filter hook postrouting priority 1000; policy accept;",
            # after all of the rules here and nearly all of others'; see bridge_program
            ("oifname @nat_bridges meta mark set meta mark | 0x10000000", NOT_ALLOWED),
        ),
        Chain(
            "isolated",
            "",
            (
                "ip saddr . iifname @guests4 drop",
                "ip daddr . oifname @guests4 drop",
                "ip6 saddr . iifname @guests6 drop",
                "ip6 daddr . oifname @guests6 drop",
            ),
        ),
        # The host would ask a bridge for each address of a subnet that a guest sends to through
        # it. What is bridged comes here too (br_netfilter), so others' ports are only slowed down.
        Chain(
            "between",
            "",
            (
                "ip daddr . oifname @guests4 goto inward",
                "ip6 daddr . oifname @guests6 goto inward",
                "limit rate over 20/second burst 50 packets drop",
                "goto inward",
            ),
        ),
        Chain(
            "inward",
            "",
            (
                "iifname . oifname vmap @within",
                f"{ALLOWED} accept",
                "oifname @nat_bridges drop",
            ),
        ),
        Chain(
            "forward",
            "type filter hook forward priority 0; policy accept;",
            (
                "ct state established,related accept",
                f"{IS_UNDECIDED} {COMES_BY_A_BRIDGE} jump decided",
                "ct status dnat accept",
                "iifname @bridges oifname @bridges meta pkttype host goto between",
                "goto inward",
            ),
        ),
        *nftables_uplink.CHAINS,
        *CHAINS,
    ),
)

SKELETONS: Mapping[str, BaseRuleset] = {"inet": _INET, "bridge": BRIDGE}


def declarations(family: str, bare: Collection[str] = ()) -> str:
    """The sets, maps and empty chains of a table, as the inside of an nft table block.

    Chains of ``bare`` are without their hooks.
    """
    skeleton = SKELETONS[family]
    lines = []
    for name, declared in skeleton.sets.items():
        what, definition = declared.split("|")
        lines.append(f" {what} {name} {{ {definition} }}")
    lines += [
        f" chain {chain.name} {{ {'' if chain.name in bare else chain.hook} }}"
        for chain in skeleton.chains
    ]
    return "\n".join(lines)


def hook_of(declared: str) -> Hook | None:
    """The hook in a chain's declaration; None for one without."""
    if not declared:
        return None
    _, kind, _, hook, _, priority, _, policy = declared.replace(";", "").split(" ")
    return Hook(kind, HOOKS[hook], int(priority), int(policy == "accept"))


@cache
def layout(family: str) -> str:
    """The digest that :data:`hvtx.rulesets.nftables_layout.LAYOUTS` has to have of a table."""
    # The digest is on hosts: it was made of this text when the class had another name.
    text = repr(SKELETONS[family]).replace("BaseRuleset(", "Skeleton(", 1)
    return sha256(text.encode())[:20]


def rule_lines(family: str, table: str, mark: str, chain: Chain) -> list[str]:
    """The commands that append a chain's rules, each with ``mark`` as its comment."""
    return [
        f'add rule {family} {table} {chain.name} {rule} comment "{mark}"' for rule in chain.rules
    ]


def table_text(family: str, installation: str, mark: str) -> str:
    """The commands that make one table whole; ``create`` fails if it exists."""
    table = table_name(installation)
    lines = [
        f'create table {family} {table} {{ comment "{mark}"; }}',
        f"table {family} {table} {{",
        declarations(family),
        "}",
    ]
    for chain in SKELETONS[family].chains:
        lines += rule_lines(family, table, mark, chain)
    return "\n".join(lines) + "\n"
