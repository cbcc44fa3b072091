#!/bin/bash
# In dnsmasq's reservations a host name that looks like a time or a keyword is not a name.
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
cat >hosts <<X
52:54:00:00:00:01,10.9.0.11,web
52:54:00:00:00:02,10.9.0.12,101
52:54:00:00:00:03,10.9.0.13,2d
52:54:00:00:00:04,10.9.0.14,ignore
52:54:00:00:00:05,10.9.0.15,102.vm.test
X
cat >guest.py <<'P'
"""DISCOVER and REQUEST of one guest; prints the address, the lease time and the host name."""
import sys
from scapy.all import BOOTP, DHCP, IP, UDP, Ether, conf, srp1

conf.verb, conf.checkIPaddr = 0, False
mac = sys.argv[1]

def ask(*options):
    frame = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
    frame /= UDP(sport=68, dport=67) / BOOTP(chaddr=bytes.fromhex(mac.replace(":", "")), xid=77,
                                             flags=0x8000)
    wanted = ("param_req_list", [1, 3, 12])
    answer = srp1(frame / DHCP(options=[*options, wanted, "end"]), iface="guest", timeout=4)
    if answer is None:
        raise SystemExit(print("no answer"))
    said = dict(o[:2] for o in answer[DHCP].options if isinstance(o, tuple))
    return answer[BOOTP].yiaddr, said

address, said = ask(("message-type", "discover"))
address, said = ask(("message-type", "request"), ("requested_addr", address),
                    ("server_id", said["server_id"]))
print(address, f"{said['lease_time']} s", said.get("hostname", b"without a name").decode())
P
version "$("$ROOT/usr/sbin/dnsmasq" --version | sed -n '1s/  .*//p')" "Dnsmasq version 2.90"
question "Lines MAC,ADDRESS,NAME of a dhcp-hostsfile for VMs called web, 101, 2d and ignore (each a
          valid host name, RFC 1123). Which address, lease time and name does each guest get?"
expected "Its address, the range's hour and its name: the third field is where the name stands."

"$ROOT/usr/sbin/dnsmasq" --conf-file=/dev/null --keep-in-foreground --user=root --no-hosts \
    --no-resolv --pid-file= --interface=br0 --bind-interfaces --except-interface=lo \
    --dhcp-range=10.9.0.50,10.9.0.99,1h --dhcp-hostsfile="$FOLDER/hosts" --dhcp-leasefile="$FOLDER/leases" \
    --domain=vm.test --no-ping --log-facility="$FOLDER/log" &
wait_for grep -q "read .*hosts" log
seen web "$("$PYTHON" guest.py 52:54:00:00:00:01)" "10.9.0.11 3600 s web"
seen 101 "$("$PYTHON" guest.py 52:54:00:00:00:02)" "10.9.0.12 120 s without a name"
seen 2d "$("$PYTHON" guest.py 52:54:00:00:00:03)" "10.9.0.13 172800 s without a name"
seen ignore "$("$PYTHON" guest.py 52:54:00:00:00:04)" "no answer"
seen "102.vm.test (the way out)" "$("$PYTHON" guest.py 52:54:00:00:00:05)" "10.9.0.15 3600 s 102"
finish
