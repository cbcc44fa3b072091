#!/bin/bash
# A bridge keeps an MTU that was changed, not one that it was created with.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
mtu() { ip -o link show "$1" | sed 's/.* mtu \([0-9]*\) .*/\1/'; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "A bridge gets --mtu in the command that makes it, or by 'ip link set' at once afterwards.
          Does a TAP of another MTU that becomes its port change the bridge's MTU?"
expected "No: the administrator chose it, and a choice at creation is worth as much as a later one."

ip link add br0 mtu 9000 type bridge
ip tuntap add tap0 mode tap
ip link set tap0 master br0
seen "created with 9000, port of 1500, MTU now" "$(mtu br0)" 1500

ip link add br1 type bridge
ip link set br1 mtu 9000
ip tuntap add tap1 mode tap
ip link set tap1 master br1
seen "set to 9000, port of 1500, MTU now" "$(mtu br1)" 9000

ip link add br2 type bridge
ip link set br2 mtu 1500
ip tuntap add tap2 mode tap
ip link set tap2 mtu 9000
ip link set tap2 master br2
seen "set to the 1500 that it had anyway, port of 9000, MTU now" "$(mtu br2)" 9000
finish
