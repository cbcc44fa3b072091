#!/bin/bash
# tc's JSON has rates in bytes a second where its text has bits, and some kinds of classes have no JSON.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /sbin/tc iproute2=6.1.0-3
tc() { "$ROOT/sbin/tc" "$@"; }
of() { python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["options"][sys.argv[1]])' "$1"; }

version "$(tc -V)" "tc utility, iproute2-6.1.0, libbpf 1.1.2"
question "A TAP is limited: tbf rate 1mbit burst 10kb latency 50ms, and classes of htb. What do rate, burst and latency say
          in tc -j, and what do classes?"
expected "The numbers of the text, 1000000 and 0.05, with an object for each class."

"$ROOT/bin/ip" tuntap add tap0 mode tap
tc qdisc add dev tap0 root tbf rate 1mbit burst 10kb latency 50ms
seen "text" "$(tc qdisc show dev tap0 | grep -o 'rate.*[^ ]')" "rate 1Mbit burst 10Kb lat 50ms"
seen "JSON, rate (bytes a second)" "$(tc -j qdisc show dev tap0 | of rate)" 125000
seen "JSON, burst (bytes)" "$(tc -j qdisc show dev tap0 | of burst)" 10240
seen "JSON, lat (microseconds)" "$(tc -j qdisc show dev tap0 | of lat)" 50000
tc qdisc replace dev tap0 root handle 1: htb default 1
tc class add dev tap0 parent 1: classid 1:1 htb rate 10mbit
seen "tc -j class show: first word" "$(tc -j class show dev tap0 | cut -d' ' -f1-3)" "class htb 1:1"
tc -j class show dev tap0 >/dev/null
seen "its exit code" "$?" 0
finish
