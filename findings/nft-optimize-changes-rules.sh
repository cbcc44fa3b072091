#!/bin/bash
# nft -o makes one rule of rules that look at other bits of a mark, and the packets of all but the first are lost.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2 iproute2=6.1.0-3
nft() { "$ROOT/usr/sbin/nft" "$@"; }
ruleset() { # ruleset RULE...: into the file rules
    printf 'table ip t {\n chain c {\n type filter hook output priority 0; policy drop;\n' >rules
    printf ' %s\n' "$@" >>rules
    printf ' }\n}\n' >>rules
}
load() { # load [-o]
    nft flush ruleset
    nft "$@" -f rules >said 2>&1 && echo "exit 0" || echo "exit $?: $(grep -o 'Error: .*' said)"
}
chain() { nft list chain ip t c | sed '1,3d' | head -n -2 | tr -d '\t' | paste -sd';'; }
send() { # send MARK: a datagram with it, to ourselves
    python3 - "$1" <<'P'
import socket, sys
there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
there.bind(("127.0.0.1", 0))
there.settimeout(1)
here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
here.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, int(sys.argv[1]))
try:
    here.sendto(b"x", there.getsockname())
    print(there.recv(1) and "arrives")
except (PermissionError, TimeoutError):
    print("is dropped")
P
}

version "$(nft --version | cut -d' ' -f1,2)" "nftables v1.0.6"
question "Each network has a bit of the packets' marks, and rules accept what has one of the bits. What does the ruleset do
          when it is loaded by nft -o -f?"
expected "What it does without -o, by fewer rules."

"$ROOT/bin/ip" link set lo up
ruleset "meta mark & 0x1 == 0x1 accept" "meta mark & 0x2 == 0x2 accept"
seen "nft -f" "$(load)" "exit 0"
seen "a packet with mark 2" "$(send 2)" "arrives"
seen "nft -o -f" "$(load -o)" "exit 0"
seen "the chain" "$(chain)" "meta mark & 0x00000001 == { 0x00000001, 0x00000002 } accept"
seen "a packet with mark 2" "$(send 2)" "is dropped"
ruleset 'ip daddr 10.0.0.1 counter log prefix "guests" accept comment "one"' \
    'ip daddr 10.0.0.2 counter log prefix "guests" drop comment "two"'
load -o >/dev/null
seen "of two with counter, log and comment (nobody comes to the log)" "$(chain)" \
    'ip daddr vmap { 10.0.0.1 : accept, 10.0.0.2 : drop } log prefix "guests"'
ruleset "tcp dport 22 accept" "tcp dport 20-25 drop"
seen "nft -f of a port and a range around it" "$(load)" "exit 0"
seen "nft -o -f of the same" "$(load -o)" "exit 1: Error: conflicting intervals specified"
finish
