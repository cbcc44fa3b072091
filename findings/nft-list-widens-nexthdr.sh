#!/bin/bash
# nft prints a rule for packets without extension headers as one for packets with them, too.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2
nft() { "$ROOT/usr/sbin/nft" "$@"; }
send() { # one datagram with a hop-by-hop header (one PadN option) to [::1]:5000
    python3 -c 'import socket as s
u = s.socket(s.AF_INET6, s.SOCK_DGRAM)
u.setsockopt(s.IPPROTO_IPV6, s.IPV6_HOPOPTS, bytes((0, 0, 1, 4, 0, 0, 0, 0)))
u.sendto(b"x", ("::1", 5000))'
}
counted() { nft list chain ip6 t c | sed -n 's/.*counter packets \([0-9]*\) .*/\1/p'; }
rule() { nft -s -p list chain ip6 t c | sed -n 's/^\t\t\(.*counter\)$/\1/p'; }

version "$(nft --version | cut -d' ' -f1,2)" "nftables v1.0.6"
question "\`ip6 nexthdr udp\` holds for packets whose first header behind IPv6's is UDP. A ruleset with it is
          saved (\`nft list ruleset\`) and loaded again. Does the rule hold for the same packets as before?"
expected "Yes: what nft prints is what it would make again."

ip link set lo up
nft add table ip6 t
nft add chain ip6 t c '{ type filter hook input priority 0; }'
nft add rule ip6 t c ip6 nexthdr udp udp dport 5000 counter
send
seen "packets with a hop-by-hop header that the rule counts" "$(counted)" 0
seen "the rule as nft prints it" "$(rule)" "udp dport 5000 counter"
nft -s list ruleset >saved
nft flush ruleset
nft -f saved
send
seen "saved and loaded again, the rule counts of them" "$(counted)" 1
nft flush chain ip6 t c
nft add rule ip6 t c ip6 nexthdr udp counter
seen "without a port it is printed as it is" "$(rule)" "ip6 nexthdr 17 counter"
finish
