#!/bin/bash
# nmcli connection up of a bridge takes the TAPs of VMs off it; nmcli device reapply leaves them.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/dbus.sh"
if outside; then
    prepare
    deb network-manager=1.42.4-1+deb12u1 libnm0=1.42.4-1+deb12u1 libndp0=1.8-1+deb12u1 libteamdctl0=1.31-1 \
        libbluetooth3=5.66-1+deb12u2 libmm-glib0=1.20.4-1 libnewt0.52=0.52.23-1+b1 iproute2=6.1.0-3
    need_dbus
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries /usr/sbin/NetworkManager
    libraries /usr/bin/nmcli
    enter
fi
ip() { "$ROOT/bin/ip" "$@"; }
own_folders etc var # of its configuration and its state
rm -rf /etc/NetworkManager
mkdir -p /etc/NetworkManager/system-connections /var/lib/NetworkManager
cat >/etc/NetworkManager/NetworkManager.conf <<'N'
[main]
plugins=keyfile
auth-polkit=false
dns=none
no-auto-default=*
hostname-mode=none
[keyfile]
unmanaged-devices=interface-name:switch;interface-name:tap0
N
nmcli() { "$ROOT/usr/bin/nmcli" "$@" >said 2>&1 && echo "exit 0" || echo "exit $?: $(head -1 said)"; }
ports() { ip -o link show master br0 | sed 's|^[0-9]*: \([^:@]*\).*|\1|' | sort | paste -sd' '; }
has_port() { ports | grep -q "$1"; }
ip link set lo up
ip link add card0 type veth peer name switch
ip link set switch up
start_bus
"$ROOT/usr/sbin/NetworkManager" --no-daemon >log 2>&1 &
wait_for "$ROOT/usr/bin/nmcli" general status

version "$("$ROOT/usr/bin/nmcli" --version)" "nmcli tool, version 1.42.4"
question "A host's bridge br0, with a network card as a port, is NetworkManager's. VMs run: their manager has made their TAPs
          ports of br0; NetworkManager is told to leave tap0 alone, tap1 it has found by itself. Then the bridge's
          connection gets a name server, and is brought up anew, as nmcli's manual says. What are the bridge's ports?"
expected "The same: the bridge stays up, and what NetworkManager did not make it leaves."

nmcli connection add type bridge con-name br0 ifname br0 bridge.stp no ipv4.method manual ipv4.addresses 10.0.0.1/24 \
    ipv6.method disabled >made
nmcli connection add type ethernet con-name card0 ifname card0 master br0 >made
nmcli connection up br0 >made
nmcli connection up card0 >made
wait_for has_port card0
for tap in tap0 tap1; do
    ip tuntap add $tap mode tap
    ip link set $tap master br0 up
done
sleep 2
index=$(cat /sys/class/net/br0/ifindex)
seen "ports" "$(ports)" "card0 tap0 tap1"
nmcli connection modify br0 ipv4.dns 10.0.0.9 >made
seen "nmcli device reapply br0" "$(nmcli device reapply br0)" "exit 0"
sleep 2
seen "ports" "$(ports)" "card0 tap0 tap1"
seen "nmcli connection up br0" "$(nmcli connection up br0)" "exit 0"
nmcli connection up card0 >made
wait_for has_port card0
sleep 2
seen "ports" "$(ports)" "card0"
[ "$(cat /sys/class/net/br0/ifindex)" = "$index" ] && same=yes || same=no
seen "it is the same device" "$same" yes
finish
