#!/bin/bash
# A ruleset loaded again with another rate of a named limit ends with 0 and leaves the old rate; a quota takes the new one.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2
nft() { "$ROOT/usr/sbin/nft" "$@"; }
load() { # load OBJECT...: a table with it, as a file that is loaded at each change
    printf 'table ip t {\n %s\n}\n' "$*" >rules
    nft -f rules 2>said && echo "exit 0" || echo "exit $?: $(grep -om1 'Error: .*' said)"
}
has() { nft list table ip t | sed '1d;$d' | tr -s '\n\t ' ' ' | sed 's/^ //;s/ $//'; }
twice() { # twice FIRST SECOND: what is there after both
    nft flush ruleset
    load "$1" >/dev/null
    printf '%s, %s' "$(load "$2")" "$(has)"
}

version "$(nft --version | cut -d' ' -f1,2), Linux $(uname -r)" "nftables v1.0.6, Linux $(uname -r)"
question "A guest's limit stands in a file: limit web { rate 10 mbytes/second }. It is changed to 20 mbytes/second, and
          the file loaded again by nft -f. Which limit holds? And of the other named objects?"
expected "The new one, or an error (File exists)."

seen "limit" "$(twice 'limit web { rate 10 mbytes/second; }' 'limit web { rate 20 mbytes/second; }')" \
    "exit 0, limit web { rate 10 mbytes/second }"
seen "ct timeout" "$(twice 'ct timeout web { protocol tcp; policy = { established: 100 }; }' \
    'ct timeout web { protocol udp; policy = { replied: 200 }; }')" \
    "exit 0, ct timeout web { protocol tcp l3proto ip policy = { established : 100 } }"
seen "ct helper" "$(twice 'ct helper web { type "ftp" protocol tcp; }' 'ct helper web { type "tftp" protocol udp; }')" \
    'exit 0, ct helper web { type "ftp" protocol tcp l3proto ip }'
seen "quota" "$(twice 'quota web { over 10 mbytes; }' 'quota web { over 20 mbytes; }')" \
    "exit 0, quota web { over 20 mbytes }"
seen "synproxy" "$(twice 'synproxy web { mss 1460; wscale 7; }' 'synproxy web { mss 1000; wscale 3; }')" \
    "exit 0, synproxy web { mss 1000 wscale 3 }"
seen "the timeout of a set" "$(twice 'set web { type ipv4_addr; timeout 1h; }' 'set web { type ipv4_addr; timeout 2h; }')" \
    "exit 0, set web { type ipv4_addr timeout 2h }"
seen "the flags of a set" "$(twice 'set web { type ipv4_addr; }' 'set web { type ipv4_addr; flags interval; }')" \
    "exit 1: Error: Could not process rule: File exists, set web { type ipv4_addr }"
finish
