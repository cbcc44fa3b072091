#!/bin/bash
# What nft -c says of NAT in the wrong place depends on what was loaded before: after a load that failed it tells.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with_nft 1.0.6-2+deb12u2
nft() { "$ROOT/usr/sbin/nft" "$@"; }
try() { nft "$@" 2>said && echo "exit 0" || echo "exit $?: $(grep -om1 'Error: .*' said)"; }

version "$(nft --version | cut -d' ' -f1,2), Linux $(uname -r)" "nftables v1.0.6, Linux $(uname -r)"
question "Before a firewall is changed its new rules are checked: nft -c -f rules. In them a dnat stands in a chain of the
          type filter, where the kernel takes none. Does the check tell?"
expected "Yes, each time: the kernel is asked, as for a table that is not there."

REFUSED="exit 1: Error: Could not process rule: Operation not supported"
printf 'table ip t {\n chain c { type filter hook forward priority 0; dnat to 10.0.0.1; }\n}\n' >rules
printf 'table ip other {\n chain c { type filter hook forward priority 0; accept; }\n}\n' >good
seen "nft -c -f rules" "$(try -c -f rules)" "exit 0"
seen "once more" "$(try -c -f rules)" "exit 0"
seen "nft -f rules" "$(try -f rules)" "$REFUSED"
seen "nft -c -f rules, after that" "$(try -c -f rules)" "$REFUSED"
seen "nft -f of good rules" "$(try -f good)" "exit 0"
seen "nft -c -f rules, after that" "$(try -c -f rules)" "exit 0"
echo 'delete table ip nosuch' >rules
seen "nft -c, of a table that is not there" "$(try -c -f rules)" \
    "exit 1: Error: Could not process rule: No such file or directory"
finish
