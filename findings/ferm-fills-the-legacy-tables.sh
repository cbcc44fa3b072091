#!/bin/bash
# ferm loads its rules with iptables-legacy wherever that is there, though the host's iptables is iptables-nft.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/guests.sh"
. "$LIB/xtables.sh"
outside && enter_with_xtables libip4tc2=1.8.9-2 libip6tc2=1.8.9-2 ferm=2.5.1-1.1 iproute2=6.1.0-3
own_folders usr
for name in iptables iptables-save iptables-restore; do # as Debian's alternatives are
    ln -sf "$ROOT/usr/sbin/xtables-nft-multi" /usr/sbin/$name
    ln -sf "$ROOT/usr/sbin/xtables-legacy-multi" "/usr/sbin/${name/iptables/iptables-legacy}"
done
link() { # link NAMESPACE GATEWAY ADDRESS: a namespace behind the host
    ip netns add "$1"
    ip link add "v$1" type veth peer name eth0 netns "$1"
    ip addr add "$2/24" dev "v$1"
    ip link set "v$1" up
    ip -n "$1" addr add "$3/24" dev eth0
    ip -n "$1" link set eth0 up
    ip -n "$1" route add default via "$2"
}
link guest 10.9.0.1 10.9.0.2
link world 192.0.2.1 192.0.2.9
echo 1 >/proc/sys/net/ipv4/ip_forward
cat >ferm.conf <<'F'
domain ip table filter chain FORWARD {
    policy DROP;
    saddr 10.9.0.0/24 proto tcp dport 443 ACCEPT;
}
F

version "$(perl "$ROOT/usr/sbin/ferm" --version | head -1), $(iptables --version)" "ferm 2.5.1, iptables v1.8.9 (nf_tables)"
question "A host with Debian's two kinds of iptables, of which iptables is the newer one, as it is by default. ferm is told that
          FORWARD drops, but for one port. What does iptables -S show, and what reaches a guest once 'iptables -I FORWARD -j
          ACCEPT' was said, as a manager of VMs or containers does?"
expected "iptables shows ferm's rules: ferm writes for iptables-restore. With the accept before them everything reaches it."

seen "from the guest, the world" "$(reach 192.0.2.9)" answers
seen "ferm" "$(perl "$ROOT/usr/sbin/ferm" ferm.conf 2>&1 && echo "exit 0")" "exit 0"
seen "from the guest, the world" "$(reach 192.0.2.9)" "is silent"
seen "iptables -S FORWARD" "$(iptables -S FORWARD 2>/dev/null | paste -sd';')" "-P FORWARD ACCEPT"
seen "iptables -I FORWARD -j ACCEPT" "$(iptables -I FORWARD -j ACCEPT && echo "exit 0")" "exit 0"
seen "from the guest, the world" "$(reach 192.0.2.9)" "is silent"
seen "iptables-legacy -S FORWARD" "$(iptables-legacy -S FORWARD | paste -sd';')" \
    "-P FORWARD DROP;-A FORWARD -s 10.9.0.0/24 -p tcp -m tcp --dport 443 -j ACCEPT"
finish
