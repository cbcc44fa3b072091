#!/bin/bash
# A route whose source address goes: it goes too, stays as it is, or stays without it.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
show() { ip "$1" route show "${@:2}" | sed 's/ *linkdown//;s/ *pref medium//;s/ *$//'; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "Routes by tap1 have a source address (src) that is one of tap0's, in the table main and in another one, of
          IPv4 and of IPv6. The address is taken from tap0. What becomes of the four?"
expected "The same, whichever it is: nothing of tap1 was touched."

for tap in tap0 tap1; do
    ip tuntap add $tap mode tap
    ip link set $tap up
done
ip addr add 10.0.0.1/24 dev tap0
ip addr add 10.1.0.1/24 dev tap1
ip -6 addr add fd00::1/64 dev tap0 nodad
ip -6 addr add fd01::1/64 dev tap1 nodad
ip route add 10.77.0.0/24 dev tap1 src 10.0.0.1
ip route add 10.77.0.0/24 dev tap1 src 10.0.0.1 table 77
ip route add fd77::/64 dev tap1 src fd00::1
ip route add fd77::/64 dev tap1 src fd00::1 table 77
ip addr del 10.0.0.1/24 dev tap0
ip addr del fd00::1/64 dev tap0
seen "IPv4, main" "$(show -4 10.77.0.0/24)" ""
seen "IPv4, table 77" "$(show -4 10.77.0.0/24 table 77)" "10.77.0.0/24 dev tap1 scope link src 10.0.0.1"
seen "IPv6, main" "$(show -6 fd77::/64)" "fd77::/64 dev tap1 metric 1024"
seen "IPv6, table 77" "$(show -6 fd77::/64 table 77)" "fd77::/64 dev tap1 metric 1024"
finish
