#!/bin/bash
# What ip route, rule and addr save is not what their restore makes.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
restored() { # restored WHAT [NAMESPACE]
    ip ${2:+-n "$2"} "$1" restore <"saved.$1" 2>said && printf 'exit 0' || printf 'exit %s: %s' $? "$(tail -1 said)"
}
rules() { ip rule | cut -d: -f1 | tr '\n' ' '; }
lookups() { ip rule | sed 's/.*lookup //;s/ //' | tr '\n' ' '; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "Before a change a host's routes, rules and addresses are saved by ip route save, ip rule save and ip addr
          save; a TAP has no program yet. What do the three restores make of it?"
expected "What was there: routes and addresses that are missing come back, and rules that are there stay as they are."

ip link add br0 type bridge
ip tuntap add tap0 mode tap
ip link set br0 up
ip link set tap0 up
ip addr add 10.0.0.1/24 dev br0
ip addr add 10.1.0.1/24 dev tap0
ip route del 10.0.0.0/24
ip route del 10.1.0.0/24
ip route add blackhole 10.5.0.0/24
ip route add 10.6.0.0/24 dev tap0
ip route add blackhole 10.7.0.0/24
for what in route rule addr; do
    ip $what save >saved.$what
done
ip route flush table main
seen "ip route restore, of routes by a TAP without carrier" "$(restored route)" \
    "exit 2: Error: Invalid rtm_flags - can not contain DEAD or LINKDOWN."
seen "routes that came back" "$(ip route | tr -s ' \n' ' ')" "blackhole 10.5.0.0/24 "
seen "rules before" "$(rules)" "0 32766 32767 "
seen "ip rule restore" "$(restored rule)" "exit 0"
seen "rules after" "$(rules)" "0 32765 32766 32766 32767 32767 "
seen "their tables" "$(lookups)" "local local main main default default "

# as after a boot: the same devices and no addresses, made in another order
ip netns add boot
ip -n boot tuntap add tap0 mode tap
ip -n boot link add br0 type bridge
seen "ip addr restore, devices made in another order" "$(restored addr boot)" "exit 0"
seen "br0, which had 10.0.0.1, has now" "$(ip -n boot -4 -o addr show br0 | grep -o 'inet [^ ]*')" "inet 10.1.0.1/24"
seen "tap0, which had 10.1.0.1" "$(ip -n boot -4 -o addr show tap0 | grep -o 'inet [^ ]*')" "inet 10.0.0.1/24"
finish
