"""Fixes are as narrow as the traffic needs, stand where they must, and lead into nobody's bridge."""

from __future__ import annotations

import pytest

from hvtx.engine.fix_finder import legacy_chains, nft_hooks, nft_rules
from hvtx.model.traffic import Flow, Stop, Way
from hvtx.planner.flow_fixes import Chain, Host, fix, of_setting
from hvtx.planner.own_accepts import Net

FORWARD, INPUT = frozenset({"forward"}), frozenset({"input"})
NFT, IPT, LEGACY = ("inet", "wall", "Pass"), ("ip", "filter", "FORWARD"), (
    "iptables-legacy", "filter", "FORWARD")  # fmt: skip
# `net` asked for no accepts of hvtx's own (--no-passage), so that people get commands
NETS = {
    "net": Net(
        "hvbr1", ("10.77.0.0/24", "fd77::/64"), ("10.77.0.1", "fd77::1"), "nftables", passage=False
    ),
    "old": Net("hvbr2", ("10.78.0.0/24",), ("10.78.0.1",), "iptables"),
    "vpn": Net(
        "hvbr3",
        ("10.79.0.0/24", "fd79::/64"),
        ("10.79.0.1", "fd79::1"),
        "nftables",
        passage=False,
        uplink="tun9",
    ),
}


def flow(
    way: Way, family: int = 4, protocol: str = "tcp", port: int | None = None, net: str = "net"
) -> Flow:
    return Flow(way, family, protocol, net, NETS[net].bridge, port)


WORLD, GUEST, PORT = (
    flow(Way.GUEST_TO_WORLD), flow(Way.GUEST_TO_GUEST), flow(Way.WORLD_TO_PORT, port=8080)
)  # fmt: skip


def host(
    chains: dict[tuple[str, ...], Chain] | None = None,
    tools: tuple[str, ...] = ("iptables-nft", "ip6tables-nft"),
    owners: dict[tuple[str, str], str] | None = None,
    uplinks: tuple[str, ...] = ("eth0",),
) -> Host:
    return Host(uplinks, NETS, chains or {}, owners or {}, frozenset(tools))


def said(by: str, place: tuple[str, ...], what: str, *flows: Flow, **facts: object) -> list[str]:
    hint = fix([Stop(each, by, place, what) for each in flows], host(**facts))  # type: ignore[arg-type]
    return (hint or "").split("; ")


def test_where_a_policy_drops_ours_goes_behind_all_of_others() -> None:
    """Out by the world's device, back what is known, in what is published, guests among themselves."""
    assert said(
        "nft", IPT, "policy drop", WORLD, PORT, GUEST, chains={IPT: Chain(FORWARD, ())}
    ) == [
        "iptables-nft -A FORWARD -i hvbr1 -o eth0 -j ACCEPT",
        "iptables-nft -A FORWARD -o hvbr1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "iptables-nft -A FORWARD -o hvbr1 -m conntrack --ctstate DNAT -j ACCEPT",
        "iptables-nft -A FORWARD -i hvbr1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "iptables-nft -A FORWARD -i hvbr1 -o hvbr1 -j ACCEPT",
    ]
    legacy = said("legacy", LEGACY, "policy DROP", GUEST, chains={LEGACY: Chain(FORWARD, ())})
    assert legacy == ["iptables-legacy -A FORWARD -i hvbr1 -o hvbr1 -j ACCEPT"]
    assert said("nft", NFT, "policy drop", WORLD, chains={NFT: Chain(FORWARD, ())}) == [
        """nft 'add rule inet wall Pass iifname "hvbr1" oifname "eth0" accept'""",
        """nft 'add rule inet wall Pass oifname "hvbr1" ct state established,related accept'""",
    ]


VPN, VPN_PORT = flow(Way.GUEST_TO_WORLD, net="vpn"), flow(Way.WORLD_TO_PORT, port=80, net="vpn")


def test_guests_with_an_uplink_are_let_out_by_it_alone() -> None:
    """Whatever ways to the world the host has; what it publishes is served by those, too."""
    out = [
        """nft 'add rule inet wall Pass iifname "hvbr3" oifname "tun9" accept'""",
        """nft 'add rule inet wall Pass oifname "hvbr3" ct state established,related accept'""",
    ]
    for uplinks in (("eth0",), ()):
        found = said(
            "nft", NFT, "policy drop", VPN, chains={NFT: Chain(FORWARD, ())}, uplinks=uplinks
        )
        assert found == out
    ufw = ("ip", "filter", "ufw-user-forward")
    assert said("nft", ufw, "drop", VPN) == ["ufw route allow in on hvbr3 out on tun9"]
    assert said("nft", ufw, "drop", VPN_PORT) == ["ufw route allow in on eth0 out on hvbr3"]
    zone = said("nft", ("inet", "firewalld", "filter_FORWARD"), "reject", VPN, WORLD)
    both = [name for name in ("tun9", "eth0", "eth1") if any(name in line for line in zone)]
    assert both == ["tun9", "eth0"]
    alone = said("nft", ("inet", "firewalld", "filter_FORWARD"), "reject", VPN, GUEST)
    assert "eth0" not in "".join(alone)
    six = flow(Way.GUEST_TO_WORLD, 6, net="vpn")
    solicits = said("nft", ("ip6", "x", "in"), "policy drop", six,
                    chains={("ip6", "x", "in"): Chain(INPUT, ())})  # fmt: skip
    assert "tun9" in "".join(solicits)
    assert "eth0" not in "".join(solicits)
    arp = ("arp", "x", "in")
    resolved = said("nft", arp, "policy drop", VPN, chains={arp: Chain(INPUT, ())})
    assert resolved == [
        f"""nft 'add rule arp x in iifname "{name}" accept'""" for name in ("hvbr3", "tun9")
    ]


def test_where_a_rule_drops_ours_goes_right_before_it() -> None:
    """What stands before it holds, also what others drop there."""
    rules = (
        ("ip daddr 192.0.2.1 drop", 7),
        ("ip saddr 10.77.0.0/24 counter packets 1 bytes 60 drop", 9),
    )
    what = "ip saddr 10.77.0.0/24 counter packets 4 bytes 240 drop"
    assert said("nft", NFT, what, GUEST, chains={NFT: Chain(FORWARD, rules)}) == [
        """nft 'insert rule inet wall Pass position 9 iifname "hvbr1" oifname "hvbr1" accept'"""
    ]
    admin = ("ip", "filter", "ADMIN")
    chains = {admin: Chain(FORWARD, rules), IPT: Chain(FORWARD, ())}
    assert said("nft", admin, what, GUEST, chains=chains) == [
        "iptables-nft -I ADMIN 2 -i hvbr1 -o hvbr1 -j ACCEPT"
    ]
    lines = (("-A ADMIN -d 192.0.2.1/32 -j DROP", 0), ("-A ADMIN -j DROP", 0))
    place = ("iptables-legacy", "mangle", "ADMIN")
    assert said(
        "legacy", place, "-A ADMIN -j DROP", GUEST, chains={place: Chain(FORWARD, lines)}
    ) == ["iptables-legacy -t mangle -I ADMIN 2 -i hvbr1 -o hvbr1 -j ACCEPT"]
    # a rule that is not there any more: none can be put before it
    assert (
        "see nft -a list chain inet wall Pass"
        in said("nft", NFT, "drop", GUEST, chains={NFT: Chain(FORWARD, rules)})[0]
    )


@pytest.mark.parametrize("hook", ["prerouting", "postrouting", "ingress"])
def test_where_nothing_narrow_can_be_said_it_says_where_to_look(hook: str) -> None:
    """There a rule knows only one of the two devices."""
    chains = {NFT: Chain(frozenset({hook}), (("drop", 4),))}
    (words,) = said("nft", NFT, "drop", WORLD, chains=chains)
    assert words.startswith("see nft -a list chain inet wall Pass: ")
    legacy = ("iptables-legacy", "raw", "PREROUTING")
    (words,) = said("legacy", legacy, "-A PREROUTING -j DROP", WORLD)
    assert words.startswith("see iptables-legacy -t raw -S PREROUTING: ")


def test_a_service_of_the_gateway_and_nothing_else_of_the_host() -> None:
    place, chains = ("ip", "filter", "INPUT"), {("ip", "filter", "INPUT"): Chain(INPUT, ())}
    dns = flow(Way.GUEST_TO_GATEWAY, protocol="udp", port=53)
    assert said("nft", place, "policy drop", dns, chains=chains) == [
        "iptables-nft -A INPUT -d 10.77.0.1 -i hvbr1 -p udp --dport 53 -j ACCEPT"
    ]
    six = ("inet", "wall", "in")
    ping = flow(Way.GUEST_TO_GATEWAY, 6, "icmp")
    rule, asks = """nft 'add rule inet wall in iifname "hvbr1" """, "icmpv6 type nd-neighbor-"
    assert said("nft", six, "policy drop", ping, chains={six: Chain(INPUT, ())}) == [
        f"{rule}ip6 daddr fd77::1 meta l4proto ipv6-icmp accept'",
        f"{rule}{asks}solicit accept'",  # without which no neighbour is found
        f"{rule}{asks}advert accept'",
    ]


def test_what_a_guest_asks_before_it_has_an_address() -> None:
    """In, and the answers out: they belong to no flow that is known."""
    both = frozenset({"input", "output"})
    place = ("inet", "wall", "c")
    chains = {place: Chain(INPUT, ())}
    four, six = (flow(Way.GUEST_TO_DHCP, n, "udp", port) for n, port in ((4, 67), (6, 547)))
    router = flow(Way.GUEST_TO_ROUTER, 6, "icmp")
    rule = """nft 'add rule inet wall c iifname "hvbr1" """
    asks = [f"{rule}icmpv6 type nd-neighbor-{one} accept'" for one in ("solicit", "advert")]
    assert said("nft", place, "policy drop", four, six, router, chains=chains) == [
        f"{rule}udp dport 67 accept'", f"{rule}udp dport 547 accept'", *asks,
        f"{rule}icmpv6 type nd-router-solicit accept'",
    ]  # fmt: skip
    out = said("nft", place, "policy drop", four, router, chains={place: Chain(both, ())})
    rule = rule.replace("iifname", "oifname")
    assert {f"{rule}udp dport 68 accept'", f"{rule}icmpv6 type nd-router-advert accept'"} < {*out}
    legacy = ("ip6tables-legacy", "filter", "INPUT")
    rules = said("legacy", legacy, "policy DROP", six, router,
                 chains={legacy: Chain(INPUT, ())})  # fmt: skip
    assert rules[0] == "ip6tables-legacy -A INPUT -i hvbr1 -p udp --dport 547 -j ACCEPT"
    assert rules[-1] == (
        "ip6tables-legacy -A INPUT -i hvbr1 -p ipv6-icmp -m icmp6 --icmpv6-type"
        " router-solicitation -j ACCEPT"
    )


def test_the_bridge_family_goes_by_addresses() -> None:
    place = ("bridge", "wall", "pass")
    chains = {place: Chain(FORWARD, (("meta l4proto udp drop", 3),))}
    lines = said("nft", place, "meta l4proto udp drop", GUEST, chains=chains)
    ends = "ip saddr 10.77.0.0/24 ip daddr 10.77.0.0/24"
    assert lines == [f"nft 'insert rule bridge wall pass position 3 {ends} accept'"]


def test_who_keeps_the_chain_is_asked() -> None:
    """ufw and firewalld by their own commands, which last; a table with an owner by nobody else."""
    ufw = {IPT: Chain(FORWARD, ()), ("ip", "filter", "ufw-user-forward"): Chain(FORWARD, ())}
    dns = flow(Way.GUEST_TO_GATEWAY, protocol="udp", port=53)
    assert said("nft", IPT, "policy drop", WORLD, GUEST, dns, chains=ufw) == [
        "ufw route allow in on hvbr1 out on eth0",
        "ufw route allow in on hvbr1 out on hvbr1",
        "ufw allow in on hvbr1 to 10.77.0.1 port 53 proto udp",
    ]
    zone = said("nft", ("inet", "firewalld", "filter_FORWARD"), "reject", WORLD, GUEST)
    assert zone[-1] == "firewall-cmd --reload"
    assert "firewall-cmd --permanent --zone=hvtx --change-interface=hvbr1" in zone
    assert not any("trusted" in line for line in zone)
    panic = ("inet", "firewalld", "raw_PREROUTING")
    chains = {panic: Chain(frozenset({"prerouting"}), ())}
    assert said("nft", panic, "policy drop", WORLD, chains=chains) == ["firewall-cmd --panic-off"]
    (words,) = said("nft", NFT, "policy drop", WORLD, chains={NFT: Chain(FORWARD, ())},
                    owners={("inet", "wall"): "guardd"})  # fmt: skip
    assert "guardd" in words


def test_what_is_ours_is_repaired() -> None:
    assert said("nft", ("inet", "hvtx-aaaa", "forward"), "drop", WORLD) == ["hvtx repair"]
    mine = flow(Way.GUEST_TO_WORLD, net="old")
    chains = {LEGACY: Chain(FORWARD, ())}
    assert said("legacy", LEGACY, "policy DROP", mine, chains=chains) == ["hvtx repair"]
    both = said("legacy", LEGACY, "policy DROP", mine, WORLD, chains=chains)
    assert both[0] == "iptables-legacy -A FORWARD -i hvbr1 -o eth0 -j ACCEPT"
    # and a rule of somebody else is no matter of `hvtx repair`
    chains = {LEGACY: Chain(FORWARD, (("-A FORWARD -j DROP", 0),))}
    assert said("legacy", LEGACY, "-A FORWARD -j DROP", mine, chains=chains)[0] == (
        "iptables-legacy -I FORWARD 1 -i hvbr2 -o eth0 -j ACCEPT"
    )


def test_no_iptables_no_command_of_it() -> None:
    chains = {IPT: Chain(FORWARD, ())}
    assert said("nft", IPT, "policy drop", GUEST, chains=chains, tools=()) == [
        """nft 'add rule ip filter FORWARD iifname "hvbr1" oifname "hvbr1" accept'"""
    ]
    lower = ("ip", "filter", "forward")  # nft's own, by its letter case
    assert said("nft", lower, "policy drop", GUEST, chains={lower: Chain(FORWARD, ())})[
        0
    ].startswith("nft ")


def test_names_that_nft_cannot_say_are_in_no_command() -> None:
    place = ("inet", "my wall", "pass")
    assert said("nft", place, "policy drop", GUEST, chains={place: Chain(FORWARD, ())})[
        0
    ].startswith("see ")


# -- what is read of the host ------------------------------------------------------------------------


def test_hooks_go_through_jumps_and_maps() -> None:
    text = """table inet t { # handle 1
\tmap v { # handle 2
\t\ttype ifname : verdict
\t\telements = { "eth0" : goto m,
\t\t\t     "eth1" : drop }
\t}
\tchain f { # handle 3
\t\ttype filter hook forward priority filter; policy drop;
\t\tjump a # handle 4
\t\tiifname vmap @v # handle 5
\t}
\tchain p { # handle 6
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifname vmap { "eth0" : accept, "eth1" : jump b } # handle 7
\t}
\tchain a { # handle 8
\t\tip saddr 10.0.0.1 goto b # handle 9
\t}
\tchain b { # handle 10
\t}
\tchain c { # handle 11
\t}
\tchain m { # handle 12
\t}
}
"""
    found = nft_hooks(text)
    assert {name: set(found[name]) for name in "abcm"} == {
        "a": {"forward"}, "b": {"forward", "prerouting"}, "c": set(), "m": {"forward"},
    }  # fmt: skip


def test_rules_are_read_with_their_handles() -> None:
    text = (
        "table ip f { # handle 1\n\tset s {\n\t\ttype ifname # handle 9\n\t}\n\tchain A { # handle 2\n"
        "\t\ttype filter hook forward priority 0; policy drop;\n\t\tip saddr 10.0.0.1 drop # handle 5\n\t}\n}\n"
    )
    assert nft_rules(text) == {"A": (("ip saddr 10.0.0.1 drop", 5),)}
    saved = (
        "*mangle\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*filter\n:FORWARD DROP [1:2]\n:ADMIN - [0:0]\n"
        ":LONE - [0:0]\n-A FORWARD -j ADMIN\n-A ADMIN -j DROP\nCOMMIT\n"
    )
    found = legacy_chains(saved, "filter")
    assert found["ADMIN"] == Chain(FORWARD, (("-A ADMIN -j DROP", 0),))
    assert found["LONE"].hooks == frozenset()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hvnet", "hvtx repair"),
        ("eth0.7", "bring device eth0.7 up"),
        ("net.ipv6.conf.hvnet.disable_ipv6", "hvtx repair"),
        ("net.ipv6.conf.up0.disable_ipv6", "set net.ipv6.conf.up0.disable_ipv6 to 0"),
        ("net.ipv4.conf.up0.rp_filter", "sysctl -w net.ipv4.conf.up0.rp_filter=2"),
        ("net.ipv4.ip_forward", "hvtx repair, or: sysctl -w net.ipv4.ip_forward=1"),
    ],
)
def test_of_setting_turns_it_the_right_way(name: str, hint: str) -> None:
    assert of_setting(name, "hvnet") == hint


def test_a_rule_that_ends_nothing_is_taken_away() -> None:
    """And one that may end something is not: a verdict map, a target of iptables."""
    early, raw = frozenset({"prerouting"}), ("iptables-legacy", "raw", "PREROUTING")
    rules = (("ip saddr vmap @verdicts", 5), ('iifname "hvbr1" notrack', 7))
    chains = {NFT: Chain(early, rules), raw: Chain(early, ())}
    assert said("nft", NFT, 'iifname "hvbr1" notrack', WORLD, chains=chains) == [
        "nft delete rule inet wall Pass handle 7"
    ]
    line = "-A PREROUTING -i hvbr1 -j CT --zone 7"
    assert said("legacy", raw, line, WORLD, chains=chains) == [
        "iptables-legacy -t raw -D PREROUTING -i hvbr1 -j CT --zone 7"
    ]
    for by, place, what in (("nft", NFT, "ip saddr vmap @verdicts"), ("nft", NFT, "gone notrack"),
                            ("legacy", raw, '-A PREROUTING -m comment --comment "$(x)" -j NOTRACK')):  # fmt: skip
        (hint,) = said(by, place, what, WORLD, chains=chains)
        assert hint.startswith("see "), what


@pytest.mark.parametrize(("what", "protocols"), [("ether type arp drop", {"arp"}), ("policy drop", {"arp", "ip"}),
                                                 ("ip protocol tcp drop", {"ip"})])  # fmt: skip
def test_the_bridge_family_lets_pass_what_was_stopped(what: str, protocols: set[str]) -> None:
    place = ("bridge", "wall", "pass")
    found = said("nft", place, what, GUEST, chains={place: Chain(FORWARD, ((what, 3),))})
    assert {"arp" if " ether type arp " in one else "ip" for one in found} == protocols
    assert all("10.77.0.0/24" in one for one in found)


def test_arp_is_let_pass_by_the_devices_of_a_flow() -> None:
    place = ("arp", "wall", "in")
    chains = {place: Chain(INPUT, (("drop", 3),))}
    assert said("nft", place, "drop", WORLD, chains=chains) == [
        """nft 'insert rule arp wall in position 3 iifname "hvbr1" accept'""",
        """nft 'insert rule arp wall in position 3 iifname "eth0" accept'""",
    ]
    (hint,) = said("nft", place, "drop", flow(Way.HOST_TO_GUEST, 6), chains=chains)
    assert hint.startswith("see ")
