#!/bin/bash
# ip route del PREFIX via GATEWAY takes an IPv4 route of two ways with both, or finds none: it depends on their order.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
ways() { ip "$1" route show "$2" | grep -o 'via [^ ]*' | paste -sd' '; }
try() { ip "$@" 2>said && echo "exit 0" || echo "exit $?: $(cat said)"; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "A prefix is reached by two routers that are guests. One of them stops: ip route del PREFIX via ITS ADDRESS. Which
          ways are left?"
expected "The other one, or an error: the route as it stands has two ways."

ip link add br0 type bridge
ip link set br0 up
ip addr add 10.0.0.1/24 dev br0
ip addr add fd00::1/64 dev br0 nodad
ip route add 10.5.0.0/16 nexthop via 10.0.0.2 dev br0 nexthop via 10.0.0.3 dev br0
ip route add fd05::/64 nexthop via fd00::2 dev br0 nexthop via fd00::3 dev br0
seen "IPv4, del via the second" "$(try route del 10.5.0.0/16 via 10.0.0.3)" "exit 2: RTNETLINK answers: No such process"
seen "ways" "$(ways -4 10.5.0.0/16)" "via 10.0.0.2 via 10.0.0.3"
seen "IPv4, del via the first" "$(try route del 10.5.0.0/16 via 10.0.0.2)" "exit 0"
seen "ways" "$(ways -4 10.5.0.0/16)" ""
seen "IPv6, del via the first" "$(try -6 route del fd05::/64 via fd00::2)" "exit 0"
seen "ways" "$(ways -6 fd05::/64)" "via fd00::3"
finish
