#!/bin/bash
# network-config version 2 means less where cloud-init writes it out for something else than netplan.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/cloud_init.sh"
outside && enter_with_cloud_init
convert() { # convert RENDERER ROUTES: the last line of what is said
    rm -rf out
    printf '%s\n' 'version: 2' 'ethernets:' '  id0:' \
        '    match: {macaddress: "52:54:00:12:34:5a"}' '    addresses: [10.0.0.2/32]' \
        '    routes:' "$2" >config.yaml
    net_convert -D debian -m ens3,52:54:00:12:34:5a -O "$1" 2>&1 | grep -v '^$' | tail -1
}
route() { sed -n '/^\[Route\]/,$p' out/etc/systemd/network/*.network | grep -v '^$' | tr '\n' ' '; }

version_of_cloud_init
question "A guest gets a /32 and a gateway that is on the link (the usual layout of one TAP a VM), as
          network-config version 2 with the words of netplan: to: default, on-link, metric. What do
          guests without netplan make of it?"
expected "The same as those with netplan: version 2 is one format, and cloud-init translates it."

default='      - {to: default, via: 10.0.0.1, on-link: true}'
zeros='      - {to: 0.0.0.0/0, via: 10.0.0.1, on-link: true, metric: 50}'
seen "to: default, netplan" "$(convert netplan "$default")" "Wrote output format 'netplan' to 'out/'"
seen "to: default, networkd" "$(convert networkd "$default")" \
    "ValueError: Address default is not a valid ip address"
seen "to: default, eni" "$(convert eni "$default")" \
    "ValueError: Address default is not a valid ip address"
seen "to: 0.0.0.0/0, networkd" "$(convert networkd "$zeros")" \
    "Wrote output format 'networkd' to 'out/'"
seen "on-link and metric in it (no GatewayOnLink=, no Metric=)" "$(route)" \
    "[Route] Destination=0.0.0.0/0 Gateway=10.0.0.1 "
finish
