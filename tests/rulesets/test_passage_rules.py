"""The accepts of a passage: as narrow as what a network needs."""

from __future__ import annotations

from hvtx.rulesets.passage_rules import forward_rules, input_rules


def test_a_network_goes_out_by_uplinks_and_takes_in_what_is_known() -> None:
    assert forward_rules("br0", nat=True, isolate=False, uplinks=["eth0", "wg0"]) == (
        "-i br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-o br0 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
        "-i br0 -o br0 -j ACCEPT",
        "-i br0 -o eth0 -j ACCEPT",
        "-i br0 -o wg0 -j ACCEPT",
    )


def test_isolated_guests_do_not_reach_one_another() -> None:
    rules = forward_rules("br0", nat=True, isolate=True, uplinks=[])
    assert not [rule for rule in rules if "-i br0 -o br0" in rule]


def test_guests_without_nat_are_reached_from_the_world_only() -> None:
    rules = forward_rules("br0", nat=False, isolate=False, uplinks=["eth0"])
    assert "-i eth0 -o br0 -j ACCEPT" in rules
    assert "-o br0 -j ACCEPT" not in rules


def test_the_host_is_asked_for_the_network_service_only_where_there_is_one() -> None:
    for family, port in ((4, 67), (6, 547)):
        served = input_rules(family, "br0", dhcp=True)
        bare = input_rules(family, "br0", dhcp=False)
        wanted = {
            f"-i br0 -p udp -m udp --dport {port} -j ACCEPT",
            "-i br0 -p udp -m udp --dport 53 -j ACCEPT",
            "-i br0 -p tcp -m tcp --dport 53 -j ACCEPT",
        }
        assert set(served) - set(bare) == wanted
        assert not [rule for rule in served if not rule.startswith("-i br0 -")]


def test_neighbours_of_ipv6_find_the_gateway() -> None:
    kinds = {rule.split()[-3] for rule in input_rules(6, "br0", dhcp=False) if "icmp6" in rule}
    assert kinds == {"128", "133", "135", "136"}
    assert not [rule for rule in input_rules(4, "br0", dhcp=True) if "ipv6" in rule]
