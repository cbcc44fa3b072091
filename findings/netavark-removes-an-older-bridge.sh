#!/bin/bash
# netavark takes the bridge away with its last container, though it was there before the first one.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb netavark=1.4.0-3 iproute2=6.1.0-3 iptables=1.8.9-2 libip6tc2=1.8.9-2 libnftnl11=1.2.4-2 \
        libnetfilter-conntrack3=1.0.9-3 libnfnetlink0=1.0.2-2
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries /usr/lib/podman/netavark
    libraries /usr/sbin/xtables-nft-multi
    enter
fi
ip() { "$ROOT/bin/ip" "$@"; }
export XTABLES_LIBDIR=$ROOT/usr/lib/x86_64-linux-gnu/xtables PATH=$FOLDER/sbin:$PATH
mkdir sbin
for name in iptables ip6tables; do ln -s "$ROOT/usr/sbin/xtables-nft-multi" "sbin/$name"; done
ip link set lo up
ip link add br0 type bridge
ip link set br0 alias "VMs of the second floor" up
ip addr add 10.9.0.1/24 dev br0
container() { # container setup|teardown: one, as podman has it done in a network with --interface-name br0
    [ "$1" != setup ] || ip netns add box
    "$ROOT/usr/lib/podman/netavark" --config /run/netavark "$1" /run/netns/box <<'J' >said 2>&1 && echo "exit 0" || cat said
{"container_id": "b0b0b0b0b0b0", "container_name": "box",
 "networks": {"lan": {"static_ips": ["10.9.0.9"], "interface_name": "eth0"}},
 "network_info": {"lan": {"name": "lan", "id": "1a1a1a1a1a1a", "driver": "bridge", "network_interface": "br0",
  "subnets": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.1"}], "ipv6_enabled": false, "internal": false,
  "dns_enabled": false, "ipam_options": {"driver": "host-local"}}}}
J
    [ "$1" != teardown ] || ip netns del box
}
mkdir /run/netavark
bridge() { ip -o addr show br0 2>&1 | sed -n 's/.* inet \([^ ]*\).*/br0 with \1/p;s/^Device.*/none/p'; }

version "$("$ROOT/usr/lib/podman/netavark" --version)" "netavark 1.4.0"
question "An administrator has a bridge for VMs, with an address and an alias, and lets podman's containers use it, too
          (podman network create --interface-name br0). The last container ends. What becomes of the bridge?"
expected "It stays: netavark found it and did not make it."

seen "at first" "$(bridge)" "br0 with 10.9.0.1/24"
seen "a container comes" "$(container setup)" "exit 0"
ip tuntap add tap0 mode tap
ip link set tap0 master br0
seen "it goes while a VM's TAP is a port" "$(container teardown)" "exit 0"
seen "the bridge" "$(bridge)" "br0 with 10.9.0.1/24"
ip link del tap0
seen "a container comes" "$(container setup)" "exit 0"
seen "it goes, and no VM runs" "$(container teardown)" "exit 0"
seen "the bridge" "$(bridge)" "none"
finish
