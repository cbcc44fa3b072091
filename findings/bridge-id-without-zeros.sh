#!/bin/bash
# iproute2 prints the MAC address in a bridge's id without leading zeros, in JSON too.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
data() { python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["linkinfo"]["info_data"][sys.argv[1]])' "$1"; }

version "$(ip -V)" "ip utility, iproute2-6.1.0, libbpf 1.1.2"
question "A bridge's id is its priority and its MAC address. Does the id that ip -d link (and ip -j) prints end with the
          address that the same command prints?"
expected "Yes: 8000.02:05:00:00:00:0a; sysfs has it as 8000.02050000000a."

ip link add br0 address 02:05:00:00:00:0a type bridge
seen "address" "$(ip -j link show br0 | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["address"])')" \
    02:05:00:00:00:0a
seen "bridge_id, text" "$(ip -d link show br0 | grep -o 'bridge_id [^ ]*')" "bridge_id 8000.2:5:0:0:0:a"
seen "bridge_id, JSON" "$(ip -d -j link show br0 | data bridge_id)" "8000.2:5:0:0:0:a"
seen "group_addr beside it, JSON" "$(ip -d -j link show br0 | data group_addr)" "01:80:c2:00:00:00"
seen "sysfs" "$(cat /sys/class/net/br0/bridge/bridge_id)" "8000.02050000000a"
finish
