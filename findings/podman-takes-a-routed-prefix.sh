#!/bin/bash
# podman network create takes a prefix to which the host has a route; with the first container packets to it go there.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/podman.sh"
if outside; then
    prepare
    deb podman=4.3.1+ds1-8+deb12u1+b3 libgpgme11=1.18.0-3+deb12u1 libassuan0=2.5.5-5 libsubid4=1:4.13+dfsg1-1+deb12u2 \
        conmon=2.1.6+ds1-1 netavark=1.4.0-3 iproute2=6.1.0-3 iptables=1.8.9-2 libip6tc2=1.8.9-2 libnftnl11=1.2.4-2 \
        libnetfilter-conntrack3=1.0.9-3 libnfnetlink0=1.0.2-2
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu:$FOLDER/root/lib/x86_64-linux-gnu
    libraries /usr/bin/podman
    libraries /usr/lib/podman/netavark
    enter
fi
ip() { "$ROOT/bin/ip" "$@"; }
export XTABLES_LIBDIR=$ROOT/usr/lib/x86_64-linux-gnu/xtables PATH=$FOLDER/sbin:$PATH
mkdir sbin /run/netavark
for name in iptables ip6tables; do ln -s "$ROOT/usr/sbin/xtables-nft-multi" "sbin/$name"; done
set_podman_up netavark
cat >container.py <<'P'
"""What podman tells netavark of the first container of a network."""
import json, sys
name = sys.argv[1]
network = json.load(open(f"net.d/{name}.json")) | {"dns_enabled": False}
own = {"static_ips": [network["subnets"][0]["gateway"][:-1] + "9"], "interface_name": "eth0"}
told = {"container_id": "b0" * 6, "container_name": name, "networks": {name: own}, "network_info": {name: network}}
print(json.dumps(told))
P
create() { # create NAME: the prefix that podman has chosen
    "$ROOT/usr/bin/podman" --log-level error network create "$1" >made || echo "exit $?"
    sed -n 's/.*"subnet": "\(.*\)".*/\1/p' "net.d/$1.json"
}
container() { # container NAME: the first one of the network
    ip netns add "$1"
    python3 container.py "$1" >told
    "$ROOT/usr/lib/podman/netavark" --config /run/netavark setup "/run/netns/$1" <told >said 2>&1 && echo "exit 0" || cat said
}
way() { ip route get "$1" | sed -n '1s/.*\(dev [^ ]*\).*/\1/p'; }
ip link set lo up
ip link add uplink type veth peer name switch
ip link set uplink up
ip link set switch up
ip addr add 192.0.2.1/24 dev uplink
ip link add br0 type bridge
ip link set br0 up
ip addr add 10.89.1.1/24 dev br0

version "$("$ROOT/usr/bin/podman" --version), $("$ROOT/usr/lib/podman/netavark" --version)" "podman version 4.3.1, netavark 1.4.0"
question "A host reaches VMs of another one in 10.89.0.0/24 by a route as a routing daemon makes it (metric 20), and more in
          10.89.2.0/24 by a route that was typed. 10.89.1.0/24 is a bridge's own. Which prefixes does podman network create
          choose for two new networks, and where do packets to the other host's VMs go once they have a container?"
expected "Prefixes that lead nowhere yet; packets go on to the other host."

ip route add 10.89.0.0/24 via 192.0.2.9 metric 20 proto static
ip route add 10.89.2.0/24 via 192.0.2.9
seen "network a" "$(create a)" "10.89.0.0/24"
seen "network b" "$(create b)" "10.89.2.0/24"
seen "the other host's VMs" "$(way 10.89.0.7), $(way 10.89.2.7)" "dev uplink, dev uplink"
seen "first container of a" "$(container a)" "exit 0"
seen "first container of b" "$(container b)" "exit 0"
seen "the other host's VMs in 10.89.0.0/24" "$(way 10.89.0.7)" "dev podman1"
seen "b's container" "$(way 10.89.2.9)" "dev uplink"
finish
