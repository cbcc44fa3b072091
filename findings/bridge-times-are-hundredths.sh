#!/bin/bash
# ip's times of a bridge are said to be seconds, and are hundredths: ageing_time 300 forgets a guest after 3 s.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/guests.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3 bridge-utils=1.7.1-1
brctl() { "$ROOT/sbin/brctl" "$@"; }
manual() { zcat "$ROOT/usr/share/man/man8/ip-link.8.gz" | tr '\n' ' '; }
ageing() { # by ip, by brctl
    printf 'ip %s, brctl %s' "$(ip -d link show br0 | grep -o 'ageing_time [0-9]*' | cut -d' ' -f2)" \
        "$(brctl showstp br0 | sed -n 's/^ *ageing time[ \t]*//p')"
}
known() { # whether the bridge knows the other guest's port 15 s later (for 6 s the guests ask for each other by ARP)
    reach 10.0.0.3 >/dev/null
    sleep 15
    bridge fdb show dynamic brport vother | grep -q . && echo yes || echo no
}
try() { "$@" 2>said && echo "exit 0" || echo "exit $?: $(cat said)"; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "ip link set br0 type bridge ageing_time 300, and forward_delay 15, as ip-link(8) describes them. After how long is a
          guest that is silent forgotten, so that frames to it go to all ports? What are they by brctl?"
expected "After 300 s, which is the kernel's own value: the manual says seconds, as brctl, which takes 300 for 300 s."

make_guests
for guest in guest other; do
    ip netns exec $guest sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6'
done
seen "ip-link(8) of ageing_time" "$(manual | grep -o 'the number of seconds a MAC address will be kept in the FDB')" \
    "the number of seconds a MAC address will be kept in the FDB"
seen "ip-link(8) of forward_delay" "$(manual | grep -o 'set the forwarding delay in seconds')" "set the forwarding delay in seconds"
seen "the kernel's own" "$(ageing)" "ip 30000, brctl 300.00"
seen "the guest is known 15 s after it was heard" "$(known)" yes
seen "ip … ageing_time 300" "$(try ip link set br0 type bridge ageing_time 300)" "exit 0"
seen "ageing_time" "$(ageing)" "ip 300, brctl 3.00"
seen "the guest is known 15 s after it was heard" "$(known)" no
seen "brctl setageing br0 300" "$(try brctl setageing br0 300)" "exit 0"
seen "ageing_time" "$(ageing)" "ip 30000, brctl 300.00"
seen "ip … forward_delay 15, STP is off" "$(try ip link set br0 type bridge forward_delay 15)" "exit 0"
seen "forward_delay by brctl" "$(brctl showstp br0 | awk '/forward delay/ { print $3 < 1 ? "below 1 s" : $3; exit }')" "below 1 s"
seen "ip … max_age 20" "$(try ip link set br0 type bridge max_age 20)" "exit 2: RTNETLINK answers: Numerical result out of range"
finish
