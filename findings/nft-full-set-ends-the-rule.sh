#!/bin/bash
# A rule that adds to a full set ends there, and its verdict is not given.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2
nft() { "$ROOT/usr/sbin/nft" "$@"; }
send() { python3 -c "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', $1))"; }
counted() { nft list chain ip t c | sed -n "s/.*counter packets \([0-9]*\) .*$1.*/\1/p"; }

version "$(nft --version | cut -d' ' -f1,2), Linux $(uname -r)" "nftables v1.0.6, Linux $(uname -r)"
question "A rule remembers who was seen and accepts them: \`add @seen { … } accept\`. The set is full. Is a packet of
          somebody new accepted? And what does \`nft add element\` say of the full set?"
expected "It is accepted and not remembered: nothing in the rule asks whether the set has it. nft says that it is full."

ip link set lo up
nft add table ip t
nft add set ip t seen '{ type inet_service; size 2; flags dynamic; }'
nft add chain ip t c '{ type filter hook output priority 0; }'
nft add rule ip t c udp dport 5001-5009 add @seen '{ udp dport }' counter accept comment remembered
nft add rule ip t c udp dport 5001-5009 counter drop comment behind
for port in 5001 5002 5003 5001; do
    send $port 2>/dev/null || true
done
seen "of ports 5001, 5002, 5003, 5001 accepted by the rule" "$(counted remembered)" 3
seen "came to the rule behind it" "$(counted behind)" 1
nft add element ip t seen '{ 5004 }' 2>said && code=0 || code=$?
seen "nft add element, exit code" "$code" 1
seen "it says" "$(head -1 said)" "Error: Could not process rule: Too many open files in system"
finish
