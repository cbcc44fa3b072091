#!/bin/bash
# nft monitor tells of no element that expires, and of a renamed chain as of one more.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2
nft() { "$ROOT/usr/sbin/nft" "$@"; }
watch() { # watch SECONDS COMMAND...: what the monitor says meanwhile, but for generations
    timeout 20 "$ROOT/usr/sbin/nft" monitor >told 2>&1 &
    local monitor=$!
    sleep 1
    "${@:2}"
    sleep "$1"
    kill "$monitor" 2>/dev/null || true
    wait "$monitor" 2>/dev/null || true
    grep -v '^#' told | paste -sd';'
}

version "$(nft --version | cut -d' ' -f1,2), Linux $(uname -r)" "nftables v1.0.6, Linux $(uname -r)"
question "A program keeps a picture of the rules by nft monitor. An element with a timeout expires, a chain is renamed. What
          is it told?"
expected "Each of them: the element is deleted, and the old name is gone."

nft add table ip t
nft add set ip t s '{ type ipv4_addr; flags timeout; gc-interval 1s; }'
nft add chain ip t old
seen "an element of a second" "$(watch 4 nft add element ip t s '{ 10.0.0.1 timeout 1s }')" \
    "add element ip t s { 10.0.0.1 timeout 1s expires 1s }"
seen "elements now" "$(nft list set ip t s | grep -c elements || true)" 0
seen "rename chain old new" "$(watch 1 nft rename chain ip t old new)" "add chain ip t new"
seen "chains now" "$(nft list chains ip | grep -o 'chain [a-z]*' | paste -sd' ')" "chain new"
finish
