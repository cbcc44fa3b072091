#!/bin/bash
# Of one interfaces file ifupdown and ifupdown-ng make other prefixes; a gateway that is refused is exit 0 of the latter.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb ifupdown-ng=0.11.4~rc1-1+b2
    mv "$FOLDER/root" "$FOLDER/ng"
    mkdir "$FOLDER/root"
    deb ifupdown=0.8.41 iproute2=6.1.0-3
    libraries /bin/ip
    libraries /sbin/ifup
    enter
fi
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/upper/network/if-{pre-up,up,down,post-down}.d /mnt/work /run/network
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /etc # ifupdown wants its directories
export PATH=$ROOT/bin:$ROOT/sbin:$PATH
cat >interfaces <<'I'
iface eth0 inet static
    address 10.0.0.2
    gateway 10.0.0.1
iface eth0 inet6 static
    address fd00::2

iface eth1 inet static
    address 10.1.0.2/16
    netmask 255.255.255.0

iface eth2 inet static
    address 10.2.0.2/32
    gateway 10.0.0.1
I
brought() { # brought CARD PROGRAM...: exit code, and what the card has
    local code=0
    ip tuntap add "$1" mode tap
    "${@:2}" -i interfaces "$1" >said 2>&1 || code=$?
    echo "exit $code: $(ip -o addr show "$1" | sed 's/.* inet6* \([^ ]*\).*/\1/' | paste -sd ' ')$(
        ip route show default dev "$1" | sed 's/ dev.*//;s/ *linkdown//;s/ *$//;s/^/, /')"
    ip link del "$1"
}
older() { brought "$1" "$ROOT/sbin/ifup"; }
newer() { brought "$1" "$FOLDER/ng/sbin/ifup" -E "$FOLDER/ng/usr/libexec/ifupdown-ng" -S /run/ng; }

version "$("$ROOT/sbin/ifup" --version | head -1), $("$FOLDER/ng/sbin/ifup" -V | head -1)" \
    "ifup version 0.8.41, ifupdown-ng 0.11.3"
question "Two programs read /etc/network/interfaces of Debian's guests. The file has an address without a prefix, one with
          both a prefix and a netmask, and a gateway beside a /32. What do they make of it?"
expected "The same; who cannot do what is told fails."

seen "no prefix, ifupdown" "$(older eth0)" "exit 0: 10.0.0.2/8 fd00::2/128, default via 10.0.0.1 onlink"
seen "no prefix, ifupdown-ng" "$(newer eth0)" "exit 0: 10.0.0.2/24 fd00::2/64, default via 10.0.0.1 metric 1"
seen "prefix 16 and netmask 255.255.255.0, ifupdown" "$(older eth1)" "exit 0: 10.1.0.2/24"
seen "prefix 16 and netmask 255.255.255.0, ifupdown-ng" "$(newer eth1)" "exit 0: 10.1.0.2/16"
seen "gateway beside a /32, ifupdown" "$(older eth2)" "exit 0: 10.2.0.2/32, default via 10.0.0.1 onlink"
seen "gateway beside a /32, ifupdown-ng" "$(newer eth2)" "exit 0: 10.2.0.2/32"
seen "what it said" "$(cat said)" "Error: Nexthop has invalid gateway."
finish
