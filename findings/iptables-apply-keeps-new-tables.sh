#!/bin/bash
# iptables-apply, not answered, puts back the tables that were there before; what the new file brought in others stays.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/xtables.sh"
outside && enter_with_xtables libip4tc2=1.8.9-2 libip6tc2=1.8.9-2
own_folders tmp # where iptables-apply keeps what it puts back
cd "$FOLDER"
mkdir sbin
export PATH=$FOLDER/sbin:$PATH
use() { # use BACKEND: its programs are iptables, iptables-save and iptables-restore from now on
    local name
    for name in iptables iptables-save iptables-restore; do ln -sf "$ROOT/usr/sbin/xtables-$1-multi" "sbin/$name"; done
}
cat >new <<'N'
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -s 10.9.0.6 -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 10.9.0.5:80
COMMIT
N
apply() { # applies ./new, and answers nothing
    bash "$ROOT/usr/sbin/iptables-apply" -t 1 new </dev/null >said 2>&1 || echo "exit $?, $(sed -n 's/.*Reverting/Reverting/p' said)"
}
rules() { iptables -t "$1" -S "$2" | grep -v ^-P | paste -sd';'; } # rules TABLE CHAIN

version "$(use nft; iptables --version), $(use legacy; iptables --version)" "iptables v1.8.9 (nf_tables), iptables v1.8.9 (legacy)"
question "A host drops what comes from one guest; it has no rule of NAT yet. iptables-apply loads a file with another such rule
          and with a published port. Nobody says that the host can still be reached, so the old rules are put back. Which
          rules has the host then?"
expected "The one that it had before: this is what iptables-apply is for."

for backend in nft legacy; do
    use $backend
    iptables -A FORWARD -s 10.9.0.9 -j DROP
    seen "$backend, iptables-apply" "$(apply)" "exit 255, Reverting to old iptables rules... done."
    seen "$backend, filter" "$(rules filter FORWARD)" "-A FORWARD -s 10.9.0.9/32 -j DROP"
    seen "$backend, nat" "$(rules nat PREROUTING)" \
        "-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.9.0.5:80"
    # the same once more, on a host whose table nat is there, though it has no rule
    iptables -t nat -F
    apply >/dev/null
    seen "$backend, nat, where the table was there before" "$(rules nat PREROUTING)" ""
done
finish
