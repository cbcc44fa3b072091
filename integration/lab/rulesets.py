"""Rule sets that others have on a host, and what of them stops guests; docs/firewalls.md shows it.

``{bridge}`` stands for the network's bridge. ``by`` is what doctor has to name; where it is empty,
nothing is stopped and nothing may be said.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """What is there, and what doctor has to name; ``setup`` are commands, one a line."""

    name: str
    setup: str
    by: str = ""
    ours: bool = False  # networks of the iptables backend pass: their accept stands in these tables


FORWARD = "type filter hook forward priority"
DENY = """nft add table inet wall
nft add chain inet wall deny
"""

CASES = [
    Case("nothing of anybody's", ""),
    Case("a policy of nftables", f"nft add table inet wall\n"
         f"nft add chain inet wall pass {{ {FORWARD} 5; policy drop; }}", "inet wall pass: policy drop"),
    Case("a jump to a chain that drops", DENY + "nft add rule inet wall deny drop\n"
         f"nft add chain inet wall pass {{ {FORWARD} 0; }}\nnft add rule inet wall pass jump deny",
         "inet wall deny: drop"),
    Case("a goto to a chain that drops", DENY + "nft add rule inet wall deny counter drop\n"
         f"nft add chain inet wall pass {{ {FORWARD} 0; }}\n"
         "nft add rule inet wall pass iifname {bridge} goto deny", "inet wall deny: counter packets"),
    Case("new connections", f"nft add table ip wall\nnft add chain ip wall pass {{ {FORWARD} 0; }}\n"
         "nft add rule ip wall pass ct state new drop", "ct state new drop"),
    Case("everything that is not docker0's", "iptables-nft -A FORWARD ! -i docker0 -j DROP",
         'iifname != "docker0"'),
    Case("tcp only", "iptables-nft -A FORWARD -p tcp -j REJECT --reject-with tcp-reset",
         "reject with tcp reset"),  # nft 1.0 shows its match as `meta l4proto`, 1.1 as `ip protocol`
    Case("by source subnet", "iptables-nft -N ADMIN\niptables-nft -A FORWARD -j ADMIN\n"
         "iptables-nft -A ADMIN -s 10.77.0.0/24 -j DROP", "ip filter ADMIN: ip saddr 10.77.0.0/24"),
    Case("by a set", "nft add table inet wall\n"
         "nft add set inet wall bad { type ipv4_addr; flags interval; }\n"
         "nft add element inet wall bad { 10.77.0.0/24 }\n"
         f"nft add chain inet wall pass {{ {FORWARD} 0; }}\n"
         "nft add rule inet wall pass ip saddr @bad drop", "ip saddr @bad drop"),
    Case("a verdict map", DENY + "nft add rule inet wall deny reject\n"
         f"nft add chain inet wall pass {{ {FORWARD} 0; }}\n"
         "nft add rule inet wall pass iifname vmap {{ {bridge} : goto deny }}".replace("{{", "{ ")
         .replace("}}", " }"), "inet wall deny: reject"),
    Case("legacy filter policy", "iptables-legacy -P FORWARD DROP", "filter FORWARD: policy DROP", True),
    Case("legacy mangle", "iptables-legacy -t mangle -A FORWARD -s 10.77.0.0/24 -j DROP",
         "mangle FORWARD: -A FORWARD -s 10.77.0.0/24"),
    Case("legacy raw", "ip6tables-legacy -t raw -A PREROUTING -s fd77::/64 -p udp -j DROP",
         "raw PREROUTING: -A PREROUTING -s fd77::/64"),
    Case("prerouting", "nft add table inet wall\n"
         "nft add chain inet wall early { type filter hook prerouting priority -160; }\n"
         "nft add rule inet wall early iifname {bridge} meta l4proto udp drop", "inet wall early"),
    Case("postrouting", "nft add table inet wall\n"
         "nft add chain inet wall late { type filter hook postrouting priority 0; }\n"
         "nft add rule inet wall late ip saddr 10.77.0.0/24 meta oifname uplink drop", "inet wall late"),
    Case("INPUT", "iptables-nft -A INPUT -i {bridge} -m conntrack --ctstate NEW -j REJECT",
         "ip filter INPUT"),
    Case("OUTPUT", "iptables-nft -A OUTPUT -o {bridge} -p icmp -j DROP", "ip filter OUTPUT"),
    Case("the bridge family", "nft add table bridge wall\n"
         f"nft add chain bridge wall pass {{ {FORWARD} 0; }}\n"
         "nft add rule bridge wall pass meta l4proto icmp drop", "bridge wall pass: meta l4proto icmp"),
    Case("ebtables", "ebtables-nft -A FORWARD -p IPv4 --ip-proto udp -j DROP",
         "bridge filter FORWARD: ether type ip"),
    Case("ingress of the uplink", "nft add table netdev wall\n"
         "nft add chain netdev wall in { type filter hook ingress device uplink priority 0; }\n"
         "nft add rule netdev wall in meta l4proto tcp drop", "netdev wall in: meta l4proto tcp drop"),
    Case("a panic of firewalld", "nft add table inet firewalld\n"
         "nft add chain inet firewalld raw_PREROUTING { type filter hook prerouting priority -290; "
         "policy drop; }", "inet firewalld raw_PREROUTING: policy drop"),
    Case("a policy with a rule that lets nobody of ours pass", "iptables-nft -P FORWARD DROP\n"
         "iptables-nft -A FORWARD -i docker0 -j ACCEPT", "ip filter FORWARD: policy drop"),
    Case("an allowed route of ufw", "iptables-nft -N ufw-user-forward\n"
         "iptables-nft -A ufw-user-forward -i {bridge} -j ACCEPT\n"
         "iptables-nft -A ufw-user-forward -o {bridge} -j ACCEPT\n"
         "iptables-nft -A FORWARD -j ufw-user-forward\niptables-nft -P FORWARD DROP"),
    Case("a trusted zone of firewalld", "nft add table inet firewalld\n"
         "nft add chain inet firewalld trusted\nnft add rule inet firewalld trusted accept\n"
         f"nft add chain inet firewalld filter_FORWARD {{ {FORWARD} 10; policy drop; }}\n"
         "nft add rule inet firewalld filter_FORWARD ct state vmap "
         "{ established : accept, related : accept }\n"
         "nft add rule inet firewalld filter_FORWARD iifname vmap { {bridge} : goto trusted }\n"
         "nft add rule inet firewalld filter_FORWARD ct status dnat accept\n"
         "nft add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited"),
    Case("chains of NixOS that accept", "iptables-nft -N nixos-filter-forward\n"
         "iptables-nft -A nixos-filter-forward -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
         "iptables-nft -A nixos-filter-forward -i {bridge} -j ACCEPT\n"
         "iptables-nft -A nixos-filter-forward -m conntrack --ctstate DNAT -j ACCEPT\n"
         "iptables-nft -A FORWARD -j nixos-filter-forward\niptables-nft -A FORWARD -j DROP"),
    Case("a dormant table", "nft add table inet wall { flags dormant; }\n"
         f"nft add chain inet wall pass {{ {FORWARD} 0; policy drop; }}"),
    Case("limits, quotas and counters before", f"nft add table inet wall\n"
         f"nft add chain inet wall pass {{ {FORWARD} 0; }}\n"
         "nft add rule inet wall pass limit rate 5/second log prefix seen\n"
         "nft add rule inet wall pass quota over 900 mbytes drop\n"
         "nft add rule inet wall pass tcp option maxseg size set rt mtu\n"
         "nft add rule inet wall pass meta l4proto udp counter drop", "meta l4proto udp counter"),
]  # fmt: skip
