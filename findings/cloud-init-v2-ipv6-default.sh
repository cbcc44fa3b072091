#!/bin/bash
# In network-config version 2 the route to ::/0 is one to ::/64 wherever there is no netplan.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/cloud_init.sh"
outside && enter_with_cloud_init
convert() { # convert RENDERER DISTRIBUTION LINE...: writes the guest's files below out
    rm -rf out
    printf '%s\n' 'version: 2' 'ethernets:' '  id0:' '    match: {macaddress: "52:54:00:12:34:5a"}' \
        '    set-name: eth0' '    addresses: [10.0.0.2/24, "fd00::2/64"]' "${@:3}" >config.yaml
    net_convert -D "$2" -O "$1" >said 2>&1 || cat said >&2
}
told() { # told FILE PATTERN: its lines that match
    # shellcheck disable=SC2086
    grep -h "$2" out/etc/$1 | sed 's/^[- ]*//' | tr '\n' ' '
}

version_of_cloud_init
question "A guest is given its default routes as 0.0.0.0/0 and ::/0. What do its files say, for each
          of the programs that cloud-init writes for?"
expected "Both, in each: a prefix of no bits is the default route of either family."

routes=('    routes:' '      - {to: 0.0.0.0/0, via: 10.0.0.1}' '      - {to: "::/0", via: "fd00::1"}')
convert netplan debian "${routes[@]}"
seen "netplan" "$(told 'netplan/*' ' to:')" "to: 0.0.0.0/0 to: ::/0 "
convert networkd debian "${routes[@]}"
seen "systemd-networkd" "$(told 'systemd/network/*' ^Destination)" "Destination=0.0.0.0/0 Destination=::/64 "
convert eni debian "${routes[@]}"
seen "ifupdown" "$(told 'network/interfaces.d/*' post-up)" \
    "post-up route add default gw 10.0.0.1 || true post-up route add -A inet6 ::/64 gw fd00::1 || true "
convert sysconfig rhel "${routes[@]}"
seen "sysconfig, IPv6" "$(told 'sysconfig/network-scripts/route6-eth0' via)" "::/64 via fd00::1  dev eth0 "
convert network-manager rhel "${routes[@]}"
seen "NetworkManager, all of it in the section of IPv4" \
    "$(sed -n '/^.ipv4/,/^.ipv6/p' out/etc/NetworkManager/system-connections/* | grep ^route | tr '\n' ' ')" \
    "route1=0.0.0.0/0,10.0.0.1 route2=::/64,fd00::1 "
gateway='    gateway6: "fd00::1"'
convert networkd debian "$gateway"
seen "gateway6, systemd-networkd" "$(told 'systemd/network/*' ^Gateway)" "Gateway=fd00::1 "
convert eni debian "$gateway"
seen "gateway6, ifupdown" "$(told 'network/interfaces.d/*' gateway)" "gateway fd00::1 "
convert sysconfig rhel "$gateway"
seen "gateway6, sysconfig" "$(told 'sysconfig/network-scripts/ifcfg-eth0' GW)" "IPV6_DEFAULTGW=fd00::1 "
convert network-manager rhel "$gateway"
seen "gateway6, NetworkManager" "$(told 'NetworkManager/system-connections/*' gateway)" "gateway=fd00::1 "
finish
