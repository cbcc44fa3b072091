#!/bin/bash
# ifupdown2's ifreload -a takes VMs' TAPs, addresses and the alias from a bridge of the interfaces file, though nothing changed in it.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip ifupdown2=3.0.0-1.1 bridge-utils=1.7.1-1 iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
mount -o remount,rw /sys # ifupdown2 writes to /sys/class/net, which has this namespace's devices
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/{etc,sbin,lib,work1,work2,work3} /run/lock /run/network bin
cp -r "$ROOT/etc/network" /mnt/etc/
cp "$ROOT/sbin/brctl" /mnt/sbin/
mkdir /mnt/lib/ifupdown2
for each in "/etc etc work1" "/usr/sbin sbin work2" "/var/lib lib work3"; do # it wants its own files there
    read -r where upper work <<<"$each"
    mount -t overlay -o "lowerdir=$where,upperdir=/mnt/$upper,workdir=/mnt/$work" overlay "$where"
done
for name in ifup ifreload; do ln -s "$ROOT/usr/share/ifupdown2/__main__.py" "bin/$name"; done
run() { /usr/bin/python3 "bin/$1" "${@:2}" && echo "exit 0" || echo "exit $?"; }
ports() { ip -br link show master "$1" | awk '{sub("@.*", "", $1); printf "%s ", $1}'; }
addresses() { ip -o -4 addr show br0 | awk '{printf "%s ", $4}'; }
named() { ip link show br0 | sed -n 's/^ *alias //p'; }
guest() { # what a manager of VMs does
    ip link set tap0 master br0
    ip addr replace 10.77.0.1/24 dev br0
    ip link set br0 alias "VMs of the second floor"
}
cat >/etc/network/interfaces <<'E'
auto eth0
iface eth0

auto br0
iface br0
    bridge-ports eth0
    address 10.0.0.1/24
E
ip link add eth0 type veth peer name switch
ip link set switch up
ip link add br1 type bridge
for name in tap0 tap1; do ip tuntap add $name mode tap; ip link set $name up; done
ip link set tap1 master br1
version "ifupdown2 $(sed -n 's/^Version: //p' "$ROOT"/usr/share/ifupdown2-*.egg-info/PKG-INFO)" \
    "ifupdown2 3.0.0"
question "A host has a bridge br0 of a card by ifupdown2. A VM's TAP is put on it, with an address and an alias. Someone says
          ifreload -a, with no change in the interfaces file ('non-disruptive', says its manual). What is left on br0?"
expected "All of it: nothing changed. Of ports, ifupdown2 has to do with those that it was told of."
seen "ifup -a" "$(run ifup -a)" "exit 0"
guest
seen "ports" "$(ports br0)" "eth0 tap0 "
seen "addresses" "$(addresses)" "10.0.0.1/24 10.77.0.1/24 "
seen "alias" "$(named)" "VMs of the second floor"
seen "ifreload -a" "$(run ifreload -a)" "exit 0"
seen "ports" "$(ports br0)" "eth0 "
seen "addresses" "$(addresses)" "10.0.0.1/24 "
seen "alias" "$(named)" ""
seen "ports of br1, which is not in the file" "$(ports br1)" "tap1 "
sed -i 's/bridge-ports eth0/bridge-ports none/' /etc/network/interfaces
run ifreload -a >/dev/null
guest
seen "ifreload -a with 'bridge-ports none'" "$(run ifreload -a)" "exit 0"
seen "ports" "$(ports br0)" ""
guest
seen "ifup br0" "$(run ifup br0)" "exit 0"
seen "ports" "$(ports br0)" ""
finish
