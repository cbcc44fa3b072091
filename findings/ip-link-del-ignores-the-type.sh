#!/bin/bash
# ip link del dev NAME type TYPE deletes a device of another type; ip link show type TYPE leaves it out.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
try() { ip "$@" >/dev/null 2>said && echo "exit 0" || echo "exit $?: $(head -1 said)"; }
there() { ip -br link show dev "$1" >/dev/null 2>&1 && echo yes || echo no; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "A cleanup says ip link del dev net0 type veth, so as to take away its own veth pair only. net0 is a bridge of somebody
          else's by now, or a TAP. What is deleted? And by ip tuntap del, of a TAP that is not there?"
expected "Nothing: an error, since there is no such device."

ip link add net0 type bridge
ip tuntap add net1 mode tap
seen "ip link show net0 type veth" "$(ip -br link show dev net0 type veth)" ""
seen "ip link del dev net0 type veth, of a bridge" "$(try link del dev net0 type veth)" "exit 0"
seen "the bridge is there" "$(there net0)" no
seen "ip link del dev net1 type vxlan, of a TAP" "$(try link del dev net1 type vxlan)" "exit 0"
seen "the TAP is there" "$(there net1)" no
seen "ip link del of what is not there" "$(try link del dev net2)" 'exit 1: Cannot find device "net2"'
seen "ip tuntap del of what is not there" "$(try tuntap del dev net2 mode tap)" "exit 0"
finish
