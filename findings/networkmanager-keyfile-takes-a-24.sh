#!/bin/bash
# In NetworkManager's keyfile a host's route without a prefix is one to its /24; nmcli makes a /32 of the same words.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb network-manager=1.42.4-1+deb12u1 libnm0=1.42.4-1+deb12u1 libndp0=1.8-1+deb12u1 libteamdctl0=1.31-1 \
        libbluetooth3=5.66-1+deb12u2 libmm-glib0=1.20.4-1 libnewt0.52=0.52.23-1+b1
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries /usr/bin/nmcli
    enter
fi
nmcli() { "$ROOT/usr/bin/nmcli" --offline connection "$@" 2>said; }
addresses() { sed -n 's/^\(address\|route\)1=//p' | paste -sd ' '; }
keyfile() { # keyfile ADDRESS ROUTE ADDRESS6 ROUTE6: as NetworkManager reads it, addresses and routes
    printf '%s\n' '[connection]' id=lan uuid=6b1a0c6e-0000-4000-8000-000000000001 type=ethernet interface-name=eth0 \
        '[ipv4]' method=manual "address1=$1" "route1=$2" '[ipv6]' method=manual "address1=$3" "route1=$4" |
        nmcli modify connection.autoconnect no | addresses
}
words() { # words ADDRESS ROUTE ADDRESS6 ROUTE6: of the keyfile that nmcli makes of them
    nmcli add type ethernet con-name lan ifname eth0 ipv4.method manual ipv4.addresses "$1" ipv4.routes "$2" \
        ipv6.method manual ipv6.addresses "$3" ipv6.routes "$4" | addresses
}

version "$("$ROOT/usr/bin/nmcli" --version)" "nmcli tool, version 1.42.4"
question "A guest's connection has an address and a route to one host, both without a prefix, of IPv4 and of IPv6: once as
          words of nmcli, once in a keyfile. Which prefixes have they?"
expected "The same in both, /32 and /128: without a prefix an address is one address. Or the file is refused."

seen "nmcli" "$(words 10.0.0.2 10.5.0.7 fd00::2 fd01::7)" "10.0.0.2/32 10.5.0.7/32 fd00::2/128 fd01::7/128"
seen "keyfile" "$(keyfile 10.0.0.2 10.5.0.7 fd00::2 fd01::7)" "10.0.0.2/24 10.5.0.7/24 fd00::2/64 fd01::7/128"
seen "what it says" "$(cat said)" ""
seen "keyfile, with a way" "$(keyfile 10.0.0.2 10.5.0.7,10.0.0.9 fd00::2 fd01::7,fd00::9)" \
    "10.0.0.2/24 10.5.0.7/24,10.0.0.9 fd00::2/64 fd01::7/128,fd00::9"
finish
