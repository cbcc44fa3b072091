#!/bin/bash
# A guest whose DHCP client is busybox' udhcpc does not ask for the network's MTU, and so is not told.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /usr/sbin/dnsmasq busybox=1:1.35.0-4+deb12u1+b1 dnsmasq-base=2.90-4~deb12u2 iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
ip link set lo up
ip link add host address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02
ip netns add guest
ip link set eth0 netns guest
ip link set host mtu 1400 up
ip -n guest link set eth0 up
ip addr add 10.0.0.1/24 dev host
serve() { # serve OPTION
    "$ROOT/usr/sbin/dnsmasq" --conf-file=/dev/null --port=0 --interface=host --bind-dynamic --user=root \
        --dhcp-range=10.0.0.0,static --dhcp-host=02:00:00:00:00:02,10.0.0.2 "$1" --log-dhcp \
        --log-facility="$FOLDER/log" --pid-file="$FOLDER/pid" --dhcp-leasefile="$FOLDER/leases" --keep-in-foreground &
    wait_for grep -qs 'DHCP, static leases only' log
}
cat >told <<'S'
#!/bin/bash
[ "$1" != bound ] || echo "ip $ip, mtu ${mtu:-none}"
S
chmod +x told
ask() { ip netns exec guest "$ROOT/bin/busybox" udhcpc -i eth0 -n -q -f -t 5 -T 1 -s "$FOLDER/told" "$@" 2>/dev/null; }

version "$("$ROOT/bin/busybox" | head -1 | cut -d' ' -f1,2), $("$ROOT/usr/sbin/dnsmasq" --version | head -1 | cut -d' ' -f1-3)" \
    "BusyBox v1.35.0, Dnsmasq version 2.90"
question "A network has an MTU of 1400, and dnsmasq has it as an option (dhcp-option=option:mtu,1400). What is a guest told
          that asks by udhcpc, as small images and initial RAM disks do?"
expected "Its address and the MTU: a server sends its options, as it sends the address."

serve --dhcp-option=option:mtu,1400
seen "udhcpc" "$(ask)" "ip 10.0.0.2, mtu none"
seen "what it asks for" "$(sed -n 's/.*requested options: //p' log | head -2 | tr -d '\n')" \
    "1:netmask, 3:router, 6:dns-server, 12:hostname, 15:domain-name, 28:broadcast, 42:ntp-server"
seen "udhcpc -O mtu" "$(ask -O mtu)" "ip 10.0.0.2, mtu 1400"
kill "$(cat pid)"
wait
rm -f log pid
serve --dhcp-option-force=option:mtu,1400
seen "dhcp-option-force=option:mtu,1400 and udhcpc" "$(ask)" "ip 10.0.0.2, mtu 1400"
finish
