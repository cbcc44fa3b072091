#!/bin/bash
# Of two neighbouring ranges that were added one after the other neither can be deleted, and one comment is gone.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2
nft() { "$ROOT/usr/sbin/nft" "$@"; }
elements() { nft list set ip t s | tr -d '\n' | sed -n 's/.*elements = { \(.*\) }.*}.*/\1/p'; }
try() { nft "$@" >/dev/null 2>said && echo "exit 0" || echo "exit $?: $(head -1 said)"; }

version "$(nft --version | cut -d' ' -f1,2), Linux $(uname -r)" "nftables v1.0.6, Linux $(uname -r)"
question "Two programs share a set with auto-merge. One adds 10.0.0.0/24 with its comment, the other 10.0.1.0/24 with its
          own. Then the second one takes back what it added."
expected "Both comments are there, or an error; the deletion leaves 10.0.0.0/24 with its comment."

nft add table ip t
nft add set ip t s '{ type ipv4_addr; flags interval; auto-merge; }'
nft add element ip t s '{ 10.0.0.0/24 comment "first" }'
seen "the second element" "$(try add element ip t s '{ 10.0.1.0/24 comment "second" }')" "exit 0"
seen "the set has" "$(elements)" '10.0.0.0/23 comment "second"'
seen "get element 10.0.1.0/24" "$(try get element ip t s '{ 10.0.1.0/24 }')" "exit 0"
seen "delete element 10.0.1.0/24" "$(try delete element ip t s '{ 10.0.1.0/24 }')" \
    "exit 1: Error: element does not exist"
seen "delete element 10.0.0.0/23" "$(try delete element ip t s '{ 10.0.0.0/23 }')" "exit 0"
seen "the set has" "$(elements)" ""
finish
