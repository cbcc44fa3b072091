#!/bin/bash
# A reservation whose file left dnsmasq's dhcp-hostsdir goes on, and its lease outlives the reload.
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
mkdir hosts
echo 52:54:00:00:00:0a,10.9.0.10 >hosts/a
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

if sys.argv[2:]:  # it has rebooted, and asks for the address that it had
    address, said = ask(("message-type", "request"), ("requested_addr", sys.argv[2]))
    raise SystemExit(print({5: "ACK", 6: "NAK"}[said["message-type"]]))
address, said = ask(("message-type", "discover"))
address, said = ask(("message-type", "request"), ("requested_addr", address),
                    ("server_id", said["server_id"]))
print(address)
P
version "$("$ROOT/usr/sbin/dnsmasq" --version | sed -n '1s/  .*//p')" "Dnsmasq version 2.90"
question "A VM with a reservation of its own file in --dhcp-hostsdir takes its address and is removed,
          file and all; the next VM is given the address by a file of its own. Who is given what: at
          once, after SIGHUP, after a restart (no lease file is kept)?"
expected "The directory is watched: the first VM gets no answer, the second the address. At the
          latest after SIGHUP, which reads all reservations again."

serve() {
    "$ROOT/usr/sbin/dnsmasq" --conf-file=/dev/null --keep-in-foreground --user=root --no-hosts \
        --no-resolv --pid-file= --interface=br0 --bind-interfaces --except-interface=lo \
        --dhcp-range=10.9.0.0,static,255.255.255.0,infinite --dhcp-hostsdir="$FOLDER/hosts" \
        --leasefile-ro --dhcp-authoritative --no-ping --log-facility="$FOLDER/log" &
    served=$!
}
first() { "$PYTHON" guest.py 52:54:00:00:00:0a; }
second() { "$PYTHON" guest.py 52:54:00:00:00:0b; }

serve
wait_for grep -q "read .*hosts/a" log
seen "the first VM" "$(first)" 10.9.0.10
rm hosts/a
echo 52:54:00:00:00:0b,10.9.0.10 >hosts/b
wait_for grep -q "hosts/b new or modified" log
seen "its file is gone" "$(first)" 10.9.0.10
seen "the second VM" "$(second)" "no answer"
kill -HUP "$served"
wait_for sh -c '[ "$(grep -c "cleared cache" log)" -ge 2 ] || [ "$(grep -c "read .*hosts/b" log)" -ge 2 ]'
seen "after SIGHUP, the first" "$(first)" "no answer"
seen "after SIGHUP, the second" "$(second)" "no answer"
seen "its log" "$(sed -n 's/.*: \(not using configured address.*\)/\1/p' log | tail -1)" \
    "not using configured address 10.9.0.10 because it is leased to 52:54:00:00:00:0a"
kill "$served"
wait "$served" || true
serve
wait_for sh -c '[ "$(grep -c "started, version" log)" -ge 2 ]'
sleep 0.3
seen "after a restart, the second (the way out)" "$(second)" 10.9.0.10
kill "$served"
wait "$served" || true
serve
wait_for sh -c '[ "$(grep -c "started, version" log)" -ge 3 ]'
sleep 0.3
seen "after another, for its own address" "$("$PYTHON" guest.py 52:54:00:00:00:0b 10.9.0.10)" ACK
finish
