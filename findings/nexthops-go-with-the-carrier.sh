#!/bin/bash
# Nexthops by a bridge are gone for good, with their routes, when the last program at its ports ends; nobody is told.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
cat >hold.py <<'P'
import fcntl, os, signal, struct
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"tap0", 0x1002))  # TUNSETIFF: IFF_TAP | IFF_NO_PI
signal.pause()
P
carrier() { [ "$(ip -o link show br0 | grep -c LOWER_UP)" = "$1" ]; }
nexthops() { ip nexthop | sed 's/ *$//' | paste -sd';'; }
routes() { { ip route && ip -6 route | grep -v fe80; } | sed 's/ linkdown//;s/ pref medium//;s/ *$//' | grep ' via' | paste -sd';'; }
start() {
    python3 hold.py &
    HOLDER=$!
    wait_for carrier 1
}

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "Two routes lead to a guest on a bridge: one says via, one names a nexthop (nhid), in IPv4 and IPv6. The only
          program at the bridge's TAPs ends, and starts again. Which routes are there, and who was told (ip monitor)?"
expected "All four: nobody touched the bridge or its addresses."

ip tuntap add tap0 mode tap
ip link add br0 type bridge
ip link set br0 up
ip link set tap0 up master br0
start
ip addr add 10.0.0.1/24 dev br0
ip addr add fd00::1/64 dev br0 nodad
ip nexthop add id 1 via 10.0.0.2 dev br0
ip nexthop add id 2 via fd00::2 dev br0
ip route add 10.5.0.0/24 via 10.0.0.2
ip route add 10.6.0.0/24 nhid 1
ip route add fd05::/64 via fd00::2
ip route add fd06::/64 nhid 2
seen "nexthops" "$(nexthops)" "id 1 via 10.0.0.2 dev br0 scope link;id 2 via fd00::2 dev br0 scope link"
seen "routes" "$(routes)" "10.5.0.0/24 via 10.0.0.2 dev br0;10.6.0.0/24 nhid 1 via 10.0.0.2 dev br0;fd05::/64 via fd00::2 dev br0 \
metric 1024;fd06::/64 nhid 2 via fd00::2 dev br0 metric 1024"
ip monitor nexthop route >told &
MONITOR=$!
sleep 1
kill "$HOLDER"
wait_for carrier 0
start
sleep 1
kill "$MONITOR"
seen "nexthops, after the program ended and started" "$(nexthops)" ""
seen "routes" "$(routes)" "10.5.0.0/24 via 10.0.0.2 dev br0;fd05::/64 via fd00::2 dev br0 metric 1024"
seen "told of what went" "$(grep -o 'Deleted.*nhid [0-9]\|Deleted id.*' told | paste -sd';')" "Deleted fd06::/64 nhid 2"
finish
