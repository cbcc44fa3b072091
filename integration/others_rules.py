"""Rules of others that count, limit, translate or do not track, and what doctor has to say of them.

As in `rulesets.py`; what stands in no case's ``by`` may not be said. docs/firewalls.md shows them.
"""

from __future__ import annotations

from integration.rulesets import FORWARD, Case

WALL = f"nft add table inet wall\nnft add chain inet wall pass {{ {FORWARD} 0; }}\n"
NEW = "nft add rule inet wall pass ct state new "
DYNAMIC = "{{ type ipv4_addr; flags dynamic; size 1000; }}\n".replace("{{", "{").replace("}}", "}")
DROP = "nft add rule inet wall pass ct state new drop"

# Limits that no single flow meets at a quiet moment: nothing is stopped.
LIMITS = [
    Case("a limit that new flows have, and a drop behind it",
         WALL + NEW + "limit rate 2/second burst 2 packets accept\n" + DROP),
    Case("a limit over which new flows are dropped",
         WALL + NEW + "limit rate over 2/second burst 2 packets drop"),
    Case("a limit by bytes", WALL + "nft add rule inet wall pass limit rate over 1 kbytes/second burst 1 kbytes drop"),
    Case("a named limit", WALL + "nft add limit inet wall few { rate over 2/second burst 2 packets; }\n"
         + NEW + "limit name few drop"),
    Case("a meter of nft", WALL + f"nft add set inet wall dyn {DYNAMIC}"
         + NEW + "update @dyn { ip saddr limit rate over 2/second burst 2 packets } drop"),
    Case("a count of flows of each address", WALL + f"nft add set inet wall dyn {DYNAMIC}"
         + NEW + "add @dyn { ip saddr ct count over 3 } drop"),
    Case("a count of all flows", WALL + NEW + "ct count over 3 drop"),
    Case("a count of flows, and a drop behind it", WALL + NEW + "ct count 3 accept\n" + DROP),
    Case("who comes again is dropped for a while", WALL
         + "nft add set inet wall seen { type ipv4_addr; flags dynamic,timeout; timeout 1m; }\n"
         + NEW + "ip saddr @seen drop\n" + NEW + "add @seen { ip saddr timeout 2s }"),
    Case("a quota that is not used up", WALL
         + "nft add rule inet wall pass quota over 3000 bytes drop"),
    Case("limit of iptables", "iptables-nft -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
         "iptables-nft -A FORWARD -m limit --limit 2/s --limit-burst 2 -j ACCEPT\n"
         "iptables-nft -A FORWARD -j DROP"),
    Case("hashlimit of iptables", "iptables-nft -A FORWARD -m conntrack --ctstate NEW -m hashlimit"
         " --hashlimit-name h1 --hashlimit-above 2/s --hashlimit-burst 2 --hashlimit-mode srcip -j DROP"),
    Case("hashlimit of iptables, upto", "iptables-nft -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
         "iptables-nft -A FORWARD -m hashlimit --hashlimit-name h2 --hashlimit-upto 2/s"
         " --hashlimit-burst 2 --hashlimit-mode srcip -j ACCEPT\niptables-nft -A FORWARD -j DROP"),
    Case("recent of iptables", "iptables-nft -A FORWARD -m conntrack --ctstate NEW -m recent --name r1"
         " --update --seconds 60 --hitcount 4 -j DROP\n"
         "iptables-nft -A FORWARD -m conntrack --ctstate NEW -m recent --name r1 --set"),
    Case("connlimit of iptables", "iptables-nft -A FORWARD -p tcp --syn -m connlimit"
         " --connlimit-above 2 --connlimit-mask 0 -j REJECT --reject-with tcp-reset"),
    Case("limit of iptables-legacy", "iptables-legacy -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
         "iptables-legacy -A FORWARD -m limit --limit 2/s --limit-burst 2 -j ACCEPT\n"
         "iptables-legacy -A FORWARD -j DROP"),
    Case("hashlimit of iptables-legacy", "iptables-legacy -t mangle -A FORWARD -m conntrack --ctstate NEW -m hashlimit"
         " --hashlimit-name h3 --hashlimit-above 2/s --hashlimit-burst 2 --hashlimit-mode srcip -j DROP"),
    Case("recent of iptables-legacy", "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -m recent --name r2"
         " --update --seconds 60 --hitcount 4 -j DROP\n"
         "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -m recent --name r2 --set"),
    Case("connlimit of iptables-legacy", "iptables-legacy -A FORWARD -p tcp --syn -m connlimit"
         " --connlimit-above 2 --connlimit-mask 0 -j DROP"),
]  # fmt: skip

# Rules that do stop flows, and are not the last that the flow meets.
STOPPED = [
    Case("a quota that is used up", WALL + "nft add rule inet wall pass quota over 10 bytes used 10 bytes drop",
         "quota over 10 bytes"),
    Case("a named quota that is used up", WALL
         + "nft add quota inet wall q { over 10 bytes used 20 bytes; }\n"
         + "nft add rule inet wall pass meta l4proto udp quota name q drop", 'quota name "q"'),
    Case("guests are not tracked", "nft add table inet wall\n"
         "nft add chain inet wall early { type filter hook prerouting priority -300; }\n"
         "nft add rule inet wall early iifname {bridge} notrack", "notrack"),
    Case("nothing is tracked", "iptables-nft -t raw -A PREROUTING -j NOTRACK", "NOTRACK"),
    Case("nothing is tracked, legacy", "iptables-legacy -t raw -A PREROUTING -j NOTRACK", "notrack"),
    Case("guests in a zone of their own", "nft add table inet wall\n"
         "nft add chain inet wall early { type filter hook prerouting priority -300; }\n"
         "nft add rule inet wall early iifname {bridge} ct zone set 7", "ct zone set 7"),
    Case("guests in a zone of their own, legacy", "iptables-legacy -t raw -A PREROUTING -i {bridge} -j CT --zone 7",
         "CT --zone 7"),
    Case("published ports are left alone by nat", "nft add table ip wall\n"
         "nft add chain ip wall early { type nat hook prerouting priority -110; }\n"
         "nft add rule ip wall early tcp dport 8080 accept"),
    Case("published ports are left alone by nat, legacy", "iptables-legacy -t nat -I PREROUTING -p tcp --dport 8080 -j ACCEPT",
         "-j ACCEPT"),
    Case("guests' names go to a resolver that is not there", "nft add table inet wall\n"
         "nft add chain inet wall early { type nat hook prerouting priority -110; }\n"
         "nft add rule inet wall early iifname {bridge} udp dport 53 redirect to :5353", "redirect to :5353"),
    Case("guests' names go to a resolver that is there", "nft add table inet wall\n"
         "nft add chain inet wall early { type nat hook prerouting priority -110; }\n"
         "nft add rule inet wall early iifname {bridge} udp dport 53 redirect to :53"),
    Case("no ARP between guests", "nft add table bridge wall\n"
         f"nft add chain bridge wall pass {{ {FORWARD} 0; }}\n"
         "nft add rule bridge wall pass ether type arp drop", "ether type arp drop"),
    Case("no ARP in the bridge", "nft add table bridge wall\n"
         "nft add chain bridge wall early { type filter hook prerouting priority 0; }\n"
         "nft add rule bridge wall early ether type arp drop", "ether type arp drop"),
    Case("no ARP of ebtables", "ebtables-nft -A INPUT -p ARP -j DROP", "ether type arp"),
    Case("no ARP between guests of ebtables", "ebtables-nft -A FORWARD -p ARP -j DROP", "ether type arp"),
    Case("no ARP to the host", "nft add table arp wall\n"
         "nft add chain arp wall in { type filter hook input priority 0; }\n"
         "nft add rule arp wall in drop", "arp wall in"),
    Case("no ARP of the host", "nft add table arp wall\n"
         "nft add chain arp wall out { type filter hook output priority 0; policy drop; }", "arp wall out"),
    Case("only some ports from the world", "nft add table inet wall\n"
         "nft add chain inet wall early { type filter hook prerouting priority -300; }\n"
         "nft add rule inet wall early iifname uplink tcp dport != { 22, 8080 } drop", "early"),
    Case("only some ports from the world to new flows", "iptables-nft -t mangle -A PREROUTING -i uplink -p tcp -m multiport --dports 22,8080 -j ACCEPT\n"
         "iptables-nft -t mangle -A PREROUTING -i uplink -m conntrack --ctstate NEW -j DROP"),
    Case("only from some addresses of the world", "nft add table inet wall\n"
         "nft add chain inet wall early { type filter hook prerouting priority -150; }\n"
         "nft add rule inet wall early iifname uplink ct state new ip saddr != 203.0.113.0/24 drop"),
    Case("only other ports from the world", "nft add table inet wall\n"
         "nft add chain inet wall early { type filter hook prerouting priority -150; }\n"
         "nft add rule inet wall early iifname uplink ct state new tcp dport != 22 drop", "tcp dport != 22"),
    Case("a mark that leads elsewhere", "nft add table inet wall\n"
         "nft add chain inet wall early { type filter hook prerouting priority -150; }\n"
         "nft add rule inet wall early iifname {bridge} meta mark set 7", ""),
]  # fmt: skip

# Rules of which a copy cannot tell what they do: what is left of a quota of iptables', a set of
# ipset's. Flows of UDP through the host come to them.
DOUBTFUL = [
    Case("what is left of a quota of iptables", "iptables-nft -A FORWARD -p udp -m quota --quota 1000 -j ACCEPT",
         "quota 1000 bytes"),
    Case("what is left of a quota of iptables-legacy",
         "iptables-legacy -A FORWARD -p udp -m quota --quota 1000 -j DROP", "-m quota --quota 1000"),
]  # fmt: skip
