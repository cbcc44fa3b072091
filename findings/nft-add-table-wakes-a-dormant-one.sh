#!/bin/bash
# `nft add table` of a dormant table that is there takes the flag away: its rules hold again.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /usr/sbin/nft nftables=1.0.6-2+deb12u2 iproute2=6.1.0-3
nft() { "$ROOT/usr/sbin/nft" "$@"; }
cat >arrival.py <<'P'
"""Does a datagram reach a socket on loopback?"""
import socket

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.bind(("127.0.0.1", 0))
    one.settimeout(0.5)
    try:
        one.sendto(b"x", one.getsockname())
        print("arrives" if one.recv(1) else "")
    except (TimeoutError, PermissionError):
        print("dropped")
P
"$ROOT/bin/ip" link set lo up
version "$(nft --version)" "nftables v1.0.6 (Lester Gooch #5)"
question "A table is put to sleep (flags dormant) by its administrator. Another script begins, as many do,
          with 'add table inet t', which is there already. Do the table's rules hold afterwards?"
expected "No: adding what is there changes nothing, as with chains and sets."
nft -f - <<'N'
table inet t {
    flags dormant
    chain c {
        type filter hook input priority 0; policy drop;
    }
}
N
seen "asleep" "$(python3 arrival.py)" "arrives"
nft add chain inet t c
seen "after 'add chain inet t c', which is there" "$(python3 arrival.py)" "arrives"
code=0
nft add table inet t || code=$?
seen "exit code of 'add table inet t'" "$code" "0"
seen "afterwards" "$(python3 arrival.py)" "dropped"
seen "flags" "$(nft list table inet t | grep -c dormant)" "0"
finish
