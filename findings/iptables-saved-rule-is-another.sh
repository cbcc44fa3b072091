#!/bin/bash
# A rule with connlimit or recent is another one after iptables-save and -restore: -C and -D by its words fail.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/xtables.sh"
outside && enter_with_xtables libip4tc2=1.8.9-2 libip6tc2=1.8.9-2
multi() { "$ROOT/usr/sbin/xtables-$BACKEND-multi" "$@"; }
try() { multi iptables "$@" 2>said && echo "exit 0" || echo "exit $?: $(head -1 said)"; }
words() { multi iptables -S INPUT | sed -n 's/^-A INPUT //p'; }

BACKEND=nft
version "$(multi iptables -V)" "iptables v1.8.9 (nf_tables)"
question "A boot script says: iptables -C RULE || iptables -A RULE. The rules of before the reboot were put back by
          iptables-save and iptables-restore. Is RULE found?"
expected "Yes: it was saved, and iptables -S prints the same for both."

LIMIT="-p tcp --syn -m connlimit --connlimit-above 20 -j DROP"
RECENT="-p tcp --dport 22 -m recent --name ssh --set"
for BACKEND in nft legacy; do
    for rule in "$LIMIT" "$RECENT"; do
        multi iptables -A INPUT $rule
        before=$(words)
        seen "$BACKEND, $(grep -o 'connlimit\|recent' <<<"$rule" | head -1): -C" "$(try -C INPUT $rule)" "exit 0"
        multi iptables-save >saved
        multi iptables -F INPUT
        multi iptables-restore <saved
        [ "$(words)" = "$before" ] && same=yes || same=no
        seen "restored, the same words" "$same" yes
        seen "restored, -C" "$(try -C INPUT $rule)" "exit 1: iptables: Bad rule (does a matching rule exist in that chain?)."
        seen "restored, -D" "$(try -D INPUT $rule)" "exit 1: iptables: Bad rule (does a matching rule exist in that chain?)."
        seen "restored, -C with the words that -S prints" "$(eval "try -C INPUT $before")" "exit 0"
        multi iptables -F INPUT
    done
done
finish
