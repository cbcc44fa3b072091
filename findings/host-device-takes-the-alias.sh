#!/bin/bash
# The CNI plugin host-device keeps its own note in the alias of the device, in the place of what stood there.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /usr/lib/cni/host-device containernetworking-plugins=1.1.1+ds1-3+b5 iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
ip link set lo up
ip netns add box
ip link add port0 type veth peer name other
ip link set port0 alias "rack 4, asset 1207" mtu 1400 up
ip link property add dev port0 altname uplink-to-rack-4
export CNI_CONTAINERID=box CNI_NETNS=/run/netns/box CNI_IFNAME=eth0 CNI_PATH=$ROOT/usr/lib/cni
plugin() { # plugin COMMAND: exit code
    CNI_COMMAND=$1 "$ROOT/usr/lib/cni/host-device" >said \
        <<<'{"cniVersion": "1.0.0", "name": "lan", "type": "host-device", "device": "port0"}' && echo "exit 0" || cat said
}
device() { # device NAME [OPTIONS OF ip]: name, MTU, alias and other name
    ip "${@:2}" link show "$1" | sed -n 's/^[0-9]*: \([^@:]*\).* mtu \([0-9]*\).*/\1 \2/p;s/^ *alias //p;s/^ *altname //p' |
        paste -sd '|'
}

version "containernetworking-plugins 1.1.1, $(echo '{"cniVersion": "1.0.0"}' | CNI_COMMAND=VERSION "$CNI_PATH/host-device")" \
    'containernetworking-plugins 1.1.1, {"cniVersion":"1.0.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0"]}'
question "A device of the host has an alias, by which its administrator or a program knows whose it is. A container gets it
          by host-device, and gives it back. What is the alias while it is away, and afterwards?"
expected "What it was: the plugin gives another name, and takes that back (DEL undoes ADD)."

seen "before" "$(device port0)" "port0 1400|rack 4, asset 1207|uplink-to-rack-4"
seen "ADD" "$(plugin ADD)" "exit 0"
seen "in the container" "$(device eth0 -n box)" "eth0 1400|port0|uplink-to-rack-4"
seen "DEL" "$(plugin DEL)" "exit 0"
seen "afterwards" "$(device port0)" "port0 1400|port0|uplink-to-rack-4"
finish
