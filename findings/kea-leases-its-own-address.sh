#!/bin/bash
# Kea leases all of a pool: where that is the subnet, the network's address first, and then the server's own.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb kea-dhcp4-server=2.2.0-6 kea-common=2.2.0-6 liblog4cplus-2.0.5=2.0.8-1 \
        libpq5=15.20-0+deb12u1 libmariadb3=1:10.11.19-0+deb12u1 iproute2=6.1.0-3
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries /usr/sbin/kea-dhcp4
    pip scapy==2.6.1
    enter
fi
ip() { "$ROOT/bin/ip" "$@"; }
export KEA_LOCKFILE_DIR=/run KEA_PIDFILE_DIR=/run
ip link set lo up
ip link add br0 type bridge
ip addr add 10.9.0.1/29 dev br0
ip link add port type veth peer name guest
ip link set port master br0
for device in br0 port guest; do ip link set "$device" up; done
cat >kea.json <<'J'
{"Dhcp4": {"interfaces-config": {"interfaces": ["br0"]}, "lease-database": {"type": "memfile", "persist": false},
 "loggers": [{"name": "kea-dhcp4", "output_options": [{"output": "stdout"}], "severity": "INFO"}],
 "subnet4": [{"id": 1, "subnet": "10.9.0.0/29", "pools": [{"pool": "10.9.0.0/29"}],
  "option-data": [{"name": "routers", "data": "10.9.0.1"}]}]}}
J
cat >guest.py <<'P'
"""guest.py NUMBER: DISCOVER, and REQUEST of what is offered, by one guest; prints the address that it is given."""
import sys
from scapy.all import BOOTP, DHCP, IP, UDP, Ether, conf, srp1

conf.verb, conf.checkIPaddr = 0, False
mac = bytes([2, 0, 0, 0, 0, int(sys.argv[1])])

def ask(*options):
    frame = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
    frame /= UDP(sport=68, dport=67) / BOOTP(chaddr=mac, xid=77, flags=0x8000)
    answer = srp1(frame / DHCP(options=[*options, "end"]), iface="guest", timeout=3)
    if answer is None:
        raise SystemExit(print("no answer"))
    return answer[BOOTP].yiaddr, dict(o[:2] for o in answer[DHCP].options if isinstance(o, tuple))

address, said = ask(("message-type", "discover"))
address, said = ask(("message-type", "request"), ("requested_addr", address), ("server_id", said["server_id"]))
print({5: address, 6: "NAK"}[said["message-type"]])
P
"$ROOT/usr/sbin/kea-dhcp4" -c kea.json >log 2>&1 &
wait_for grep -q DHCP4_STARTED log

version "Kea $("$ROOT/usr/sbin/kea-dhcp4" -v)" "Kea 2.2.0"
question "A bridge is 10.9.0.1/29, and Kea leases addresses of that subnet on it; the pool is told as the subnet is, 10.9.0.0/29
          (a form that Kea has for pools). Which addresses are the first three guests given?"
expected "10.9.0.2, .3 and .4: not the network's, and not the one that the server has itself (and tells as the router)."

seen "the first guest" "$("$PYTHON" guest.py 1)" 10.9.0.0
seen "the second" "$("$PYTHON" guest.py 2)" 10.9.0.1
seen "the third" "$("$PYTHON" guest.py 3)" 10.9.0.2
seen "warnings about the pool" "$(grep -c 'WARN.*10\.9\.0\.' log)" 0
finish
