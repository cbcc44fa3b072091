#!/bin/bash
# klibc's ipconfig, by which initial RAM disks read ip=, takes 255.255.255.255 for no netmask, and guesses one by class.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip klibc-utils=2.0.12-1 libklibc=2.0.12-1 iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
# the programs of klibc name their library by its path in /lib
mount -t overlay -o "lowerdir=$ROOT/lib:/usr/lib" overlay /usr/lib
ip tuntap add eth0 mode tap
ip link set eth0 up
configure() { # configure NETMASK: what eth0 has after it
    ip addr flush dev eth0
    "$ROOT/usr/lib/klibc/bin/ipconfig" -t 2 "ip=$1::10.0.0.1:$2:web:eth0:off" >/dev/null 2>&1 || echo "exit $? "
    ip -4 -o addr show eth0 | sed 's/.*inet \([^ ]*\).*/\1/'
}

version "klibc-utils 2.0.12-1, $(basename "$ROOT"/lib/klibc-*.so)" \
    "klibc-utils 2.0.12-1, klibc-XX6cASCB7KZyJWpIJW79y94XHBY.so"
question "A guest gets one address and nothing else on its link, ip=10.0.0.2::10.0.0.1:255.255.255.255:web:eth0:off, and its
          initial RAM disk reads that by ipconfig (initramfs-tools of Debian and Ubuntu). What is its netmask?"
expected "255.255.255.255, as it was told; or an error, since the gateway is not on the link."

seen "255.255.255.254" "$(configure 10.0.0.2 255.255.255.254)" "10.0.0.2/31"
seen "255.255.255.255" "$(configure 10.0.0.2 255.255.255.255)" "10.0.0.2/8"
seen "the gateway" "$(ip route show default | cut -d' ' -f1-5)" "default via 10.0.0.1 dev eth0"
seen "255.255.255.255, of 172.16.0.2" "$(configure 172.16.0.2 255.255.255.255)" "172.16.0.2/16"
finish
