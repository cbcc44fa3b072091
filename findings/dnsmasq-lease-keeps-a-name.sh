#!/bin/bash
# A name that left dnsmasq's hostsdir resolves on where its address was leased; IPv4 only.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb dnsmasq-base=2.90-4~deb12u2 iproute2=6.1.0-3
    libraries /usr/sbin/dnsmasq
    pip scapy==2.6.1
    enter
fi
ip() { "$ROOT/bin/ip" "$@"; }
ip link set lo up
ip link add br0 type bridge
ip addr add 10.9.0.1/24 dev br0
ip link add port type veth peer name guest
ip link set port master br0
ip link set port up
ip link set br0 up
ip link set guest up
mkdir hosts names
for n in 10 11; do
    echo "52:54:00:00:00:$n,10.9.0.$n" >"hosts/vm$n"
    echo "10.9.0.$n vm$n.lan vm$n" >"names/vm$n"
done
cat >guest.py <<'P'
"""DISCOVER, and REQUEST of what is offered, by one guest; prints the address that it is given."""
import sys
from scapy.all import BOOTP, DHCP, IP, UDP, Ether, conf, srp1

conf.verb, conf.checkIPaddr = 0, False
mac = sys.argv[1]

def ask(*options):
    frame = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
    frame /= UDP(sport=68, dport=67) / BOOTP(chaddr=bytes.fromhex(mac.replace(":", "")), xid=77,
                                             flags=0x8000)
    answer = srp1(frame / DHCP(options=[*options, "end"]), iface="guest", timeout=3)
    if answer is None:
        raise SystemExit(print("no answer"))
    return answer[BOOTP].yiaddr, dict(o[:2] for o in answer[DHCP].options if isinstance(o, tuple))

address, said = ask(("message-type", "discover"))
address, said = ask(("message-type", "request"), ("requested_addr", address),
                    ("server_id", said["server_id"]))
print(address)
P
cat >ask.py <<'P'
"""The address that the DNS tells for a name; NXDOMAIN."""
import socket, struct, sys

labels = b"".join(bytes([len(part)]) + part.encode() for part in sys.argv[1].split("."))
query = struct.pack("!6H", 77, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(3)
    client.sendto(query, ("10.9.0.1", 53))
    answer = client.recv(512)
print("NXDOMAIN" if answer[3] & 15 == 3 else socket.inet_ntoa(answer[-4:]))
P
cat >release.py <<'P'
"""A DHCPRELEASE in the guest's name, from this host."""
import socket, struct

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"br0\0")
    client.sendto(
        struct.pack("!4B8x4s12x16s192x", 1, 1, 6, 0, socket.inet_aton("10.9.0.10"),
                    bytes.fromhex("525400000010"))
        + b"\x63\x82\x53\x63\x35\x01\x07\x36\x04\x0a\x09\x00\x01\xff", ("10.9.0.1", 67))
P
version "$("$ROOT/usr/sbin/dnsmasq" --version | sed -n '1s/  .*//p')" "Dnsmasq version 2.90"
question "Two VMs have a reservation each (--dhcp-hostsdir) and a name (--hostsdir), and the names that
          guests send are ignored. One takes its address, then both are removed, files and all. Do
          their names resolve?"
expected "Neither does: --hostsdir is watched, and no guest said a name."
"$ROOT/usr/sbin/dnsmasq" --conf-file=/dev/null --keep-in-foreground --user=root --no-hosts \
    --no-resolv --pid-file= --interface=br0 --bind-interfaces --except-interface=lo \
    --domain=lan --local=/lan/ --dhcp-ignore-names --dhcp-range=10.9.0.0,static,255.255.255.0,12h \
    --dhcp-hostsdir="$FOLDER/hosts" --hostsdir="$FOLDER/names" --leasefile-ro \
    --dhcp-authoritative --no-ping --log-facility="$FOLDER/log" &
wait_for grep -q "started, version" log
seen "the first takes its address" "$("$PYTHON" guest.py 52:54:00:00:00:10)" 10.9.0.10
rm hosts/vm* names/vm*
wait_for sh -c "[ \"\$('$PYTHON' ask.py vm11.lan)\" = NXDOMAIN ]"
seen "the name of the second" "$("$PYTHON" ask.py vm11.lan)" NXDOMAIN
seen "the name of the first" "$("$PYTHON" ask.py vm10.lan)" 10.9.0.10
"$PYTHON" release.py
sleep 0.3
seen "after a DHCPRELEASE (the way out)" "$("$PYTHON" ask.py vm10.lan)" NXDOMAIN
finish
