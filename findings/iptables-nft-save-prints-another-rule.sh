#!/bin/bash
# iptables-nft-save prints a part of a native rule, which is another rule, and ends with 0.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb iptables=1.8.9-2 nftables=1.0.6-2+deb12u2
    libraries /usr/sbin/xtables-nft-multi
    libraries /usr/sbin/nft
    enter
fi
export XTABLES_LIBDIR=$ROOT/usr/lib/x86_64-linux-gnu/xtables
iptables() { local name=iptables$1; shift; (exec -a "$name" "$ROOT/usr/sbin/xtables-nft-multi" "$@"); }
nft() { "$ROOT/usr/sbin/nft" "$@"; }
saved() { # saved RULE: what is printed of it, and how that ends
    local code=0 text
    nft flush chain ip filter FORWARD
    nft add rule ip filter FORWARD "$1"
    text=$(iptables -save -t filter 2>/dev/null) || code=$?
    echo "$(grep -e '^-A' -e incompatible <<<"$text" || echo nothing), exit $code"
}

version "$(iptables '' --version)" "iptables v1.8.9 (nf_tables)"
question "An administrator adds a native rule to the table of iptables-nft. What does iptables-nft-save
          print of it, and how does it end?"
expected "The same rule, or an exit code that says that it was not printed."

iptables '' -A FORWARD -s 192.0.2.7 -j ACCEPT
seen "ip saddr 192.0.2.1-192.0.2.9 accept" "$(saved 'ip saddr 192.0.2.1-192.0.2.9 accept')" \
    "-A FORWARD -s 192.0.2.9/32 -j ACCEPT, exit 0"
seen "tcp dport { 22, 80 } accept" "$(saved 'tcp dport { 22, 80 } accept')" \
    "-A FORWARD -p tcp -j ACCEPT, exit 0"
seen "udp length 5 accept" "$(saved 'udp length 5 accept')" "-A FORWARD -p udp -j ACCEPT, exit 0"
seen "ct state new accept" "$(saved 'ct state new accept')" \
    "# Table \`filter' is incompatible, use 'nft' tool., exit 0"
seen "ip dscp 3 accept" "$(saved 'ip dscp 3 accept')" "nothing, exit 3"
finish
