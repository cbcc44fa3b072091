#!/bin/bash
# ip -6 addr replace with another prefix ends with 0 and leaves the prefix as it is; IPv4 gets a second address.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
try() { ip "$@" 2>said && echo "exit 0" || echo "exit $?: $(cat said)"; }
addresses() { ip "$1" -o addr show dev br0 scope global | awk '{print $4}' | paste -sd' '; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "A bridge has fd00::1/64 and 10.0.0.1/24. Both networks grow: ip addr replace fd00::1/48 and 10.0.0.1/16. What has the
          bridge then, and what of a label that is told to replace?"
expected "fd00::1/48 and 10.0.0.1/16, with the label, or an error."

ip link add br0 type bridge
ip link set br0 up
ip addr add fd00::1/64 dev br0 nodad
ip addr add 10.0.0.1/24 dev br0
seen "IPv6, replace" "$(try -6 addr replace fd00::1/48 dev br0 nodad)" "exit 0"
seen "addresses" "$(addresses -6)" "fd00::1/64"
seen "prefix routes" "$(ip -6 route show dev br0 | grep -o '^fd[^ ]*')" "fd00::/64"
seen "the new one deleted" "$(try -6 addr del fd00::1/48 dev br0)" "exit 2: Error: ipv6: address not found."
seen "IPv4, replace" "$(try addr replace 10.0.0.1/16 dev br0)" "exit 0"
seen "addresses" "$(addresses -4)" "10.0.0.1/24 10.0.0.1/16"
seen "IPv4, replace with a label" "$(try addr replace 10.0.0.1/24 dev br0 label br0:vms)" "exit 0"
seen "addresses with that label" "$(ip -4 addr show label br0:vms)" ""
finish
