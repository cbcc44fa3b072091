#!/bin/bash
# net.ipv4.conf.default changes devices that are there, unless they have an address or were made after its first change.
# A new namespace begins as the machine's own: none of these settings must have been written to `default` there.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
SETTINGS=/proc/sys/net
values() { # values FAMILY NAME DEVICE...: DEVICE=VALUE of each
    local device found=()
    for device in "${@:3}"; do
        found+=("$device=$(cat "$SETTINGS/$1/conf/$device/$2")")
    done
    echo "${found[*]}"
}
set_default() { echo "$3" >"$SETTINGS/$1/conf/default/$2"; }
make_bridge() {
    ip link add "$1" type bridge
    ip link set "$1" up
}

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "Guests run. net.ipv4.conf.default.proxy_arp is set to 1, later to 0 again. What have then tap0, br0 (no address),
          br1 (an address), br2 (an address that was taken away), br3 (proxy_arp was set to 0 by hand), and new, made
          between the two? And with other settings, and with those of IPv6?"
expected "All 0, and new 1: 'default' is what new devices begin with (ip-sysctl.rst: 'used during creating new interfaces')."

ALL="tap0 br0 br1 br2 br3"
ip tuntap add tap0 mode tap
for bridge in br0 br1 br2 br3; do
    make_bridge $bridge
done
ip addr add 10.1.0.1/24 dev br1
ip addr add 10.2.0.1/24 dev br2
ip addr del 10.2.0.1/24 dev br2
echo 0 >$SETTINGS/ipv4/conf/br3/proxy_arp
seen "proxy_arp, before" "$(values ipv4 proxy_arp $ALL)" "tap0=0 br0=0 br1=0 br2=0 br3=0"
set_default ipv4 proxy_arp 1
seen "proxy_arp, default is 1" "$(values ipv4 proxy_arp $ALL)" "tap0=1 br0=1 br1=0 br2=0 br3=0"
make_bridge new
seen "proxy_arp of a new device" "$(values ipv4 proxy_arp new)" "new=1"
set_default ipv4 proxy_arp 0
seen "proxy_arp, default is 0" "$(values ipv4 proxy_arp $ALL new)" "tap0=0 br0=0 br1=0 br2=0 br3=0 new=1"
set_default ipv4 arp_ignore 1
seen "arp_ignore, default is 1" "$(values ipv4 arp_ignore $ALL new)" "tap0=1 br0=1 br1=0 br2=0 br3=1 new=1"
set_default ipv4 send_redirects 0
seen "send_redirects, default is 0" "$(values ipv4 send_redirects $ALL new)" "tap0=0 br0=0 br1=1 br2=1 br3=0 new=0"
ip addr add 10.5.0.1/24 dev br0
set_default ipv4 send_redirects 1
seen "send_redirects, br0 has an address, default is 1" "$(values ipv4 send_redirects $ALL new)" \
    "tap0=1 br0=0 br1=1 br2=1 br3=1 new=1"
before=$(values ipv4 forwarding $ALL)
set_default ipv4 forwarding $((1 - $(cat $SETTINGS/ipv4/conf/default/forwarding)))
[ "$(values ipv4 forwarding $ALL)" = "$before" ] && changed=none || changed=some
seen "forwarding, default is another: devices that changed" "$changed" none
set_default ipv6 proxy_ndp 1
seen "IPv6, proxy_ndp, default is 1" "$(values ipv6 proxy_ndp $ALL)" "tap0=0 br0=0 br1=0 br2=0 br3=0"
set_default ipv6 accept_redirects 0
seen "IPv6, accept_redirects, default is 0" "$(values ipv6 accept_redirects $ALL)" "tap0=1 br0=1 br1=1 br2=1 br3=1"
finish
