#!/bin/bash
# What was asked for is not in iproute2's answer, not in its JSON either.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
keys() { # of the first entry, or of the one that was added to the bridge
    python3 -c 'import json, sys
found = json.load(sys.stdin)
print(" ".join(([e for e in found if e.get("mac") == "02:00:00:00:00:07"] or found)[0]))'
}

version "$(ip -V)" "ip utility, iproute2-6.1.0, libbpf 1.1.2"
question "A program reads routes, neighbours and entries of a bridge as JSON. Has an entry the same keys whether it was
          asked for by its device, its protocol, its gateway, or with all others?"
expected "The same: a filter chooses entries, and JSON is for programs."

ip link add br0 type bridge
ip tuntap add tap0 mode tap
ip link set tap0 master br0 up
ip link set br0 up
ip addr add 10.0.0.1/24 dev br0
ip route del 10.0.0.0/24 dev br0
ip route add 10.0.0.9 dev br0 scope link proto boot
ip route add 10.5.0.0/24 via 10.0.0.9 dev br0 proto static table 77
ip route del 10.0.0.9
ip neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev br0 nud permanent
"$ROOT/sbin/bridge" fdb add 02:00:00:00:00:07 dev tap0 master static

seen "route, table all" "$(ip -j route show table all 10.5.0.0/24 | keys)" \
    "dst gateway dev table protocol flags"
seen "route, of its table" "$(ip -j route show table 77 | keys)" "dst gateway dev protocol flags"
seen "route, table all dev br0" "$(ip -j route show table all dev br0 10.5.0.0/24 | keys)" \
    "dst gateway table protocol flags"
seen "route, table all proto static via 10.0.0.9" \
    "$(ip -j route show table all proto static via 10.0.0.9 | keys)" "dst dev table flags"
seen "neighbour" "$(ip -j neigh show | keys)" "dst dev lladdr state"
seen "neighbour, dev br0" "$(ip -j neigh show dev br0 | keys)" "dst lladdr state"
seen "bridge fdb" "$("$ROOT/sbin/bridge" -j fdb show | keys)" "mac ifname flags master state"
seen "bridge fdb, dev tap0" "$("$ROOT/sbin/bridge" -j fdb show dev tap0 | keys)" "mac flags master state"
finish
