#!/bin/bash
# ipset-translate makes of an exception of a set (nomatch) an element like the others, exit 0.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2 ipset=7.17-1 libipset13=7.17-1
ipset() { "$ROOT/usr/sbin/ipset" "$@"; }
nft() { "$ROOT/usr/sbin/nft" "$@"; }
in_ipset() { ipset -q test "$1" "$2" && echo in || echo out; } # in_ipset SET ELEMENT
in_nft() { nft get element inet global "$1" "{ $2 }" >/dev/null 2>&1 && echo in || echo out; }
translate() { # translate LINE...: what ipset restores of the lines, and what nft loads of their translation
    ipset destroy
    nft flush ruleset
    printf '%s\n' "$@" >saved
    ipset restore <saved
    (exec -a ipset-translate "$ROOT/usr/sbin/ipset" restore <saved >translated) || echo "exit $?"
}
load() { nft -f translated 2>said && echo "exit 0" || echo "exit $?: $(sed -n '1s/.*Error: //p' said)"; }

version "$(ipset version)" "ipset v7.17, protocol version: 7"
question "A firewall moves from ipset to nftables. A set has the guests' prefix at one port, and one guest that is excepted by
          nomatch. ipset save | ipset-translate restore | nft -f -: what is the excepted guest then?"
expected "Out, as before; or the translator says that it cannot, and ends with an error."

translate 'create web hash:net,port' 'add web 10.0.0.5,tcp:80 nomatch' 'add web 10.0.0.0/24,tcp:80'
seen "of ipset, 10.0.0.5 and 10.0.0.4" "$(in_ipset web 10.0.0.5,tcp:80), $(in_ipset web 10.0.0.4,tcp:80)" "out, in"
seen "translated" "$(sed -n 's/^add element inet global //p' translated | paste -sd' ')" \
    "web { 10.0.0.5 . tcp . 80 } web { 10.0.0.0/24 . tcp . 80 }"
seen "nft -f" "$(load)" "exit 0"
seen "of nft, 10.0.0.5 and 10.0.0.4" \
    "$(in_nft web '10.0.0.5 . tcp . 80'), $(in_nft web '10.0.0.4 . tcp . 80')" "in, in"
# ipset saves elements in no order: the same set, the other way round
translate 'create web hash:net,port' 'add web 10.0.0.0/24,tcp:80' 'add web 10.0.0.5,tcp:80 nomatch'
seen "nft -f, the exception behind" "$(load)" "exit 1: Could not process rule: File exists"
translate 'create guests hash:net' 'add guests 10.0.0.0/24' 'add guests 10.0.0.128/25 nomatch'
seen "without a port" "$(sed -n 's/^add element inet global //p' translated | paste -sd' ')" \
    "guests { 10.0.0.0/24 } guests { 10.0.0.128/25 }"
seen "nft -f" "$(load)" "exit 1: conflicting intervals specified"
finish
