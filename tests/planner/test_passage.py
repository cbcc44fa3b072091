"""Which drops of others are in our guests' way, and the commands that open one."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.planner.passage import Bridge, Drop, legacy_drops, nft_drops

OURS = "aaaaaaaaaa"
BOTH = Bridge("hvbr1", (4, 6), "nftables")
FOUR = Bridge("hvbr2", (4,), "iptables")


def chain(
    name: str = "FORWARD", family: str = "ip", table: str = "filter", **more: Any
) -> dict[str, Any]:
    hooked = {"hook": "forward", "policy": "drop", **more} if name != "DOCKER-USER" else more
    return {"chain": {"family": family, "table": table, "name": name, **hooked}}


def rule(
    *expressions: Any, at: str = "FORWARD", family: str = "ip", table: str = "filter"
) -> dict[str, Any]:
    expr = [{word: None} if isinstance(word, str) else word for word in expressions]
    return {"rule": {"family": family, "table": table, "chain": at, "handle": 7, "expr": expr}}


def on(device: str, key: str = "iifname", op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": device}}


JUMP = rule("counter", {"jump": {"target": "DOCKER-USER"}})


def mends(drops: Any) -> list[str]:
    return [mend for drop in drops for mend in drop.mends]


def test_a_policy_is_met_both_ways_and_for_the_families_that_need_it() -> None:
    (drop,) = nft_drops([chain()], [BOTH, FOUR])
    assert drop.words == "nft ip filter FORWARD: policy drop"
    assert drop.mends == tuple(
        f"iptables-nft -I FORWARD -{w} {b} -j ACCEPT" for b in ("hvbr1", "hvbr2") for w in "io"
    )
    six = list(nft_drops([chain(family="ip6")], [BOTH, FOUR]))
    assert mends(six) == [f"ip6tables-nft -I FORWARD -{w} hvbr1 -j ACCEPT" for w in "io"]
    assert list(nft_drops([chain(family="ip6")], [FOUR])) == []
    (own,) = nft_drops([chain("fwd", "inet", "mine")], [FOUR])
    assert own.mends == (
        "nft insert rule inet mine fwd iifname hvbr2 accept",
        "nft insert rule inet mine fwd oifname hvbr2 accept",
    )


def test_what_is_met_is_in_nobodys_way() -> None:
    """In the chain itself, or in Docker's own chain where that is reached; each way by itself."""
    items = [
        chain(),
        rule(on("hvbr2"), "counter", "accept"),
        rule(on("hvbr2", "oifname"), "accept"),
    ]
    assert list(nft_drops(items, [FOUR])) == []
    assert mends(nft_drops(items[:2], [FOUR])) == ["iptables-nft -I FORWARD -o hvbr2 -j ACCEPT"]
    docker = [chain(), chain("DOCKER-USER"), JUMP]
    assert mends(nft_drops(docker, [FOUR]))[0] == "iptables-nft -I DOCKER-USER -i hvbr2 -j ACCEPT"
    opened = [rule(on("hvbr2", key), "accept", at="DOCKER-USER") for key in ("iifname", "oifname")]
    assert list(nft_drops([*docker, *opened], [FOUR])) == []
    assert len(mends(nft_drops([*docker[:2], *opened], [FOUR]))) == 2  # nothing leads there


@pytest.mark.parametrize(
    "accept",
    [
        rule(on("hvbr2", op="!="), "accept"),
        rule(on("other0"), "accept"),
        rule(on("hvbr2"), on("eth0", "oifname"), "accept"),
        rule(on("hvbr2"), {"match": {"op": "==", "left": {"payload": {}}, "right": 80}}, "accept"),
        rule(on("hvbr2"), {"limit": {}}, "accept"),
        rule(on("hvbr2"), "accept", table="nat"),
        rule(on("hvbr2"), "log"),
    ],
)
def test_a_narrower_accept_does_not_count(accept: dict[str, Any]) -> None:
    assert len(mends(nft_drops([chain(), accept], [FOUR]))) == 2


def test_a_rule_that_drops_all() -> None:
    """Before the accept it is in the way, behind it it is not; only for the device it names."""
    everything = rule("counter", "drop")
    opened = [rule(on("hvbr2", key), "accept") for key in ("iifname", "oifname")]
    accepts = chain(policy="accept")
    (drop,) = nft_drops([accepts, everything, *opened], [FOUR])
    assert drop.words == "nft ip filter FORWARD: a rule drops all (handle 7)"
    assert list(nft_drops([accepts, *opened, everything], [FOUR])) == []
    assert mends(nft_drops([accepts, rule(on("hvbr2"), {"reject": {}})], [FOUR, BOTH])) == [
        "iptables-nft -I FORWARD -i hvbr2 -j ACCEPT"
    ]
    assert list(nft_drops([accepts, rule(on("eth0"), "drop")], [FOUR])) == []
    assert (
        list(
            nft_drops(
                [accepts, rule({"match": {"op": "==", "left": {"ct": {}}, "right": 1}}, "drop")],
                [FOUR],
            )
        )
        == []
    )


def test_words_of_iptables_that_nft_has_not() -> None:
    """REJECT and comments come as extensions; an unknown extension proves nothing."""
    accepts = chain(policy="accept")
    reject = {"xt": {"type": "target", "name": "REJECT"}}
    comment = {"xt": {"type": "match", "name": "comment"}}
    assert len(mends(nft_drops([accepts, rule(comment, "counter", reject)], [FOUR]))) == 2
    assert (
        list(nft_drops([accepts, rule({"xt": {"type": "match", "name": "owner"}}, "drop")], [FOUR]))
        == []
    )
    assert list(nft_drops([accepts, rule({"xt": None}, "drop")], [FOUR])) == []
    opened = [
        rule(on("hvbr2", key), comment, "counter", "accept") for key in ("iifname", "oifname")
    ]
    assert list(nft_drops([chain(), *opened], [FOUR])) == []


def test_ours_and_other_hooks_are_not_looked_at() -> None:
    items = [
        chain(table="hvtx-aaaaaaaaaa"),
        chain(hook="input"),
        chain(family="bridge"),
        chain(policy="accept"),
    ]
    assert list(nft_drops(items, [FOUR])) == []


def test_without_a_network_a_policy_is_told_without_mends() -> None:
    assert list(nft_drops([chain()], [])) == [Drop("nft ip filter FORWARD: policy drop", ())]
    assert list(legacy_drops(4, ":FORWARD DROP [0:0]", OURS, [])) == [
        Drop("iptables-legacy filter FORWARD: policy DROP", ())
    ]


POLICY = ":FORWARD DROP [0:0]\n"


def legacy(*lines: str, family: int = 4) -> list[Drop]:
    return list(legacy_drops(family, POLICY + "\n".join(lines), OURS, [BOTH, FOUR]))


def test_legacy_tables() -> None:
    """Our own jump is the way for networks of its backend; the rest needs a rule."""
    assert len(mends(legacy())) == 4
    assert mends(legacy(family=6)) == [
        f"ip6tables-legacy -I FORWARD -{w} hvbr1 -j ACCEPT" for w in "io"
    ]
    jump = f"-A FORWARD -m comment --comment hvtx:1:{OURS}:1.k -j HVTX-{OURS}-PASS"
    assert mends(legacy(jump)) == [f"iptables-legacy -I FORWARD -{w} hvbr1 -j ACCEPT" for w in "io"]
    opened = [f"-A FORWARD -{w} hvbr1 -j ACCEPT" for w in "io"]
    assert legacy(jump, *opened) == []
    assert legacy(*opened, jump) == []
    docker = [
        "-A FORWARD -j DOCKER-USER",
        *(line.replace("FORWARD", "DOCKER-USER") for line in opened),
    ]
    assert legacy(jump, *docker) == []
    assert len(mends(legacy(jump, *docker[1:]))) == 2
    (early, policy) = legacy(
        '-A FORWARD -i hvbr1 -m comment --comment "no VMs" -j REJECT --reject-with icmp-port-unreachable',
        jump,
    )
    assert early.mends == ("iptables-legacy -I FORWARD -i hvbr1 -j ACCEPT",)
    assert len(policy.mends) == 2
    assert legacy(jump, *opened, "-A FORWARD -j DROP") == []
