#!/bin/bash
# systemd gives the address of an ip= without a device to every network card of the guest.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/systemd.sh"
outside && enter_with_systemd /lib/systemd/systemd-network-generator
generate() { # writes below /run, which is this namespace's own
    rm -rf /run/systemd
    "$ROOT/lib/systemd/systemd-network-generator" "$1"
}
section() { # section NAME: of the only file that was written
    sed -n "/^\[$1\]/,/^\$/p" /run/systemd/network/*.network | sed '1d;/^$/d' | tr '\n' ' '
}
version_of_systemd
question "A guest with two network cards boots with ip=10.0.0.2::10.0.0.1:255.255.255.0:web::off (no
          device, as Linux' own documentation allows). What does systemd-network-generator make of it?"
expected "What the kernel does: the address is one card's, the first one's."

generate "ip=10.0.0.2::10.0.0.1:255.255.255.0:web::off"
seen "file" "$(ls /run/systemd/network)" 91-default.network
seen "the cards that it is for" "$(section Match)" "Kind=!* Type=!loopback "
seen "their address, each one's" "$(section Address)" "Address=10.0.0.2/24 "
generate "ip=10.0.0.2::10.0.0.1:255.255.255.0:web:eth0:off"
seen "with a device, the cards" "$(section Match)" "Name=eth0 "
generate "ip=10.0.0.2::10.0.0.1:255.255.255.255:web:eth0:off"
seen "gateway beside a /32 (no GatewayOnLink=)" "$(section Route)" "Gateway=10.0.0.1 "
finish
