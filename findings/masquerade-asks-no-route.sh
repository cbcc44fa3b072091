#!/bin/bash
# masquerade takes neither the route's source address nor the host's own choice, and IPv4 uses deprecated addresses.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2 iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
nft() { "$ROOT/usr/sbin/nft" "$@"; }
cat >serve.py <<'P'
"""Tells each sender by which address it came."""
import selectors
import socket

sockets = selectors.DefaultSelector()
for family, address in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8:1::1")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind((address, 7000))
    sockets.register(s, selectors.EVENT_READ)
print("serves", flush=True)
while True:
    for key, _ in sockets.select():
        _, peer = key.fileobj.recvfrom(9)
        key.fileobj.sendto(peer[0].encode(), peer)
P
cat >ask.py <<'P'
import socket

found = []
for family, address in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8:1::1")):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(3)
        s.sendto(b"?", (address, 7000))
        found.append(s.recv(99).decode())
print(*found)
P
host() { python3 ask.py; }
guest() { ip netns exec guest python3 ask.py; }

version "$(nft --version | cut -d' ' -f1,2), Linux $(uname -r)" "nftables v1.0.6, Linux $(uname -r)"
question "The host has the addresses .1 and .7 (::1 and ::7), and a default route whose source (src) is .7 (::1). As whom are
          its own packets and those of masqueraded guests seen outside? And, without src, when .1 and ::7 are deprecated
          (preferred_lft 0)?"
expected "Both as the route says; and both as .7 and ::1, since deprecated addresses are not used for what is new."

for name in world guest; do
    ip netns add $name
done
ip link add wan type veth peer name eth0 netns world
ip link add br0 type bridge
ip link add port master br0 type veth peer name eth0 netns guest
for device in wan br0 port; do
    ip link set $device up
done
for name in world guest; do
    ip -n $name link set lo up
    ip -n $name link set eth0 up
done
for address in 192.0.2.1/24 192.0.2.7/24; do
    ip addr add $address dev wan
done
for address in 2001:db8::1/64 2001:db8::7/64; do
    ip addr add $address dev wan nodad
done
ip addr add 10.0.0.1/24 dev br0
ip addr add fd00::1/64 dev br0 nodad
ip -n world addr add 192.0.2.254/24 dev eth0
ip -n world addr add 2001:db8::fe/64 dev eth0 nodad
ip -n world addr add 198.51.100.1/32 dev lo
ip -n world addr add 2001:db8:1::1/128 dev lo nodad
ip -n guest addr add 10.0.0.2/24 dev eth0
ip -n guest addr add fd00::2/64 dev eth0 nodad
ip -n guest route add default via 10.0.0.1
ip -n guest route add default via fd00::1
ip route add default via 192.0.2.254 src 192.0.2.7
ip route add default via 2001:db8::fe src 2001:db8::1
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
nft add table inet t
nft add chain inet t postrouting '{ type nat hook postrouting priority srcnat; }'
nft add rule inet t postrouting iifname br0 oifname wan masquerade
ip netns exec world python3 serve.py >served &
wait_for grep -q serves served
wait_for guest

seen "src .7 and ::1: the host" "$(host)" "192.0.2.7 2001:db8::1"
seen "src .7 and ::1: a guest" "$(guest)" "192.0.2.1 2001:db8::7"
ip route replace default via 192.0.2.254
ip -6 route replace default via 2001:db8::fe
seen "no src: the host" "$(host)" "192.0.2.1 2001:db8::7"
seen "no src: a guest" "$(guest)" "192.0.2.1 2001:db8::7"
ip addr change 192.0.2.1/24 dev wan preferred_lft 0
ip addr change 2001:db8::7/64 dev wan preferred_lft 0
seen "shown as deprecated" "$(ip addr show dev wan deprecated | grep -o 'inet6* [^ ]*' | paste -sd' ')" \
    "inet 192.0.2.1/24 inet6 2001:db8::7/64"
seen ".1 and ::7 are deprecated: the host" "$(host)" "192.0.2.1 2001:db8::1"
seen ".1 and ::7 are deprecated: a guest" "$(guest)" "192.0.2.1 2001:db8::1"
finish
