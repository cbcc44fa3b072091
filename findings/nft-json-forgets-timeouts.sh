#!/bin/bash
# Of a ct timeout nft's own JSON brings back the name alone; of other named objects nothing.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2
nft() { "$ROOT/usr/sbin/nft" "$@"; }
again() { # again OBJECT...: what comes of a table with it, by JSON
    nft flush ruleset
    nft add table ip t
    nft add "$@"
    nft -j list ruleset >saved
    nft flush ruleset
    nft -j -f saved 2>said && echo "exit 0" || echo "exit $?: $(grep -om1 'Error: .*' said)"
}
policy() { sed -n 's/.*policy = //p'; }

version "$(nft --version | cut -d' ' -f1,2)" "nftables v1.0.6"
question "Flows of guests have timeouts of their own (ct timeout). The ruleset is saved by nft -j list ruleset and loaded
          by nft -j -f. What is the policy then?"
expected "The same, as it is with the text."

POLICY='{ protocol tcp; policy = { established: 100, close: 4 }; }'
nft add table ip t
nft add ct timeout ip t short "$POLICY"
nft list ruleset >text
nft flush ruleset
nft -f text
seen "by the text" "$(nft list ruleset | policy)" "{ established : 100, close : 4 }"
seen "by JSON" "$(again ct timeout ip t short "$POLICY")" "exit 0"
seen "in JSON it stood as" "$(grep -o '"policy": {[^}]*}' saved)" '"policy": {"established": 100, "close": 4}'
seen "policy" "$(nft list ruleset | policy)" "{  }"
seen "a ct expectation, by JSON" \
    "$(again ct expectation ip t e '{ protocol tcp; dport 9876; timeout 10m; size 12; l3proto ip; }')" \
    "exit 1: Error: missing options"
seen "a synproxy, by JSON" "$(again synproxy ip t s '{ mss 1460; wscale 7; timestamp sack-perm; }')" \
    "exit 1: Error: Unknown object passed to add command."
seen "a counter, by JSON" "$(again counter ip t c '{ packets 5 bytes 50; }')" "exit 0"
finish
