#!/bin/bash
# ip rule add without pref goes before every rule that is there, but the table local's.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /bin/ip iproute2=6.1.0-3
ip() { "$ROOT/bin/ip" "$@"; }
rules() { ip "$1" rule show | sed 's/\t//; s/from all lookup/lookup/' | grep -v '^0:' | paste -sd,; }
way() { ip route get 198.51.100.1 from 10.0.0.2 iif br0 | grep -o 'dev [^ ]*' | head -1; }

version "$(ip -V), Linux $(uname -r)" "ip utility, iproute2-6.1.0, libbpf 1.1.2, Linux $(uname -r)"
question "A VPN makes a rule for all packets, of pref 5000: by it alone guests get out. Later a script says ip rule add for what a
          network's guests send, without a pref. By which way do they get out, and whose rule is asked first?"
expected "By the VPN: without a pref a rule has the first free place before the table main, 32765, as on a host that has no
          others. Who wants to be asked before 5000 says so."

for name in br0 vpn wan; do
    ip link add $name type bridge
    ip link set $name up
done
ip addr add 10.0.0.1/24 dev br0
echo 1 >/proc/sys/net/ipv4/ip_forward
ip route add default dev vpn table 52
ip route add default dev wan table 100
ip rule add from 10.0.0.0/24 lookup 100
seen "on a host without others" "$(rules -4)" \
    "32765:from 10.0.0.0/24 lookup 100,32766:lookup main,32767:lookup default"
ip rule del from 10.0.0.0/24 lookup 100
ip rule add pref 5000 lookup 52
ip -6 rule add pref 5000 lookup 52
seen "a guest's way out beside the VPN" "$(way)" "dev vpn"
ip rule add from 10.0.0.0/24 lookup 100
ip -6 rule add from fd00::/64 lookup 100
seen "rules of IPv4" "$(rules -4)" \
    "4999:from 10.0.0.0/24 lookup 100,5000:lookup 52,32766:lookup main,32767:lookup default"
seen "rules of IPv6" "$(rules -6)" "4999:from fd00::/64 lookup 100,5000:lookup 52,32766:lookup main"
seen "a guest's way out" "$(way)" "dev wan"
ip rule add lookup 52
seen "the VPN's rule told once more, without a pref" "$(ip rule show | sed -n '2s/\t/ /p')" "4998: from all lookup 52"
seen "a guest's way out" "$(way)" "dev vpn"
finish
