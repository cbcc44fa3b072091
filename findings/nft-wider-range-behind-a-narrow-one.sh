#!/bin/bash
# Whether ranges of a concatenation may overlap depends on which of them is added first.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2
nft() { "$ROOT/usr/sbin/nft" "$@"; }
add() { # add MAP ELEMENT...: exit codes
    nft flush map ip t "$1"
    for element in "${@:2}"; do
        nft add element ip t "$1" "{ $element }" 2>/dev/null && printf '0 ' || printf '%s ' $?
    done
}
send() { # to 127.0.0.5 and to 127.0.0.6, each port 80
    python3 -c 'import socket as s
u = s.socket(s.AF_INET, s.SOCK_DGRAM)
for host in "127.0.0.5", "127.0.0.6":
    try:
        u.sendto(b"x", (host, 80))
        print(host, "sent", end=" ")
    except PermissionError:
        print(host, "dropped", end=" ")'
}

version "$(nft --version | cut -d' ' -f1,2), Linux $(uname -r)" "nftables v1.0.6, Linux $(uname -r)"
question "A map of address and port to a verdict, with intervals: one address is dropped, its network is accepted.
          Does the map take both?"
expected "Never, as a map of addresses alone: overlapping elements are refused; or always, and the narrower one counts."

ip link set lo up
nft add table ip t
nft add map ip t one '{ type ipv4_addr : verdict; flags interval; }'
nft add map ip t two '{ type ipv4_addr . inet_service : verdict; flags interval; }'
nft add chain ip t c '{ type filter hook output priority 0; }'
nft add rule ip t c ip daddr . udp dport vmap @two
seen "addresses alone, the narrow one first" "$(add one '127.0.0.5 : drop' '127.0.0.0/24 : accept')" "0 1 "
seen "addresses alone, the wide one first" "$(add one '127.0.0.0/24 : accept' '127.0.0.5 : drop')" "0 1 "
seen "with a port, the wide one first" \
    "$(add two '127.0.0.0/24 . 80 : accept' '127.0.0.5 . 80 : drop')" "0 1 "
seen "with a port, the narrow one first" \
    "$(add two '127.0.0.5 . 80 : drop' '127.0.0.0/24 . 80 : accept')" "0 0 "
seen "what they do then" "$(send)" "127.0.0.5 dropped 127.0.0.6 sent "
nft delete element ip t two '{ 127.0.0.5 . 80 }'
nft add element ip t two '{ 127.0.0.5 . 80 : drop }' 2>/dev/null && code=0 || code=$?
seen "the narrow one deleted and added again, exit code" "$code" 1
finish
