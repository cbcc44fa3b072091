#!/bin/bash
# QEMU without script=no has a TAP that is a bridge's port put on another bridge, that of the default route, for good.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/qemu.sh"
outside && enter_with_qemu
own_folders etc
cp "$ROOT/etc/qemu-ifup" "$ROOT/etc/qemu-ifdown" /etc/
export PATH=$ROOT/bin:$PATH # the scripts call ip
for name in br-lan br-guests; do ip link add $name type bridge; ip link set $name up; done
ip addr add 192.0.2.1/24 dev br-lan
ip route add default via 192.0.2.254
master() { ip -o link show tap0 | sed -n 's/.* master \([^ ]*\).*/\1/p'; }
tap() { # tap0, made for a VM, on br-guests
    ip tuntap add tap0 mode tap
    ip link set tap0 up master br-guests
}
run() { # run OPTION: a VM that has tap0, until it ends; where tap0 was then, and is afterwards
    "$QEMU" -nodefaults -display none -S -M none -netdev "tap,id=n0,ifname=tap0$1" \
        -qmp unix:qmp,server=on,wait=off >said 2>&1 &
    wait_for talk query-status
    master
    kill $!
    wait $! || true
    master
}

version_of_qemu
question "A VM's TAP was made before, and is a port of the guests' bridge. QEMU is given it by its name, without script= (Debian
          has /etc/qemu-ifup, which is the default). The host's own default route goes by another bridge, br-lan. Which
          bridge is the VM on, and the TAP once QEMU has ended?"
expected "br-guests: QEMU sets up the TAPs that it makes itself, and this one is there, up, and a port."

tap
seen "with script=no" "$(run ,script=no,downscript=no | paste -sd' ')" "br-guests br-guests"
seen "without" "$(run "" | paste -sd' ')" "br-lan br-lan"
seen "lines about tap0 in what QEMU says" "$(grep -c tap0 said)" "0"
finish
