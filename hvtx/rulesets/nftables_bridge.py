"""``table bridge hvtx-I``, which holds guests to their addresses (:mod:`nftables_base`)."""

from __future__ import annotations

from hvtx.model.hook import BaseRuleset, Chain

# What is for one receiver leaves by the port of that guest and by no other, whatever the bridge
# believes: it sends what is for a MAC address to the port whose device has that address, and the
# process behind a TAP can give its device any (SIOCSIFHWADDR on the descriptor, tun.c).
_DELIVERED = (
    "oifname . ether daddr @macs accept",
    "oifname @ports ether daddr & 01:00:00:00:00:00 != 01:00:00:00:00:00 drop",
)

BRIDGE = BaseRuleset(
    {
        "ports": "set|type ifname;",
        "apart": "set|type ifname;",
        "only4": "set|type ifname;",
        "macs": "set|type ifname . ether_addr;",
        "lladdrs": "set|typeof iifname . @th,208,48;",
        "own4": "set|type ifname . ipv4_addr;",
        "own6": "set|typeof iifname . @nh,64,128;",
        "gateways6": "set|typeof iifname . @nh,64,128;",
        "links6": "set|typeof @nh,64,128;",
        "new6": "set|type ifname; limit rate over 10/minute burst 20 packets;",
        "seen6": "set|typeof iifname . @nh,64,128; size 65535; flags dynamic,timeout; timeout 1h;",
    },
    (
        Chain(
            "guard",
            "",
            (
                "iifname . ether saddr != @macs drop",
                "meta pkttype other iifname @apart drop",
                # without IPv6 in its network the host has nothing to say to a guest; what is for
                # many goes to guests, and ends at the host (input)
                "ether type ip6 meta pkttype host iifname @only4 drop",
                "ip6 saddr fe80::/10 meta pkttype != host jump untracked",
                "ether type arp goto guard_arp",
                "ether type ip goto guard_ip4",
                "ether type ip6 goto guard_ip6",
                "drop",
            ),
        ),
        # A guest chooses link-local addresses by itself. Connections from them to the host are
        # limited, all together; those to others are not tracked, where br_netfilter or somebody's
        # rules would have them entered. But of DHCPv6, of which each address has one: a firewall
        # of the host may let pass only what is new.
        Chain(
            "untracked",
            "",
            ("ip6 daddr ff02::1:2 udp sport 546 udp dport 547 return", "notrack"),
        ),
        Chain(
            "guard_arp",
            "",
            (
                "arp htype != 1 drop",
                "arp ptype != ip drop",
                "arp hlen != 6 drop",
                "arp plen != 4 drop",
                "iifname . arp saddr ether != @macs drop",
                "iifname . arp saddr ip @own4 accept",
                "arp operation request arp saddr ip 0.0.0.0 iifname . arp daddr ip @own4 accept",
                "drop",
            ),
        ),
        Chain(
            "guard_ip4",
            "",
            (
                # the bridge's route_localnet would let it in to the host's loopback services
                "ip daddr 127.0.0.0/8 drop",
                "udp sport 67 drop",
                "udp dport 68 drop",
                "ip protocol igmp goto guard_igmp",
                "iifname . ip saddr @own4 accept",
                "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
                "drop",
            ),
        ),
        # A bridge that hears a query sends to groups only where somebody answered for them: one
        # that no guest hears cuts all of them off, and from their neighbours over IPv6. A later
        # fragment, which the bridge reads as if it were whole, shows no type here.
        Chain(
            "guard_igmp",
            "",
            (
                "@th,0,8 != 0x11 iifname . ip saddr @own4 accept",
                "drop",
            ),
        ),
        Chain(
            "guard_ip6",
            "",
            (
                # a later fragment is worth nothing without a first one; what it holds may look
                # like any header
                "frag frag-off != 0 goto guard_source6",
                "meta l4proto icmpv6 goto guard_icmp6",
                "meta l4proto udp goto guard_udp6",
                "meta l4proto ah goto guard_ah6",
                # no upper protocol is known of a broken chain of headers; 255 is never one
                "meta l4proto != 255 goto guard_source6",
                "drop",
            ),
        ),
        # A first fragment that ends before its upper header matches no rule about that header:
        # so advertisements get past guards (RFC 7113). What is let through must show it.
        Chain(
            "guard_icmp6",
            "",
            (
                "icmpv6 type nd-router-advert drop",
                "icmpv6 type mld-listener-query drop",  # as of IGMP
                "icmpv6 type nd-neighbor-advert goto guard_advert",
                "ip6 saddr :: goto guard_nobody6",
                "icmpv6 type nd-neighbor-solicit goto guard_solicit6",
                "icmpv6 type nd-router-solicit goto guard_router_solicit6",
                "icmpv6 type != 255 goto guard_source6",
                "drop",
            ),
        ),
        # A link-layer address in an option is where answers are sent: to nobody else, so it is the
        # guest's own, and stands first, where it can be seen. A rule about an option does not match
        # a message without one.
        Chain(
            "guard_solicit6",
            "",
            (
                "@th,192,8 != 1 drop",
                "iifname . @th,208,48 != @lladdrs drop",
                "goto guard_source6",
            ),
        ),
        Chain(
            "guard_router_solicit6",
            "",
            (
                "@th,64,8 != 1 drop",
                "iifname . @th,80,48 != @lladdrs drop",
                "goto guard_source6",
            ),
        ),
        # Nothing is looked at behind an authentication header, so only TCP and ESP may be there. By
        # its first byte: "ah nexthdr tcp" ends libnftables 1.0.6 by an assertion.
        Chain(
            "guard_ah6",
            "",
            (
                "@th,0,8 6 goto guard_source6",
                "@th,0,8 50 goto guard_source6",
                "drop",
            ),
        ),
        Chain(
            "guard_udp6",
            "",
            (
                "udp sport 547 drop",
                "udp dport 546 drop",
                "udp length != 0 goto guard_source6",
                "drop",
            ),
        ),
        Chain(
            "guard_source6",
            "",
            (
                "iifname . @nh,64,128 @own6 accept",
                "iifname . @nh,64,128 @gateways6 drop",
                "@nh,64,128 @links6 drop",
                "ip6 saddr != fe80::/10 drop",
                "iifname . @nh,64,128 @seen6 accept",
                # each may become a neighbour of the host, whose table all networks share
                "iifname @new6 drop",
                "add @seen6 { iifname . @nh,64,128 } accept",
                "drop",
            ),
        ),
        Chain(
            "guard_advert",
            "",
            (
                "@th,192,8 != 2 drop",
                "iifname . @th,208,48 != @lladdrs drop",
                "iifname . @th,64,128 @own6 goto guard_source6",
                "iifname . @th,64,128 @gateways6 drop",
                "@th,64,128 @links6 drop",
                "@th,64,16 & 0xffc0 == 0xfe80 goto guard_source6",
                "drop",
            ),
        ),
        Chain(
            "guard_nobody6",
            "",
            (
                "icmpv6 type mld-listener-report accept",
                "icmpv6 type mld-listener-done accept",
                "icmpv6 type mld2-listener-report accept",
                "icmpv6 type != nd-neighbor-solicit drop",
                "iifname . @th,64,128 @own6 accept",
                "iifname . @th,64,128 @gateways6 drop",
                "@th,64,128 @links6 drop",
                "@th,64,16 & 0xffc0 == 0xfe80 accept",
                "drop",
            ),
        ),
        Chain(
            "prerouting",
            "type filter hook prerouting priority -300; policy accept;",
            ("iifname @ports jump guard",),
        ),
        Chain(
            "input",
            "type filter hook input priority -300; policy accept;",
            (
                "ether type ip6 iifname @only4 drop",
                "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 iifname @ports jump guard",
            ),
        ),
        Chain(
            "forward",
            "type filter hook forward priority -300; policy accept;",
            (
                *_DELIVERED,
                "ether daddr & 01:00:00:00:00:00 != 01:00:00:00:00:00 accept",
                "oifname . ether saddr @macs drop",
                "iifname @apart drop",
            ),
        ),
        Chain("output", "type filter hook output priority -300; policy accept;", _DELIVERED),
    ),
)
