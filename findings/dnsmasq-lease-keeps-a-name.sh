#!/bin/bash
# A name that left dnsmasq's hostsdir resolves on where its address was leased; IPv4 only.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/dnsmasq.sh"
outside && enter_with_dnsmasq_and_a_guest
make_bridge
mkdir hosts names
for n in 10 11; do
    echo "52:54:00:00:00:$n,10.9.0.$n" >"hosts/vm$n"
    echo "10.9.0.$n vm$n.lan vm$n" >"names/vm$n"
done
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
version_of_dnsmasq
question "Two VMs have a reservation each (--dhcp-hostsdir) and a name (--hostsdir), and the names that
          guests send are ignored. One takes its address, then both are removed, files and all. Do
          their names resolve?"
expected "Neither does: --hostsdir is watched, and no guest said a name."
serve_guests --domain=lan --local=/lan/ --dhcp-ignore-names --dhcp-range=10.9.0.0,static,255.255.255.0,12h \
    --dhcp-hostsdir="$FOLDER/hosts" --hostsdir="$FOLDER/names" --leasefile-ro --dhcp-authoritative
wait_for grep -q "started, version" log
seen "the first takes its address" "$(lease 52:54:00:00:00:10)" 10.9.0.10
rm hosts/vm* names/vm*
wait_for sh -c "[ \"\$('$PYTHON' ask.py vm11.lan)\" = NXDOMAIN ]"
seen "the name of the second" "$("$PYTHON" ask.py vm11.lan)" NXDOMAIN
seen "the name of the first" "$("$PYTHON" ask.py vm10.lan)" 10.9.0.10
"$PYTHON" release.py
sleep 0.3
seen "after a DHCPRELEASE (the way out)" "$("$PYTHON" ask.py vm10.lan)" NXDOMAIN
finish
