#!/bin/bash
# nft lists the prefix of "ct original saddr" as another address, and what is loaded from the list meets nothing.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2 iproute2=6.1.0-3
nft() { "$ROOT/usr/sbin/nft" "$@"; }
rule() { nft list chain "$1" t c | sed -n 's/^\t\t\(ct .*\) counter.*/\1/p'; }
packets() { nft list chain ip t c | sed -n 's/.*packets \([0-9]*\) .*/\1/p'; }
send() { python3 -c 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.0.0.1", 0))
s.sendto(b"x", s.getsockname())'; }

version "$(nft --version | cut -d' ' -f1,2)" "nftables v1.0.6"
question "A rule of a table ip meets flows that 10.0.0.0/24 began: ct original saddr 10.0.0.0/24. What does nft list
          print, and what does the rule meet when it was loaded from that list?"
expected "The words it was given, and the same flows."

ip() { "$ROOT/bin/ip" "$@"; }
ip link set lo up
ip addr add 10.0.0.1/32 dev lo
for family in ip ip6; do
    nft add table $family t
    nft add chain $family t c '{ type filter hook output priority 0; }'
done
nft add rule ip t c ct original saddr 10.0.0.0/24 counter
nft add rule ip6 t c ct original saddr fd00::/64 counter
send
seen "packets from 10.0.0.1 that it met" "$(packets)" 1
seen "the list" "$(rule ip)" "ct original ip saddr 0.10.0.0"
seen "the list, of fd00::/64" "$(rule ip6)" "ct original ip6 saddr ::fd00:0:0:0"
nft -s list ruleset >saved
nft flush ruleset
nft -f saved
seen "loaded again, exit code" "$?" 0
send
seen "packets from 10.0.0.1 that it met" "$(packets)" 0
nft flush chain ip t c
nft add rule ip t c ct original ip saddr 10.0.0.0/24 counter
seen "the list, where the rule said ct original ip saddr" "$(rule ip)" "ct original ip saddr 10.0.0.0/24"
finish
