#!/bin/bash
# systemd-resolved asks the world's name servers for names that are a bridge's alone (~lan) while the bridge has no carrier.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/systemd.sh"
. "$LIB/dbus.sh"
if outside; then
    prepare
    deb systemd-resolved=252.39-1~deb12u2 systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2 iproute2=6.1.0-3
    need_dbus
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu/systemd
    libraries /lib/systemd/systemd-resolved
    libraries /usr/bin/resolvectl
    enter
fi
resolvectl() { "$ROOT/usr/bin/resolvectl" "$@"; }
cat >name_server.py <<'P'
"""name_server.py ADDRESS ANSWER: gives each question for an A that answer, "-" for no such name; writes what it is asked."""
import socket
import sys

address, answer = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((address, 53))
print("serves", flush=True)
while True:
    asked, peer = s.recvfrom(512)
    end = asked.index(0, 12) + 5
    print("asked", asked[13:end - 5], flush=True)
    head, question = asked[:2], asked[12:end]
    if answer == "-":
        s.sendto(head + bytes.fromhex("8183 0001 0000 0000 0000") + question, peer)
    else:
        found = bytes.fromhex("c00c 0001 0001 0000003c 0004") + socket.inet_aton(answer)
        s.sendto(head + bytes.fromhex("8180 0001 0001 0000 0000") + question + found, peer)
P
ask() { # who is asked for web.lan, and what comes of it
    local who=nobody answer
    : >near
    : >far
    answer=$(resolvectl query -4 web.lan 2>&1 | head -1 | sed 's/ *-- link.*//')
    ! grep -q asked near || who="the bridge's name server"
    ! grep -q asked far || who="the world's name server"
    echo "$who; $answer"
}
scopes() { resolvectl status br0 | sed -n 's/ *Current Scopes: //p'; }
carrier() { [ "$(cat /sys/class/net/br0/carrier)" = "$1" ] && sleep 1; }

own_folders etc
for file in passwd group; do
    grep -q ^systemd-resolve: /etc/$file || echo systemd-resolve:x:5997:5997::/:/bin/false >>/etc/$file
done
rm -rf /etc/systemd/resolved.conf*
mkdir -p /etc/systemd /run/systemd
cat >/etc/systemd/resolved.conf <<'E'
[Resolve]
DNS=192.0.2.53
FallbackDNS=
Cache=no
DNSSEC=no
LLMNR=no
MulticastDNS=no
E
ip link set lo up
ip netns add world
ip link add wan type veth peer name eth0 netns world
ip link set wan up
ip addr add 192.0.2.1/24 dev wan
ip -n world link set eth0 up
ip -n world addr add 192.0.2.53/24 dev eth0
ip link add br0 type bridge
ip link set br0 up
ip addr add 10.0.0.1/24 dev br0
ip link add tap type veth peer name guest # a TAP whose program is there while guest is up
ip link set tap master br0 up
ip link set guest up
python3 name_server.py 10.0.0.1 10.0.0.5 >near &
ip netns exec world python3 "$FOLDER/name_server.py" 192.0.2.53 - >far &
wait_for grep -q serves near
wait_for grep -q serves far
start_bus
"$ROOT/lib/systemd/systemd-resolved" >log 2>&1 &
wait_for resolvectl status

version "$(resolvectl --version | head -1)" "systemd 252 (252.39-1~deb12u2)"
question "A host asks the name server of its VMs' bridge for names of VMs, and no other: resolvectl dns br0 10.0.0.1, resolvectl
          domain br0 '~lan'. All VMs are stopped; the bridge is up, has its address, and its name server answers. Who is
          asked for web.lan?"
expected "The bridge's name server: names below lan are routed to it and to nobody else."

resolvectl dns br0 10.0.0.1
resolvectl domain br0 '~lan'
wait_for carrier 1
seen "a VM runs" "$(ask)" "the bridge's name server; web.lan: 10.0.0.5"
ip link set guest down
wait_for carrier 0
seen "no VM runs" "$(ask)" "the world's name server; web.lan: Name 'web.lan' not found"
seen "resolvectl then: domain, dns, scopes" "$(resolvectl domain br0), $(resolvectl dns br0), $(scopes)" \
    "Link 3 (br0): ~lan, Link 3 (br0): 10.0.0.1, none"
seen "the bridge's name server, asked by itself" "$(python3 - <<'P'
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.sendto(bytes.fromhex("0001 0100 0001 0000 0000 0000 03 776562 03 6c616e 00 0001 0001"), ("10.0.0.1", 53))
print(socket.inet_ntoa(s.recv(512)[-4:]))
P
)" "10.0.0.5"
ip link del tap
seen "without a port" "$(ask)" "the world's name server; web.lan: Name 'web.lan' not found"
ip link add tap type veth peer name guest
ip link set tap master br0 up
ip link set guest up
wait_for carrier 1
seen "a VM runs again" "$(ask)" "the bridge's name server; web.lan: 10.0.0.5"
finish
