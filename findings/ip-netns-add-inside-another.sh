#!/bin/bash
# ip netns add in ip netns exec ends with 0; outside, the name is there and leads nowhere.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
try() { "$@" 2>said >/dev/null && echo "exit 0" || echo "exit $?: $(head -1 said)"; }

version "$(ip -V)" "ip utility, iproute2-6.1.0, libbpf 1.1.2"
question "A manager of VMs runs in a network namespace (ip netns exec host PROGRAM) and makes one for a guest there:
          ip netns add guest. Is it there for who looks from outside? What does ip -all netns exec end with?"
expected "It is, as names of namespaces are files of the machine; or ip netns add fails. A failed command is told."

ip netns add host
seen "ip netns add guest, inside" "$(try ip netns exec host "$ROOT/bin/ip" netns add guest)" "exit 0"
seen "the name, outside" "$(ip netns list 2>/dev/null | grep -o guest)" guest
seen "ip -n guest link, outside" "$(try ip -n guest link)" \
    'exit 255: setting the network namespace "guest" failed: Invalid argument'
seen "file system of its file (that of a namespace is nsfs)" "$(stat -f -c %T /run/netns/guest)" tmpfs
seen "ip netns add guest, outside" "$(try ip netns add guest)" \
    'exit 1: Cannot create namespace file "/run/netns/guest": File exists'
ip netns del guest
seen "ip -all netns exec false" "$(try ip -all netns exec false)" "exit 0"
seen "ip netns exec host false" "$(try ip netns exec host false)" "exit 1: "
finish
