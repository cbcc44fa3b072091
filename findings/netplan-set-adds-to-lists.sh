#!/bin/bash
# netplan set adds to a list instead of setting it, and copies the rest of the device into the file that it writes.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb netplan.io=0.106-2+deb12u1 libnetplan0=0.106-2+deb12u1 python3-netifaces=0.11.0-2+b1 \
        python3-yaml=6.0-3+b2 python3-rich=13.3.1-1
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries /usr/lib/x86_64-linux-gnu/libnetplan.so.0.0
    enter
fi
export PYTHONPATH=$ROOT/usr/share/netplan:$ROOT/usr/lib/python3/dist-packages
netplan() { # netplan COMMAND WORDS...; the library comes first, since the program asks the system's list for it
    LD_PRELOAD=libnetplan.so.0.0 /usr/bin/python3 "$ROOT/usr/share/netplan/netplan.script" "$1" \
        --root-dir "$FOLDER/guest" "${@:2}" 2>&1
}
listed() { tr -d '" -' | paste -sd ' '; }
addresses() { netplan get ethernets.eth0.addresses | listed; }
servers() { netplan get ethernets.eth0.nameservers.addresses | listed; }
kept() { # the keys of eth0 in the second file
    sed -n '/^    eth0:/,/^    eth1:/s/^      \([a-z0-9]*\):.*/\1/p' guest/etc/netplan/90-mtu.yaml | paste -sd ' '
}
mkdir -p guest/etc/netplan
cat >guest/etc/netplan/50-lan.yaml <<'Y'
network:
  version: 2
  ethernets:
    eth0:
      addresses: [10.0.0.2/24]
      nameservers: {addresses: [10.0.0.1]}
Y
chmod 600 guest/etc/netplan/50-lan.yaml

version "$(zcat "$ROOT/usr/share/doc/netplan.io/changelog.Debian.gz" | head -1 | cut -d' ' -f1,2)" "netplan.io (0.106-2+deb12u1)"
question "A guest's address is changed: netplan set ethernets.eth0.addresses=[10.0.0.3/24]. Then the MTU of each of its two
          cards is set, in a file for that (--origin-hint 90-mtu). Which addresses and name servers has eth0?"
expected "10.0.0.3 and no other (set is not add), and 10.0.0.1: a file that is written for MTUs holds MTUs."

seen "addresses" "$(addresses)" "10.0.0.2/24"
netplan set "ethernets.eth0.addresses=[10.0.0.3/24]"
seen "after 'netplan set'" "$(addresses)" "10.0.0.2/24 10.0.0.3/24"
netplan set --origin-hint 90-mtu ethernets.eth0.mtu=1400
seen "what 90-mtu.yaml has of eth0" "$(kept)" "mtu"
netplan set --origin-hint 90-mtu ethernets.eth1.mtu=1400
seen "once it has eth1's, too" "$(kept)" "addresses nameservers mtu"
seen "name servers" "$(servers)" "10.0.0.1 10.0.0.1"
netplan set --origin-hint 90-mtu ethernets.eth1.mtu=1300
seen "name servers, eth1's MTU set again" "$(servers)" "10.0.0.1 10.0.0.1 10.0.0.1"
finish
