#!/bin/bash
# A static lease of systemd-networkd, named by a MAC address, is not for clients that name themselves by a DUID, as its own do.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/systemd.sh"
outside && enter_with_systemd /lib/systemd/systemd-networkd scapy==2.6.1
prepare_networkd
ip link set lo up
ip link add br0 type bridge
ip link add port type veth peer name guest
ip link set port master br0
for device in br0 port guest; do ip link set "$device" up; done
cat >/run/systemd/network/10-br0.network <<'N'
[Match]
Name=br0
[Network]
Address=10.9.0.1/24
DHCPServer=yes
LinkLocalAddressing=no
[DHCPServer]
PoolOffset=100
PoolSize=10
[DHCPServerStaticLease]
MACAddress=52:54:00:00:00:0a
Address=10.9.0.10
N
printf '%s\n' '[Match]' 'Name=port guest' '[Link]' Unmanaged=yes >/run/systemd/network/11-others.network
cat >guest.py <<'P'
"""guest.py MAC [CLIENT ID]: DISCOVER by one guest; prints the address that it is offered."""
import sys
from scapy.all import BOOTP, DHCP, IP, UDP, Ether, conf, srp1

conf.verb, conf.checkIPaddr = 0, False
mac = bytes.fromhex(sys.argv[1].replace(":", ""))
options = [("message-type", "discover"), *(("client_id", bytes.fromhex(one)) for one in sys.argv[2:]), "end"]
frame = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
answer = srp1(frame / BOOTP(chaddr=mac, xid=77, flags=0x8000) / DHCP(options=options), iface="guest", timeout=3)
print(answer[BOOTP].yiaddr if answer else "no answer")
P
offered() { "$PYTHON" guest.py "$@"; }
"$ROOT/lib/systemd/systemd-networkd" >said 2>&1 &
wait_for sh -c "'$ROOT/bin/ip' -4 addr show br0 | grep -q 10.9.0.1"

version_of_systemd
question "A bridge of systemd-networkd serves DHCP, with [DHCPServerStaticLease] MACAddress= and Address=10.9.0.10 for a VM, and
          a pool from 10.9.0.100 on. Which address is the VM offered, by the client identifier that its system sends?"
expected "10.9.0.10 in each case: the lease is for a MAC address, and it is the same."

seen "none (udhcpc -C)" "$(offered 52:54:00:00:00:0a)" 10.9.0.10
seen "its MAC address (udhcpc)" "$(offered 52:54:00:00:00:0a 0152540000000a)" 10.9.0.10
duid=00020000ab11f3a1b2c3d4e5f607 # vendor's, as systemd-networkd makes one of the machine id
seen "IAID and DUID (systemd-networkd, dhcpcd; RFC 4361)" \
    "$(offered 52:54:00:00:00:0a "ff0000000a$duid" | sed 's/\.10.$/.10x/')" 10.9.0.10x
finish
