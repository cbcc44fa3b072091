#!/bin/bash
# A bridge's nf_call_iptables of 0 turns nothing off: while the host's sysctl is 1 its frames go through iptables.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/guests.sh"
outside && enter_with_nft 1.0.6-2+deb12u2 iproute2=6.1.0-3
nft() { "$ROOT/usr/sbin/nft" "$@"; }
host() { echo "$1" >/proc/sys/net/bridge/bridge-nf-call-iptables; }
shown() { ip -d link show br0 | grep -o 'nf_call_iptables [01]'; }

[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || { echo "this needs br_netfilter" >&2; exit 2; }
version "$(ip -V), $(nft --version | cut -d' ' -f1,2), Linux $(uname -r)" \
    "ip utility, iproute2-6.1.0, libbpf 1.1.2, nftables v1.0.6, Linux $(uname -r)"
question "br_netfilter is there with net.bridge.bridge-nf-call-iptables of 1, as containers want it, and a firewall drops what is
          forwarded. The VMs' bridge is spared by ip link set br0 type bridge nf_call_iptables 0, and ip -d link shows the 0.
          Do two guests of it reach each other? And with the sysctl 0 and the bridge's own 1?"
expected "They do, and then they do not: the bridge's own setting counts ('enable or disable iptables hooks on the bridge',
          ip-link(8))."

make_guests
nft add table ip wall
nft add chain ip wall forward '{ type filter hook forward priority 0; policy drop; }'
host 0
seen "sysctl 0, the bridge's $(shown): the guest" "$(reach 10.0.0.3)" "answers"
ip link set br0 type bridge nf_call_iptables 1
seen "sysctl 0, the bridge's $(shown): the guest" "$(reach 10.0.0.3)" "is silent"
host 1
seen "sysctl 1, the bridge's $(shown): the guest" "$(reach 10.0.0.3)" "is silent"
ip link set br0 type bridge nf_call_iptables 0
seen "sysctl 1, the bridge's $(shown): the guest" "$(reach 10.0.0.3)" "is silent"
seen "the bridge's own file in sysfs" "$(cat /sys/class/net/br0/bridge/nf_call_iptables)" "0"
host 0
seen "sysctl 0 again: the guest" "$(reach 10.0.0.3)" "answers"
finish
