#!/bin/bash
# What iptables-translate cannot say in nft's words becomes a comment, or goes, and its exit code is 0.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/xtables.sh"
outside && enter_with_xtables nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2

version "$(multi iptables-translate -V)" "iptables-translate v1.8.9 (nf_tables)"
question "A firewall of iptables moves to nftables: iptables-restore-translate, then nft -f. Two of its rules have a
          match that nftables lacks (physdev). What does the translator say, and what does nft load?"
expected "An error that names the rules, as for any word that a compiler does not know."

cat >rules <<'R'
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -m physdev --physdev-in tap0 -j DROP
-A FORWARD -s 10.0.0.1 -j ACCEPT
-A FORWARD -m physdev --physdev-is-bridged -j DROP
COMMIT
R
multi iptables-restore-translate -f rules >translated
seen "iptables-restore-translate, exit code" "$?" 0
seen "in place of the first rule" "$(grep -m1 'tap0' translated)" \
    "# -t filter -A FORWARD -m physdev --physdev-in tap0 -j DROP "
"$ROOT/usr/sbin/nft" -f translated
seen "nft -f, exit code" "$?" 0
seen "rules of FORWARD" "$("$ROOT/usr/sbin/nft" -s list chain ip filter FORWARD | grep -c counter)" 1
seen "a place in the chain (-I FORWARD 3)" "$(multi iptables-translate -I FORWARD 3 -s 10.0.0.1 -j DROP)" \
    'nft '"'"'insert rule ip filter FORWARD ip saddr 10.0.0.1 counter drop'"'"
finish
