#!/bin/bash
# The reference plugin bandwidth takes nothing from the host's end of a container's interface when it is told DEL.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /usr/lib/cni/bandwidth containernetworking-plugins=1.1.1+ds1-3+b5 iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
ip link set lo up
ip netns add box
ip link add host0 type veth peer name eth0 netns box
ip link set host0 up
ip -n box link set eth0 up
export CNI_CONTAINERID=box CNI_NETNS=/run/netns/box CNI_IFNAME=eth0 CNI_PATH=$ROOT/usr/lib/cni
mac() { ip $2 -o link show "$1" | sed 's/.*link.ether \([^ ]*\).*/\1/'; }
plugin() { # plugin COMMAND: exit code
    CNI_COMMAND=$1 "$ROOT/usr/lib/cni/bandwidth" >said <<J && echo "exit 0" || echo "exit $?: $(cat said)"
{"cniVersion": "1.0.0", "name": "lan", "type": "bandwidth", "ingressRate": 10000000, "ingressBurst": 1000000,
 "egressRate": 10000000, "egressBurst": 1000000, "prevResult": {"cniVersion": "1.0.0", "interfaces": [
  {"name": "host0", "mac": "$(mac host0 '')"}, {"name": "eth0", "mac": "$(mac eth0 '-n box')", "sandbox": "$CNI_NETNS"}],
  "ips": [], "routes": [], "dns": {}}}
J
}
queues() { "$ROOT/sbin/tc" qdisc show dev host0 | cut -d' ' -f2 | tr '\n' ' '; }

version "containernetworking-plugins 1.1.1, $(echo '{"cniVersion": "1.0.0"}' | CNI_COMMAND=VERSION "$CNI_PATH/bandwidth")" \
    'containernetworking-plugins 1.1.1, {"cniVersion":"1.0.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0"]}'
question "A runtime adds the plugin bandwidth to a container's interface and deletes it again, as CNI says (DEL undoes ADD);
          the interface itself stays. What is left on the host's end?"
expected "What was there before ADD: the kernel's own queue."

seen "queues before" "$(queues)" "noqueue "
seen "ADD" "$(plugin ADD)" "exit 0"
seen "queues" "$(queues)" "tbf ingress "
seen "ifb devices" "$(ip -o link show type ifb | wc -l)" 1
seen "DEL" "$(plugin DEL)" "exit 0"
seen "queues" "$(queues)" "tbf ingress "
seen "ifb devices" "$(ip -o link show type ifb | wc -l)" 0
finish
