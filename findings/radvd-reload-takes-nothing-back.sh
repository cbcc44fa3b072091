#!/bin/bash
# radvd tells guests nothing of an interface or a prefix that a reload took out of its file, nor when it ends then.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/guests.sh"
outside && enter_with /usr/sbin/radvd radvd=1:2.19-1+b1 iproute2=6.1.0-3
make_guests
ip addr add fd00:9::1/64 dev br0 nodad
ip link add br1 type bridge
ip link set br1 up
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
conf() { # conf INTERFACE PREFIX WORD: the file, in which radvd tells the prefix and to send or not
    printf 'interface %s { AdvSendAdvert %s; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 1800;
        prefix %s { DeprecatePrefix on; }; };\n' "$1" "$3" "$2" >radvd.conf
}
guest() { # what the guest has of the prefix fd00:9::/64, and its way out
    ip -n guest -6 -o addr show dev eth0 | sed -n '/fd00:9:/s/.* \(deprecated\) .*/address deprecated/p; t; s/.* fd00:9:.*/address/p'
    ip -n guest -6 route show default | sed -n '/^default/s/ .*/ route/p'
}
told() { guest | paste -sd, | sed 's/,/, /'; }
start() {
    conf br0 fd00:9::/64 on
    "$ROOT/usr/sbin/radvd" -C radvd.conf -n -d 1 -m stderr -p /run/radvd.pid -u root >said 2>&1 &
    radvd=$!
    wait_for sh -c "'$ROOT/bin/ip' -n guest -6 route show default | grep -q ^default"
    sleep 1
}
reload() { # reload WORD...: radvd reads the file that conf makes of them
    conf "$@"
    kill -HUP $radvd
    wait_for grep -q "resuming normal operation" said
    sleep 2
}
stop() {
    kill $radvd
    wait $radvd || true
    sleep 0.5
}

version "$("$ROOT/usr/sbin/radvd" --version 2>&1 | sed -n 's/^Version: //p')" 2.19
question "radvd tells the guests of br0 their prefix and that the host is their router, for 1800 s. When it is stopped it takes
          that back (a lifetime of 0, and the prefix as DeprecatePrefix says). Now br0 is taken out of its file, or told not
          to send any more, or given another prefix, and radvd is told to read it again (SIGHUP). What have the guests?"
expected "No router and no prefix of br0's any more; with the other prefix: the old address is deprecated."

start
seen "before" "$(told)" "address, default route"
stop
seen "stopped" "$(told)" "address deprecated"
start
reload br1 fd00:8::/64 on
seen "br0 is out of the file" "$(told)" "address, default route"
stop
seen "br0 is out of the file, and radvd stopped" "$(told)" "address, default route"
start
reload br0 fd00:9::/64 off
seen "AdvSendAdvert off" "$(told)" "address, default route"
stop
seen "AdvSendAdvert off, and radvd stopped" "$(told)" "address, default route"
start
reload br0 fd00:8::/64 on
seen "another prefix" "$(told)" "address, default route"
stop
seen "another prefix, and radvd stopped" "$(told)" "address"
finish
