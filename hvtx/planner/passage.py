"""Do others' forward chains let our guests' traffic through, and what would? Pure.

An accept in one nftables table does not override a drop in another, so a drop of Docker's, ufw's or
an administrator's has to be met where it stands. What is met there already is in nobody's way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_ROUTED = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_TOOL = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}
_LEGACY = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_DOCKER = "DOCKER-USER"  # Docker's chain for what must come before its own rules
_POLICY = re.compile(r"^:FORWARD (DROP|REJECT)")
_COMMENT = re.compile(r" -m comment --comment (?:\"(?:[^\"\\]|\\.)*\"|\S+)")
_DROP_RULE = re.compile(r"-A FORWARD((?: -[io] \S+)*) -j (?:DROP|REJECT(?: --reject-with \S+)?)")
_ACCEPT_RULE = re.compile(r"-A (FORWARD|DOCKER-USER) -([io]) (\S+) -j ACCEPT")
_ON = re.compile(r" -([io]) (\S+)")


class Bridge(NamedTuple):
    """A bridge of ours whose guests want to pass."""

    name: str
    families: tuple[int, ...]  # 4, 6
    firewall: str  # the backend of its network


class Drop(NamedTuple):
    """What drops our guests' traffic; ``mends`` are the commands that would let it pass."""

    words: str
    mends: tuple[str, ...]


Way = tuple[str, str]  # a bridge, and "i" from it or "o" to it


def nft_drops(items: Sequence[Mapping[str, Any]], bridges: Sequence[Bridge]) -> Iterator[Drop]:
    """In what ``nft -j list ruleset`` prints: chains that drop by policy, rules that drop all.

    Raises ValueError for objects that nft prints in another form than is known.
    """
    try:
        yield from _nft_drops(items, bridges)
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"nft printed what is not understood: {problem!r}") from problem


def _nft_drops(items: Sequence[Mapping[str, Any]], bridges: Sequence[Bridge]) -> Iterator[Drop]:
    chains = [item["chain"] for item in items if "chain" in item]
    rules = [item["rule"] for item in items if "rule" in item]
    for chain in chains:
        family, table, name = chain["family"], chain["table"], chain["name"]
        theirs = not str(table).startswith("hvtx-") and family in _ROUTED
        if not theirs or chain.get("hook") != "forward":
            continue
        own = [r for r in rules if (r["family"], r["table"]) == (family, table)]
        docker = any(r["chain"] == name and _leads_to_docker(r["expr"]) for r in own)
        before = {
            way for r in own if docker and r["chain"] == _DOCKER for way in _lets_pass(r["expr"])
        }
        mend = _nft_mend(family, table, _DOCKER if docker else name)
        wanted = [way for bridge in bridges if {*bridge.families} & {*_ROUTED[family]}
                  for way in ((bridge.name, "i"), (bridge.name, "o"))]  # fmt: skip
        passed = set(before)
        for rule in (r for r in own if r["chain"] == name):
            hit = _drops(rule["expr"], wanted)
            if left := [way for way in wanted if way in hit and way not in passed]:
                words = f"nft {family} {table} {name}: a rule drops all (handle {rule['handle']})"
                yield Drop(words, tuple(map(mend, left)))
            passed |= set(_lets_pass(rule["expr"]))
        left = [way for way in wanted if way not in passed]
        if chain.get("policy") == "drop" and (left or not bridges):
            yield Drop(f"nft {family} {table} {name}: policy drop", tuple(map(mend, left)))


def _nft_mend(family: str, table: str, chain: str) -> Callable[[Way], str]:
    def say(way: Way) -> str:
        bridge, direction = way
        if table == "filter" and family in _TOOL:
            return f"{_TOOL[family]} -I {chain} -{direction} {bridge} -j ACCEPT"
        return f"nft insert rule {family} {table} {chain} {direction}ifname {bridge} accept"

    return say


def _leads_to_docker(expressions: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a rule sends every packet to DOCKER-USER, as Docker's first one does."""
    jumps = [found["jump"]["target"] for found in expressions if "jump" in found]
    return jumps == [_DOCKER] and not any("match" in found for found in expressions)


def _lets_pass(expressions: Sequence[Mapping[str, Any]]) -> Iterator[Way]:
    """The way that a rule opens, whatever else a packet is."""
    expressions = [_plain(found) for found in expressions]
    matches = [found["match"] for found in expressions if "match" in found]
    plain = all(found.keys() & {"match", "counter", "accept"} for found in expressions)
    if plain and len(matches) == 1 and any("accept" in found for found in expressions):
        yield from _device(matches[0])


def _plain(expression: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stands for an expression of iptables-nft that nft has no words for."""
    xt = expression.get("xt") or {}
    known = {("match", "comment"): "counter", ("target", "REJECT"): "reject"}
    word = known.get((str(xt.get("type")), str(xt.get("name"))))
    return {word: None} if word else expression


def _device(match: Mapping[str, Any]) -> Iterator[Way]:
    left, right = match["left"], match["right"]
    key = left.get("meta", {}).get("key") if isinstance(left, dict) else None
    if match["op"] == "==" and key in ("iifname", "oifname") and isinstance(right, str):
        yield right, key[0]


def _drops(expressions: Sequence[Mapping[str, Any]], wanted: Iterable[Way]) -> set[Way]:
    """The ways that a rule closes: all of them, or those of the one device that it names."""
    closed = set(wanted)
    expressions = [_plain(found) for found in expressions]
    for found in expressions:
        if "match" in found:
            named = set(_device(found["match"]))
            if not named:
                return set()
            closed &= named
        elif not found.keys() & {"counter", "log", "drop", "reject"}:
            return set()
    ends = any(found.keys() & {"drop", "reject"} for found in expressions)
    return closed if ends else set()


def legacy_drops(
    family: int, text: str, installation: str, bridges: Sequence[Bridge]
) -> Iterator[Drop]:
    """In what ``iptables-legacy-save`` prints of the filter table, likewise.

    Networks of the iptables backend pass by our own jump, where that stands before the drop; it is
    at the end, and answers the policy.
    """
    jump, tool = f"HVTX-{installation}-PASS", _LEGACY[family]
    lines = [_COMMENT.sub("", line) for line in text.splitlines()]
    docker = f"-A FORWARD -j {_DOCKER}" in lines
    here = [bridge for bridge in bridges if family in bridge.families]
    wanted = [(bridge.name, way) for bridge in here for way in "io"]
    accepts = [found for line in lines if docker and (found := _ACCEPT_RULE.fullmatch(line))]
    passed = {(found[3], found[2]) for found in accepts if found[1] == _DOCKER}

    def drop(words: str, left: Sequence[Way]) -> Drop:
        chain = _DOCKER if docker else "FORWARD"
        own = {b.name for b in here if b.firewall == "iptables"} if "policy" in words else set()
        return Drop(f"{tool} filter {words}", tuple(
            "hvtx repair" if bridge in own else f"{tool} -I {chain} -{way} {bridge} -j ACCEPT"
            for bridge, way in left
        ))  # fmt: skip

    for line in lines:
        if line.startswith("-A FORWARD ") and line.endswith(f" {jump}"):
            passed |= {(b.name, way) for b in here if b.firewall == "iptables" for way in "io"}
        if (found := _ACCEPT_RULE.fullmatch(line)) and found[1] == "FORWARD":
            passed.add((found[3], found[2]))
        if found := _DROP_RULE.fullmatch(line):
            named = [(bridge, way) for way, bridge in _ON.findall(found[1])]
            hit = [way for way in wanted if all(way == other for other in named)]
            if left := [way for way in hit if way not in passed]:
                yield drop(line, left)
    policy = next((found for line in lines if (found := _POLICY.match(line))), None)
    left = [way for way in wanted if way not in passed]
    if policy is not None and (left or not bridges):
        yield drop(f"FORWARD: policy {policy[1]}", left)
