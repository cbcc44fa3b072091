# shellcheck shell=bash
# Sourced after question.sh by what is asked of dnsmasq.

enter_with_dnsmasq() { # enter_with_dnsmasq PACKAGE==VERSION...: with it, ip, and these of Python
    prepare
    deb dnsmasq-base=2.90-4~deb12u2 iproute2=6.1.0-3
    libraries /usr/sbin/dnsmasq
    pip "$@"
    enter
}

enter_with_dnsmasq_and_a_guest() { # with what dhcp_guest.py needs
    enter_with_dnsmasq scapy==2.6.1
}

version_of_dnsmasq() {
    version "$("$ROOT/usr/sbin/dnsmasq" --version | sed -n '1s/  .*//p')" "Dnsmasq version 2.90"
}

ip() { "$ROOT/bin/ip" "$@"; }

make_bridge() { # br0 with the address 10.9.0.1/24, and the card guest on a port of it
    ip link set lo up
    ip link add br0 type bridge
    ip addr add 10.9.0.1/24 dev br0
    ip link add port type veth peer name guest
    ip link set port master br0
    ip link set port up
    ip link set br0 up
    ip link set guest up
}

serve_guests() { # serve_guests OPTION...: dnsmasq on br0, which writes ./log; $served is its process
    "$ROOT/usr/sbin/dnsmasq" --conf-file=/dev/null --keep-in-foreground --user=root --no-hosts --no-resolv --pid-file= \
        --interface=br0 --bind-interfaces --except-interface=lo --no-ping --log-facility="$FOLDER/log" "$@" &
    served=$!
}

lease_in_full() { # lease_in_full MAC [ADDRESS]: see dhcp_guest.py
    "$PYTHON" "$LIB/dhcp_guest.py" "$@" | paste -sd ' '
}

lease() { # lease MAC [ADDRESS]: the address alone, ACK, NAK, or "no answer"
    "$PYTHON" "$LIB/dhcp_guest.py" "$@" | sed -n 1p
}
