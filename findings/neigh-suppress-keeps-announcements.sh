#!/bin/bash
# neigh_suppress of a bridge's port keeps announcements and probes of ARP from its guest, and answers nobody in their place.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/guests.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
cat >tell.py <<'P'
"""tell.py OPERATION SENDER TARGET: broadcasts that ARP packet by eth0."""
import socket
import struct
import sys

operation, sender, target = int(sys.argv[1]), *map(socket.inet_aton, sys.argv[2:])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
mac = s.getsockname()[4]
head = struct.pack(">5H", 0x806, 1, 0x800, 0x604, operation)
s.send(b"\xff" * 6 + mac + head + mac + sender + bytes(6) + target)
P
cat >hear.py <<'P'
"""Prints the operation, the sender and the target of ARP packets that come to eth0 within a second."""
import socket

s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x806))
s.bind(("eth0", 0x806))
s.settimeout(1)
print("listens", flush=True)
try:
    while True:
        packet = s.recv(99)
        print("heard", packet[21], socket.inet_ntoa(packet[28:32]), socket.inet_ntoa(packet[38:42]))
except TimeoutError:
    pass
P
hears() { # hears OPERATION SENDER TARGET: whether the namespace guest does, when the namespace other says it
    local listener
    rm -f heard
    ip netns exec guest python3 hear.py >heard &
    listener=$!
    wait_for grep -q listens heard
    ip netns exec other python3 tell.py "$@"
    wait $listener
    grep -q "heard $*" heard && echo "heard" || echo "not heard"
}
thinks() { ip -n guest neigh show 10.0.0.9 | grep -o 'lladdr [^ ]*' | cut -d' ' -f2; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "neigh_suppress is turned on at a guest's port, so that the bridge answers ARP for neighbours that it knows. A virtual
          address moves to another guest, which announces it (gratuitous ARP); one more guest probes an address before it
          takes it. Does the guest at the port hear of it?"
expected "It does: the bridge answers requests for neighbours that the host has on record, here none, and passes on the rest."

make_guests
mac=$(ip -n other -o link show eth0 | sed 's|.*link/ether \([^ ]*\).*|\1|')
for state in off on; do
    bridge link set dev vguest neigh_suppress $state
    ip -n guest neigh replace 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud stale
    word=heard
    [ $state = off ] || word="not heard"
    seen "$state: who has 10.0.0.2, of 10.0.0.3" "$(hears 1 10.0.0.3 10.0.0.2)" "heard"
    seen "$state: 10.0.0.9 is announced by a request" "$(hears 1 10.0.0.9 10.0.0.9)" "$word"
    seen "$state: 10.0.0.9 is announced by a reply" "$(hears 2 10.0.0.9 10.0.0.9)" "$word"
    owner="the new owner's"
    [ $state = off ] || owner="the old owner's"
    seen "$state: the guest sends what is for 10.0.0.9 to the MAC address of" \
        "$([ "$(thinks)" = "$mac" ] && echo "the new owner's" || echo "the old owner's")" "$owner"
    seen "$state: 10.0.0.2 is probed, from 0.0.0.0" "$(hears 1 0.0.0.0 10.0.0.2)" "$word"
done
finish
