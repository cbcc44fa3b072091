#!/bin/bash
# ebtables-nft deletes no rule with --among-src by its words: "Invalid argument".
. "$(dirname "$0")/lib/question.sh"
. "$LIB/xtables.sh"
outside && enter_with_xtables
try() { multi ebtables "$@" 2>said && echo "exit 0" || echo "exit $?: $(head -1 said)"; }
rules() { multi ebtables -L FORWARD | grep -c -e '-j' || true; }

version "$(multi ebtables -V), Linux $(uname -r)" "ebtables 1.8.9 (nf_tables), Linux $(uname -r)"
question "A rule of ebtables lets the addresses of some guests pass: --among-src MAC=ADDRESS,…. It is taken back by the words it
          was added with."
expected "It goes, as a rule with -s does."

GUESTS=02:00:00:00:00:01=10.0.0.1,02:00:00:00:00:02=10.0.0.2
seen "-A --among-src" "$(try -A FORWARD --among-src $GUESTS -j ACCEPT)" "exit 0"
seen "-D --among-src" "$(try -D FORWARD --among-src $GUESTS -j ACCEPT)" "exit 1: ebtables: Invalid argument"
seen "rules" "$(rules)" 1
seen "-D 1" "$(try -D FORWARD 1)" "exit 0"
seen "rules" "$(rules)" 0
multi ebtables -A FORWARD -s 02:00:00:00:00:01 -j ACCEPT
seen "-D of one with -s" "$(try -D FORWARD -s 02:00:00:00:00:01 -j ACCEPT)" "exit 0"
finish
