#!/bin/bash
# net.ipv6.conf.all.disable_ipv6=0 and .addr_gen_mode=0, written where they are 0, turn IPv6 on where it was off for a device.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
settings=/proc/sys/net/ipv6/conf
addresses() { ip -6 -o addr show dev "$1" | awk '{print $4}' | sed 's/^fe80::.*/one of fe80::/' | paste -sd' '; }
told_again() { # told_again FAMILY SETTING VALUE: what tap0 has, to which VALUE was set, once "all" was written with what it has
    local folder=/proc/sys/net/$1/conf
    echo "$3" >"$folder/tap0/$2"
    cat "$folder/all/$2" >all
    cat all >"$folder/all/$2"
    cat "$folder/tap0/$2"
}

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "IPv6 is off on a network card by disable_ipv6=1 of that card, and a VM's TAP has addrgenmode none, so that the host has
          no address on either. A file in /etc/sysctl.d says net.ipv6.conf.all.disable_ipv6=0 and addr_gen_mode=0, which they
          are. A package brings another file there and runs sysctl --system. What has the host then?"
expected "What it had: a value that is there is written again. IPv4's 'all' changes no device either."

ip link add card type veth peer name switch
ip tuntap add tap0 mode tap
ip link set tap0 addrgenmode none
ip tuntap add tap1 mode tap
echo 1 >$settings/card/disable_ipv6
for device in card switch tap0; do
    ip link set $device up
done
sleep 1
seen "all.disable_ipv6 and all.addr_gen_mode, before" "$(paste $settings/all/disable_ipv6 $settings/all/addr_gen_mode)" "0	0"
seen "addresses of the card" "$(addresses card)" ""
echo 0 >$settings/all/disable_ipv6
seen "all.disable_ipv6=0: the card has" "$(cat $settings/card/disable_ipv6), $(addresses card)" "0, one of fe80::"
seen "addrgenmode of the TAP" "$(ip -d link show tap0 | grep -o 'addrgenmode [a-z0-9]*')" "addrgenmode none"
echo 0 >$settings/all/addr_gen_mode
seen "all.addr_gen_mode=0: the TAP has" "$(ip -d link show tap0 | grep -o 'addrgenmode [a-z0-9]*')" "addrgenmode eui64"
seen "ignore_routes_with_linkdown, IPv6" "$(told_again ipv6 ignore_routes_with_linkdown 1)" "0"
seen "ignore_routes_with_linkdown, IPv4" "$(told_again ipv4 ignore_routes_with_linkdown 1)" "1"
seen "forwarding, IPv6" "$(told_again ipv6 forwarding 1)" "0"
seen "forwarding, IPv4" "$(told_again ipv4 forwarding 1)" "1"
for setting in accept_ra accept_redirects; do
    seen "$setting, IPv6" "$(told_again ipv6 $setting 0)" "0"
done
for setting in proxy_ndp force_forwarding; do
    seen "$setting, IPv6" "$(told_again ipv6 $setting 1)" "1"
done
finish
