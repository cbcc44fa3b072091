#!/bin/bash
# bridge fdb flush takes the bridge's own address out of its table, and nobody reaches the host by it any more.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/guests.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
own() { bridge fdb show br br0 | grep -c '^02:00:00:00:00:aa dev br0 master br0 permanent' || true; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "Guests on a bridge talk to each other and to the host. Somebody empties what the bridge has learned:
          bridge fdb flush dev br0. What do the guests reach?"
expected "All as before: the bridge learns again, and what it knows of itself it knows."

make_guests address 02:00:00:00:00:aa
ip addr add 10.0.0.1/24 dev br0
seen "the host" "$(reach 10.0.0.1)" answers
seen "the other guest" "$(reach 10.0.0.3)" answers
seen "the bridge's own address is in its table" "$(own)" 1
bridge fdb flush dev br0
seen "bridge fdb flush, exit code" "$?" 0
seen "the bridge's own address is in its table" "$(own)" 0
seen "the host" "$(reach 10.0.0.1)" "is silent"
seen "the other guest" "$(reach 10.0.0.3)" answers
ip link set br0 down
ip link set br0 up
seen "the host, after down and up" "$(reach 10.0.0.1)" "is silent"
ip link set br0 address 02:00:00:00:00:aa
seen "the host, after it was given the address that it has" "$(reach 10.0.0.1)" "is silent"
ip link set br0 address 02:00:00:00:00:ab
ip link set br0 address 02:00:00:00:00:aa
seen "the host, after it was given another and this one again" "$(reach 10.0.0.1)" answers
bridge fdb flush dev br0
bridge fdb add 02:00:00:00:00:aa dev br0 self permanent
seen "the host, after another flush and bridge fdb add ADDRESS dev br0 self permanent" "$(reach 10.0.0.1)" answers
bridge fdb flush dev br0 nopermanent
seen "the host, after bridge fdb flush dev br0 nopermanent" "$(reach 10.0.0.1)" answers
finish
