#!/bin/bash
# An IPv4 address on lo makes the host answer for its whole prefix; elsewhere, and of IPv6, for itself only.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
kind() { ip route get "$1" | head -1 | cut -d' ' -f1; }
reach() { # a datagram to port 5000 of ADDRESS: whether this host's own socket gets it
    python3 -c 'import socket, sys
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
a.bind(("0.0.0.0", 5000))
a.settimeout(1)
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
b.sendto(b"x", (sys.argv[1], 5000))
try:
    print(a.recv(9) == b"x")
except TimeoutError:
    print(False)' "$1"
}

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "A host has 10.9.0.1/24 on lo, as a service address, and 10.10.0.1/24 on a TAP. Is 10.9.0.77 the host's own, as
          10.9.0.1 is? And fd09::77, with fd09::1/64 on lo?"
expected "No, as on any device: the address is the host's, the rest of its prefix is a route."

ip link set lo up
ip tuntap add tap0 mode tap
ip link set tap0 up
ip addr add 10.9.0.1/24 dev lo
ip addr add 10.10.0.1/24 dev tap0
ip -6 addr add fd09::1/64 dev lo
seen "10.10.0.77, of the TAP's prefix" "$(kind 10.10.0.77)" "10.10.0.77"
seen "10.9.0.77, of lo's prefix" "$(kind 10.9.0.77)" "local"
seen "a socket of the host gets what is sent to 10.9.0.77" "$(reach 10.9.0.77)" True
seen "the table local has" "$(ip route show table local 10.9.0.0/24 | cut -d' ' -f1-4)" "local 10.9.0.0/24 dev lo"
seen "fd09::77, of lo's prefix" "$(kind fd09::77)" "fd09::77"
finish
