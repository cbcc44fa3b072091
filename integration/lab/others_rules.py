"""Rules of others that count, limit, translate or do not track, and what doctor has to say of them.

As in `rulesets.py`; what stands in no case's ``by`` may not be said. docs/firewalls.md shows them.
"""

from __future__ import annotations

from integration.lab.rulesets import FORWARD, Case

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

EARLY = "nft add table inet wall\nnft add chain inet wall early {{ type filter hook prerouting priority {}; }}\n"
RAW, MANGLE = EARLY.format(-300), EARLY.format(-150)
NAT = EARLY.replace("filter", "nat").format(-110)
RULE = "nft add rule inet wall early "
BRIDGE = "nft add table bridge wall\nnft add chain bridge wall {0} {{ type filter hook {0} priority 0; }}\n"
ARP = "nft add table arp wall\nnft add chain arp wall {0} {{ type filter hook {0} priority 0; }}\n"

# What stops flows at another place than its own, or by a frame that is not theirs. With each fix
# that is printed for it, all passes.
ASTRAY = [
    Case("a quota that is used up",
         WALL + "nft add rule inet wall pass quota over 10 bytes used 10 bytes drop", "quota over 10 bytes"),
    Case("a named quota that is used up", WALL + "nft add quota inet wall q { over 20 bytes used 20 bytes; }\n"
         "nft add rule inet wall pass meta l4proto udp quota name q drop", 'quota name "q"'),
    Case("guests are not tracked", RAW + RULE + "iifname {bridge} notrack", "notrack"),
    Case("nothing is tracked", "iptables-nft -t raw -A PREROUTING -j NOTRACK", "ip raw PREROUTING: counter"),
    Case("nothing is tracked, legacy", "iptables-legacy -t raw -A PREROUTING -j NOTRACK", "-A PREROUTING -j NOTRACK"),
    Case("both ways are not tracked", RAW + RULE + "iifname {bridge} notrack\n" + RULE + "iifname uplink notrack",
         "notrack"),
    Case("guests in a zone of their own", RAW + RULE + "iifname {bridge} ct zone set 7", "ct zone set 7"),
    Case("guests in a zone of their own, legacy",
         "iptables-legacy -t raw -A PREROUTING -i {bridge} -j CT --zone 7", "CT --zone 7"),
    Case("a published port is left alone before", "iptables-legacy -t nat -I PREROUTING -p tcp --dport 8080 -j ACCEPT",
         "--dport 8080 -j ACCEPT"),
    Case("names are asked of a resolver that is not there", NAT + RULE + "iifname {bridge} udp dport 53 redirect to :5353",
         "redirect to :5353"),
    Case("names are asked of a resolver that is there", NAT + RULE + "iifname {bridge} udp dport 53 redirect to :53"),
    Case("no ARP between guests", BRIDGE.format("forward") + "nft add rule bridge wall forward ether type arp drop",
         "ether type arp drop"),
    Case("no ARP in the bridge", BRIDGE.format("prerouting") + "nft add rule bridge wall prerouting meta protocol arp drop",
         "meta protocol arp drop"),
    Case("no ARP of ebtables", "ebtables-nft -A INPUT -p ARP -j DROP", "ether type arp"),
    Case("no ARP between guests, of ebtables", "ebtables-nft -A FORWARD -p ARP -j DROP", "ether type arp"),
    Case("no ARP to the host", ARP.format("input") + "nft add rule arp wall input drop", "arp wall input: drop"),
    Case("no ARP of the host", ARP.format("output") + "nft add chain arp wall output { policy drop; }",
         "arp wall output: policy drop"),
    Case("no ARP of arptables", "arptables-nft -P INPUT DROP", "arp filter INPUT: policy drop"),
]  # fmt: skip

# Only a part of the world comes to a port; what else passes is asked of traffic.
ALLOWED = [
    Case("only some ports from the world", RAW + RULE + "iifname uplink tcp dport != { 22, 8080 } drop", "early"),
    Case("only some ports of new flows", MANGLE + RULE + "iifname uplink ct state new tcp dport != { 22, 8080 } drop"),
    Case("only other ports", MANGLE + RULE + "iifname uplink ct state new tcp dport != 22 drop", "tcp dport != 22"),
    Case("some ports, of iptables", "iptables-nft -t mangle -A PREROUTING -i uplink -p tcp -m multiport"
         " --dports 22,8080 -j ACCEPT\niptables-nft -t mangle -A PREROUTING -i uplink -m conntrack --ctstate NEW -j DROP"),
    Case("some ports, of iptables-legacy", "iptables-legacy -t raw -A PREROUTING -i uplink -p tcp -m multiport"
         " --dports 22,8080,1024:65535 -j ACCEPT\niptables-legacy -t raw -A PREROUTING -i uplink -p tcp -j DROP"),
]  # fmt: skip
SOME = [
    Case("only from neighbours", MANGLE + RULE + "iifname uplink ct state new ip saddr != 203.0.113.0/24 drop",
         "ip saddr != 203.0.113.0/24"),
    Case("only from an office", MANGLE + RULE + "iifname uplink ct state new ip saddr != 198.51.100.7 drop",
         "(not from 198.51.100.7)"),
    Case("only from an office, of iptables-legacy", "iptables-legacy -t mangle -A PREROUTING -i uplink -p tcp"
         " --dport 8080 ! -s 198.51.100.0/24 -j DROP", "(not from 198.51.100.254)"),
]  # fmt: skip

# Rules of which a copy cannot tell what they do: what is left of a quota of iptables', a set of
# ipset's. Flows of UDP through the host come to them.
DOUBTFUL = [
    Case("what is left of a quota of iptables", "iptables-nft -A FORWARD -p udp -m quota --quota 1000 -j ACCEPT",
         "quota 1000 bytes"),
    Case("what is left of a quota of iptables-legacy",
         "iptables-legacy -A FORWARD -p udp -m quota --quota 1000 -j DROP", "-m quota --quota 1000"),
]  # fmt: skip


def table(text: str) -> str:
    """A table of nft as one line of a case."""
    return "nft " + " ".join(text.split())


# As products and pages have them, cut to what meets guests' packets. Nothing is said of those without
# a word to be named.
PRODUCTS = [
    Case("a ban of all guests", table("""table inet crowdsec { set bans { type ipv4_addr; flags interval,timeout; elements = {
        10.77.0.0/24 timeout 4h }; };
        chain pass { type filter hook forward priority -10; ip saddr @bans counter drop; }; }"""), "@bans"),
    Case("countries in a set of thousands", table("""table inet geo { set blocked { type ipv4_addr; flags interval;
        auto-merge; elements = { """ + ", ".join(f"{100 + n // 4096}.{n // 16 % 256}.{n % 16 * 16}.0/21" for n in range(12000))
        + """ }; }; chain pre { type filter hook prerouting priority -310; ip saddr @blocked drop; }; }""")),
    Case("kube-proxy's maps", table("""table ip kube-proxy { map service-ips { type ipv4_addr . inet_proto . inet_service : verdict;
        elements = { 10.96.0.1 . tcp . 443 : goto svc }; };
        chain ep1 { ip saddr 10.1.0.2 jump to_mark; meta l4proto tcp dnat to 10.1.0.2:6443; };
        chain ep2 { meta l4proto tcp dnat to 10.1.0.3:6443; }; chain to_mark { meta mark set meta mark or 0x4000; };
        chain svc { numgen random mod 2 vmap { 0 : goto ep1, 1 : goto ep2 }; };
        chain services { ip daddr . meta l4proto . th dport vmap @service-ips; };
        chain pre { type nat hook prerouting priority -100; jump services; };
        chain post { type nat hook postrouting priority 100; meta mark & 0x4000 == 0 return; masquerade; }; }""")),
    Case("synproxy", table("""table inet sp { chain pre { type filter hook prerouting priority -300; tcp dport 8443 tcp flags syn notrack; };
        chain pass { type filter hook forward priority 0; tcp dport 8443 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm; ct state invalid drop; }; }""")),
    Case("a concatenation of devices and ports", table("""table inet zones { map zones { type ifname . ifname : verdict;
        elements = { "uplink" . {bridge} : jump in, {bridge} . "uplink" : accept }; };
        chain in { tcp dport 22 accept; ct state established,related accept; drop; };
        chain pass { type filter hook forward priority 10; iifname . oifname vmap @zones; }; }"""), "zones in: drop"),
    Case("Shorewall's chains", "iptables-nft -N loc2net\niptables-nft -N net2loc\n"
         "iptables-nft -A loc2net -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\niptables-nft -A loc2net -j ACCEPT\n"
         "iptables-nft -A net2loc -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n"
         "iptables-nft -A net2loc -m conntrack --ctstate INVALID -j DROP\niptables-nft -A net2loc -j DROP\n"
         "iptables-nft -A FORWARD -i {bridge} -o uplink -g loc2net\niptables-nft -A FORWARD -i uplink -o {bridge} -g net2loc",
         "ip filter net2loc"),
    Case("csf's limits of openings", "iptables-legacy -N SYNFLOOD\niptables-legacy -A SYNFLOOD -m limit --limit 100/s --limit-burst 150 -j RETURN\n"
         "iptables-legacy -A SYNFLOOD -j DROP\niptables-legacy -I FORWARD -p tcp --syn -j SYNFLOOD"),
    Case("loss by chance", table("""table inet loss { chain pass { type filter hook forward priority 0; numgen random mod 100 < 30 drop; }; }""")),
    Case("loss by chance, of iptables", "iptables-nft -A FORWARD -m statistic --mode random --probability 0.3 -j DROP"),
    Case("a mark that a rule routes by", "nft add table inet wall\nnft add chain inet wall early { type filter hook prerouting priority -150; }\n"
         "nft add rule inet wall early iifname {bridge} meta mark set 7\nip rule add fwmark 7 pref 5200 prohibit", "fwmark 0x7"),
]  # fmt: skip
