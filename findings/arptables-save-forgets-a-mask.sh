#!/bin/bash
# A rule on a masked MAC address is saved by arptables without that condition: restored it meets all of ARP.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/xtables.sh"
outside && enter_with_xtables nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
arptables() { multi arptables "$@"; }
save() { multi arptables-save; }
restore() { multi arptables-restore; }
saved() { save | grep ^-A; }
sees() { # what the kernel's rule compares at the sender's MAC address
    "$ROOT/usr/sbin/nft" --debug=netlink list chain arp filter INPUT 2>/dev/null |
        grep -c 'payload load .b @ network header + 8' || true
}

version "$(arptables -V)" "arptables v1.8.9 (nf_tables)"
question "arptables drops ARP of senders whose MAC address begins with 02:00:00 (--source-mac ADDRESS/MASK). The
          rules are saved by arptables-save and loaded again by arptables-restore. What is the rule then?"
expected "The same one."

arptables -A INPUT --source-mac 02:00:00:00:00:01 -j DROP
seen "a whole address, saved" "$(saved)" "-A INPUT -j DROP --src-mac 02:00:00:00:00:01"
arptables -F
arptables -A INPUT --source-mac 02:00:00:00:00:00/ff:ff:ff:00:00:00 -j DROP
seen "the kernel compares the sender's address" "$(sees)" 1
seen "with a mask, saved" "$(saved)" "-A INPUT -j DROP"
save >file
arptables -F
restore <file
seen "restored, exit code" "$?" 0
seen "the kernel compares the sender's address" "$(sees)" 0
finish
