#!/bin/bash
# tc filter replace adds one more filter, and tc filter change of u32 leaves its match as it was; both end with 0.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /sbin/tc iproute2=6.1.0-3
tc() { "$ROOT/sbin/tc" "$@"; }
filters() { tc filter show dev tap0 | sed -n 's/.*flowid \([^ ]*\).*/\1/p;s/ *match \([^ ]*\).*/\1/p' | paste -sd' '; }
u32() { tc filter "$1" dev tap0 parent 1: protocol ip prio 5 "${@:2}"; }

version "$(tc -V), Linux $(uname -r)" "tc utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "A guest's traffic has a class of htb, by a filter (u32) of its address. A script says tc filter replace each time it
          runs; then the guest gets another address, and the class another rate, by tc filter change and tc class change."
expected "One filter, with the new address; a class with the new rate, and all else as it was."

"$ROOT/bin/ip" tuntap add tap0 mode tap
tc qdisc add dev tap0 root handle 1: htb
tc class add dev tap0 parent 1: classid 1:10 htb rate 10mbit ceil 20mbit prio 3
u32 replace u32 match ip src 10.0.0.1 flowid 1:10
u32 replace u32 match ip src 10.0.0.1 flowid 1:10
seen "replaced twice" "$(filters)" "1:10 0a000001/ffffffff 1:10 0a000001/ffffffff"
tc filter del dev tap0 parent 1:
u32 add u32 match ip src 10.0.0.1 flowid 1:10
seen "added" "$(filters)" "1:10 0a000001/ffffffff"
u32 change handle 800::800 u32 match ip src 10.0.0.9 flowid 1:20
seen "changed to 10.0.0.9 and flowid 1:20, exit code" "$?" 0
seen "it is" "$(filters)" "1:20 0a000001/ffffffff"
u32 replace handle 800::800 u32 match ip src 10.0.0.9 flowid 1:20
seen "replaced by its handle" "$(filters)" "1:20 0a000001/ffffffff"
tc class change dev tap0 parent 1: classid 1:10 htb rate 5mbit
seen "class, after change to rate 5mbit" "$(tc class show dev tap0 | grep -o 'prio.*ceil [^ ]*')" \
    "prio 0 rate 5Mbit ceil 5Mbit"
finish
