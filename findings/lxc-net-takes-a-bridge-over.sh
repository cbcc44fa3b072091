#!/bin/bash
# lxc-net takes addresses, routes and the MAC address from a bridge that it is told to use; its stop leaves it down.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb lxc=1:5.0.2-1+deb12u4 dnsmasq-base=2.90-4~deb12u2 iproute2=6.1.0-3 nftables=1.0.6-2+deb12u2 \
        libnftables1=1.0.6-2+deb12u2 libnftnl11=1.2.4-2
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries /usr/sbin/nft
    libraries /usr/sbin/dnsmasq
    enter
fi
own_folders etc var
export PATH=$ROOT/bin:$ROOT/usr/sbin:$PATH
mkdir -p /etc/default /var/lib/misc
cat >/etc/default/lxc <<'C'
USE_LXC_BRIDGE="true"
LXC_BRIDGE="br0"
LXC_ADDR="10.9.0.1"
LXC_NETWORK="10.9.0.0/24"
LXC_DHCP_RANGE="10.9.0.200,10.9.0.250"
C
lxc_net() { bash "$ROOT/usr/libexec/lxc/lxc-net" "$1" >said 2>&1 && echo "exit 0" || echo "exit $?"; }
bridge() { # what br0 is and has
    ip -o link show br0 | sed 's/.*[<,]UP[,>].*ether \([^ ]*\).*/up, \1/; t; s/.*ether \([^ ]*\).*/down, \1/'
    ip -o addr show dev br0 scope global | sed 's/.* inet6* \([^ ]*\).*/\1/'
    ip route show dev br0 proto boot | sed 's/^/route /; s/ $//; s/ linkdown//'
}
all() { bridge | paste -sd, | sed 's/,\([^ ]\)/, \1/g'; }
ip link add br0 address 02:00:00:00:00:01 type bridge
ip link add port type veth peer name guest # a VM's
ip link set port up master br0
ip link set guest up
ip link set br0 up
ip addr add 10.9.0.1/24 dev br0
ip addr add fd00:9::1/64 dev br0 nodad
ip route add 10.50.0.0/16 via 10.9.0.7

version "$(zcat "$ROOT/usr/share/doc/lxc/changelog.Debian.gz" | sed -n "1s/ bookworm.*//p")" "lxc (1:5.0.2-1+deb12u4)"
question "VMs are on br0; behind one of them is a network to which the host has a route. Containers are to be on br0, too: lxc-net
          is told LXC_BRIDGE=br0, the address that br0 has, and a range for them. What has br0 once lxc-net is started, and
          when it is stopped while the VM is still there?"
expected "What it had: the bridge and the address are there, so there is nothing to set up; stopped, lxc-net takes its own away."

seen "before" "$(all)" "up, 02:00:00:00:00:01, 10.9.0.1/24, fd00:9::1/64, route 10.50.0.0/16 via 10.9.0.7"
seen "lxc-net start" "$(lxc_net start)" "exit 0"
seen "after it" "$(all)" "up, 00:16:3e:00:00:00, 10.9.0.1/24"
seen "lxc-net stop" "$(lxc_net stop)" "exit 0"
seen "after it" "$(all)" "down, 00:16:3e:00:00:00"
seen "the VM's port is still br0's" "$(ip -o link show port | grep -o 'master br0')" "master br0"
finish
