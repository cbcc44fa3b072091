#!/bin/bash
# Permanent entries of the neighbour table go when their device gets another MAC address, or is taken down and up.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
fixed() {
    ip neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev br0 nud permanent
    ip neigh replace fd00::2 lladdr 02:00:00:00:00:02 dev br0 nud permanent
}
left() { ip neigh show dev br0 nud permanent | cut -d' ' -f1 | paste -sd' '; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "A host says for good which MAC address a guest has: ip neigh replace … nud permanent, on the guest's bridge. What
          is left of it when the last port loses its carrier, the bridge gets another MAC address, or goes down and up?"
expected "All of it: ip neigh flush leaves permanent entries, too, and the guest's address is what it was."

ip link add br0 type bridge
ip link add port type veth peer name guest
ip link set br0 up
ip link set port up master br0
ip link set guest up
ip addr add 10.0.0.1/24 dev br0
ip addr add fd00::1/64 dev br0 nodad
fixed
ip neigh flush dev br0
seen "after ip neigh flush dev br0" "$(left)" "10.0.0.2 fd00::2"
ip link set guest down
sleep 1.5
ip link set guest up
seen "after the carrier went and came" "$(left)" "10.0.0.2 fd00::2"
ip link set br0 address 02:00:00:00:00:aa
seen "after the bridge got another MAC address" "$(left)" ""
fixed
ip link set br0 address 02:00:00:00:00:aa
seen "after it was given the one that it has" "$(left)" ""
ip link add lower address 00:00:00:00:00:01 type veth peer name end
ip link add br1 type bridge
ip link set br1 up
ip addr add 10.1.0.1/24 dev br1
ip neigh replace 10.1.0.2 lladdr 02:00:00:00:00:02 dev br1 nud permanent
ip link set lower master br1
seen "on a bridge without an address of its own, after a port came" \
    "$(ip neigh show dev br1 nud permanent | cut -d' ' -f1)" ""
ip link set br0 down
ip link set br0 up
seen "after down and up" "$(left)" ""
finish
