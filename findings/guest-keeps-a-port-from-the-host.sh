#!/bin/bash
# A guest's masqueraded flow holds its port: the host's own socket with that port is sent from another, by no rule.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2 iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
nft() { "$ROOT/usr/sbin/nft" "$@"; }
cat >peer.py <<'P'
"""Tells each sender to its port 51820 by which address and port it came, and writes to port 51820 of the host if told so."""
import socket

s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("192.0.2.2", 51820))
print("serves", flush=True)
while True:
    text, sender = s.recvfrom(99)
    if text == b"write":
        s.sendto(b"from the peer", ("192.0.2.1", 51820))
    else:
        s.sendto(f"{sender[0]}:{sender[1]}".encode(), sender)
P
cat >tunnel.py <<'P'
"""A program with a port of its own, as WireGuard: what its peer sees it as, and then what the peer writes to that port."""
import socket
import sys

s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[1])))
s.connect(("192.0.2.2", 51820))
s.settimeout(2)
s.send(b"?")
print(s.recv(99).decode(), flush=True)
if sys.argv[2:] == ["wait"]:
    try:
        print(s.recv(99).decode())
    except TimeoutError:
        print("nothing")
P
named() { # named ADDRESS:PORT PORT: as it is, if it has that port
    [ "${1#*:}" = "$2" ] && echo "$1" || echo "${1%:*}, another port"
}
host() { named "$(python3 tunnel.py "$1")" "$1"; }
guest() { named "$(ip netns exec guest python3 tunnel.py "$1")" "$1"; }
counted() { nft list table ip t | sed -n 's/.*counter packets \([0-9]*\).*/\1/p'; }

version "$(nft --version | cut -d' ' -f1,2), Linux $(uname -r)" "nftables v1.0.6, Linux $(uname -r)"
question "Guests are masqueraded: one rule, for what comes by their bridge. A guest's WireGuard (port 51820) has a peer, and
          later the host's own, of the same port, has the same peer. As which port does the peer see the host? Who gets
          what the peer writes to port 51820 of the host?"
expected "51820, and the host: no rule is for its own packets, and its socket has that port. The guest is moved elsewhere."

for name in peer guest; do
    ip netns add $name
done
ip link add wan type veth peer name eth0 netns peer
ip link add br0 type bridge
ip link add port master br0 type veth peer name eth0 netns guest
ip addr add 192.0.2.1/24 dev wan
ip addr add 10.0.0.1/24 dev br0
ip -n peer addr add 192.0.2.2/24 dev eth0
ip -n guest addr add 10.0.0.2/24 dev eth0
for device in wan br0 port; do
    ip link set $device up
done
for name in peer guest; do
    ip -n $name link set eth0 up
done
ip -n guest route add default via 10.0.0.1
echo 1 >/proc/sys/net/ipv4/ip_forward
nft add table ip t
nft add chain ip t postrouting '{ type nat hook postrouting priority srcnat; }'
nft add rule ip t postrouting iifname br0 oifname wan counter masquerade
ip netns exec peer python3 peer.py >served &
wait_for grep -q serves served

ip netns exec guest python3 tunnel.py 51820 wait >guest-had &
GUEST=$!
wait_for test -s guest-had
seen "the guest, as the peer sees it" "$(head -1 guest-had)" 192.0.2.1:51820
seen "the host after it, as the peer sees it" "$(host 51820)" "192.0.2.1, another port"
seen "packets that met the rule" "$(counted)" 1
python3 -c "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'write', ('192.0.2.2', 51820))"
wait $GUEST
seen "what the peer wrote to port 51820 of the host, as the guest had it" "$(tail -1 guest-had)" "from the peer"
seen "another port, the host first" "$(host 51821)" 192.0.2.1:51821
seen "the guest after it" "$(guest 51821)" "192.0.2.1, another port"
ip addr add 192.0.2.7/24 dev wan
nft flush chain ip t postrouting
nft add rule ip t postrouting iifname br0 oifname wan snat to 192.0.2.7
seen "the guest, translated to an address of its own" "$(guest 51822)" 192.0.2.7:51822
seen "the host after it" "$(host 51822)" 192.0.2.1:51822
finish
