#!/bin/bash
# dhcpcd puts the network's MTU on the routes that it makes; the card keeps 1500, and so do all other routes by it.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb dhcpcd-base=9.4.1-24~deb12u5 dnsmasq-base=2.90-4~deb12u2 libnetfilter-conntrack3=1.0.9-3 libnfnetlink0=1.0.2-2 \
        libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2 iproute2=6.1.0-3
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries /usr/sbin/dhcpcd
    libraries /usr/sbin/dnsmasq
    enter
fi
ip() { "$ROOT/bin/ip" "$@"; }
ip link set lo up
ip link add host type veth peer name eth0 address 52:54:00:00:00:0a
ip netns add guest
ip link set eth0 netns guest
ip link set host mtu 1400 up
ip addr add 10.0.0.1/24 dev host
# the guest's own /etc and /var/lib
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /etc
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/dhcpcd
"$ROOT/usr/sbin/dnsmasq" --conf-file=/dev/null --port=0 --interface=host --bind-dynamic --user=root \
    --dhcp-range=10.0.0.0,static --dhcp-host=52:54:00:00:00:0a,10.0.0.2 --dhcp-option=option:mtu,1400 --log-dhcp \
    --log-facility="$FOLDER/log" --pid-file= --leasefile-ro --no-ping --keep-in-foreground &
wait_for grep -qs 'DHCP, static leases only' log

version "$("$ROOT/usr/sbin/dhcpcd" --version | head -1)" "dhcpcd 9.4.1"
question "A network has an MTU of 1400, and its DHCP server says so. What is the MTU in a guest that asks by dhcpcd, with
          Debian's configuration of it (which asks for the MTU)?"
expected "The card's is 1400, as dhclient sets it."

ip netns exec guest "$ROOT/usr/sbin/dhcpcd" -4 -1 -B -f "$ROOT/etc/dhcpcd.conf" -c /bin/true eth0 >said 2>&1
seen "sent by the server" "$(sed -n 's/.*size: .*option: 26 *//p' log | uniq | paste -sd ' ')" "mtu  1400"
seen "address" "$(ip -n guest -4 -o addr show eth0 | sed 's/.*inet \([^ ]*\).*/\1/')" "10.0.0.2/24"
mtu() { sed -n 's/.*mtu \(lock \)*\([0-9]*\).*/\2/p'; }
seen "the card" "$(ip -n guest -o link show eth0 | mtu)" 1500
seen "the default route" "$(ip -n guest route show default | mtu)" 1400
ip -n guest route add 10.7.0.0/16 via 10.0.0.1
seen "a route that somebody adds (none of its own: the card's)" "$(ip -n guest route show 10.7.0.0/16 | mtu)" ""
large() { # large ADDRESS: sends a datagram of 1500 bytes that must not be cut
    ip netns exec guest python3 -c '
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
    wire.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: do
    try:
        wire.sendto(bytes(1472), (sys.argv[1], 9))
        print("sent")
    except OSError as problem:
        print(problem.strerror)
' "$1"
}
seen "1500 bytes by the default route" "$(large 10.8.0.1)" "Message too long"
seen "1500 bytes by the other" "$(large 10.7.0.1)" "sent"
finish
