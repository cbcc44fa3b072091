#!/bin/bash
# nft's JSON does not tell which device a chain of the family netdev stands on, and so cannot be loaded.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2 iproute2=6.1.0-3
nft() { "$ROOT/usr/sbin/nft" "$@"; }
chain() { python3 -c 'import json, sys
print(*next(o["chain"] for o in json.load(sys.stdin)["nftables"] if "chain" in o))'; }

version "$(nft --version | cut -d' ' -f1,2)" "nftables v1.0.6"
question "A program asks nft -j which devices have filters at their ingress. Does it learn the device?"
expected "Yes, by the key dev, as libnftables-json(5) has it; and what was listed can be loaded again."

"$ROOT/bin/ip" tuntap add tap0 mode tap
nft add table netdev t
nft add chain netdev t c '{ type filter hook ingress device tap0 priority 0; }'
seen "text" "$(nft list chain netdev t c | grep -o 'device[^;]*priority')" 'device "tap0" priority'
seen "keys of the chain in JSON" "$(nft -j list ruleset | chain)" "family table name handle type hook prio policy"
nft -j list ruleset >saved
nft flush ruleset
nft -j -f saved 2>said && code=0 || code=$?
seen "loaded again, exit code" "$code" 1
seen "it says" "$(head -1 said)" "internal:0:0-0: Error: Missing \`device' in this chain definition"
finish
