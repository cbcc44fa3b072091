#!/bin/bash
# A range of ports translated to another range: all of them become its first port.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/xtables.sh"
outside && enter_with_nft 1.0.6-2+deb12u2 iproute2=6.1.0-3 iptables=1.8.9-2 libxtables12=1.8.9-2
ip() { "$ROOT/bin/ip" "$@"; }
nft() { "$ROOT/usr/sbin/nft" "$@"; }
cat >serve.py <<'P'
"""Answers each datagram to the guest's ports with the port's number, and with that of the host for others."""
import selectors
import socket

ports = selectors.DefaultSelector()
for number in (*range(8000, 8021), *range(9000, 9011)):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("10.0.0.2", number))
    ports.register(s, selectors.EVENT_READ)
print("serves", flush=True)
while True:
    for key, _ in ports.select():
        _, peer = key.fileobj.recvfrom(9)
        key.fileobj.sendto(str(key.fileobj.getsockname()[1]).encode(), peer)
P
cat >ask.py <<'P'
import socket
import sys

found = []
for number in sys.argv[1:]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(2)
        s.sendto(b"?", ("192.0.2.1", int(number)))
        try:
            found.append(f"{number}->{s.recv(9).decode()}")
        except OSError:
            found.append(f"{number}->none")
print(*found)
P
ask() { ip netns exec world python3 ask.py "$@"; }
nft_rule() { # nft_rule PORTS RANGE: the one rule of the table
    nft flush chain ip t prerouting
    nft add rule ip t prerouting iifname wan udp dport "$1" dnat to "10.0.0.2:$2"
}
iptables_rule() { # the same by iptables
    multi iptables -t nat -F PREROUTING
    multi iptables -t nat -A PREROUTING -i wan -p udp --dport "$1" -j DNAT --to-destination "10.0.0.2:$2"
}

version "$(nft --version | cut -d' ' -f1,2), $(multi iptables -V), Linux $(uname -r)" \
    "nftables v1.0.6, iptables v1.8.9 (nf_tables), Linux $(uname -r)"
question "A host publishes ports 8000 to 8010 as the guest's 9000 to 9010: udp dport 8000-8010 dnat to 10.0.0.2:9000-9010.
          Which port of the guest has what is sent to 8000, 8003 and 8010? And with ranges that overlap, dport 8000-8010
          to 8005-8015: what has 8003, 8007, 8010?"
expected "9000, 9003, 9010; 8008, 8012, 8015: the ranges are of one length."

for name in world guest; do
    ip netns add $name
done
ip link add wan type veth peer name eth0 netns world
ip link add inner type veth peer name eth0 netns guest
ip addr add 192.0.2.1/24 dev wan
ip addr add 10.0.0.1/24 dev inner
ip -n world addr add 192.0.2.2/24 dev eth0
ip -n guest addr add 10.0.0.2/24 dev eth0
ip link set wan up
ip link set inner up
for name in world guest; do
    ip -n $name link set eth0 up
done
ip -n guest route add default via 10.0.0.1
echo 1 >/proc/sys/net/ipv4/ip_forward
ip netns exec guest python3 serve.py >served &
wait_for grep -q serves served

nft add table ip t
nft add chain ip t prerouting '{ type nat hook prerouting priority dstnat; }'
nft_rule 8000-8010 9000-9010
seen "nft, 8000-8010 to 9000-9010" "$(ask 8000 8003 8010)" "8000->9000 8003->9000 8010->9000"
nft_rule 8000-8010 8005-8015
seen "nft, 8000-8010 to 8005-8015" "$(ask 8000 8003 8007 8010)" "8000->8005 8003->8005 8007->8007 8010->8010"
nft add map ip t ports '{ type inet_service : inet_service; elements = { 8000 : 9000, 8003 : 9003, 8010 : 9010 }; }'
nft flush chain ip t prerouting
nft add rule ip t prerouting iifname wan meta l4proto udp dnat to 10.0.0.2:udp dport map @ports
seen "nft, each port in a map" "$(ask 8000 8003 8010)" "8000->9000 8003->9003 8010->9010"
nft delete table ip t
iptables_rule 8000:8010 9000-9010
seen "iptables, 8000:8010 to 9000-9010" "$(ask 8000 8003 8010)" "8000->9000 8003->9000 8010->9000"
iptables_rule 8000:8010 9000-9010/8000
seen "iptables, 8000:8010 to 9000-9010/8000" "$(ask 8000 8003 8010)" "8000->9000 8003->9003 8010->9010"
finish
