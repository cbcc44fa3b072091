"""The owner of a table, a chain or a rule. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hvtx.model.firewall import firewall_spec
from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.mark import FAMILY
from hvtx.model.place import NFT, Place
from hvtx.model.reason import Reason
from hvtx.planner.known_software import looks_like
from hvtx.planner.subjects import ExplainFacts, Subject, of_item, of_row

_SHORTEST = 3  # letters of a rule's text that tell something
_SPELT = re.compile(
    r"(?:ip6?tables(?:-legacy|-nft)? +)?(?:-t (\S+) +)?(?:-[ACDI] (\S+) +(?:\d+ +)?)?(.*)"
)
_OURS = re.compile(r"(?:hvtx|HVTX)-([a-z2-7]{10})(?:-|$)")


def by_place(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    """Tables and chains of that name."""
    wanted = _bare(text)
    for place in sight.places:
        if wanted and f" {place}".endswith(f" {wanted}"):
            yield _place(sight, place)


def _place(sight: ExplainFacts, place: Place) -> Subject:
    """A table, a chain or a set of the firewall."""
    kind, key, nft = "table" if place.is_table else "chain", str(place), place.tool == NFT
    inside = [rule for rule in sight.rules if place.holds(rule.place)]
    marked = sum(1 for rule in inside if rule.mark)
    rules = "1 rule" if len(inside) == 1 else f"{len(inside)} rules"
    changed = [d for d in sight.differences if isinstance(d.place, Place) and place.holds(d.place)]
    evidence = (
        f"{rules} in it, {marked} with a mark of hvtx",
        *(f"{d.place}: {d.words}: {d.fix}" for d in changed),
    )
    if any(d.whole and d.place == place for d in changed):
        words = f"not hvtx's, although it stands in hvtx's own table {place.table}"
        return Subject(kind, key, words, evidence=evidence)
    named = _OURS.match(place.table if nft else place.name)
    if named is None:
        looks = looks_like(place.name) or (looks_like(place.table) if nft else None)
        words = "not ours: no mark" + (f"; looks like {looks}" if looks else "")
        if marked:
            words = f"not ours, but {marked} of its {len(inside)} rules are hvtx's"
        return Subject(kind, key, words, evidence=evidence)
    if named[1] != sight.snapshot.installation:
        words = f"a {kind} of another installation of hvtx ({named[1]})"
        other = Reason.OTHER_INSTALLATION
        return Subject(kind, key, words, None, "other-installation", other, evidence=evidence)
    backend, family = "nftables" if nft else "iptables", place.family
    for row in sight.snapshot.rows:
        if row.role == "base" and row.backend == backend:
            if family not in (firewall_spec(row).get("families") or [family]):
                continue
            found = of_row(sight, row, evidence)
            return found._replace(kind=kind, key=key)
    words = f"a {kind} named like those of this installation, but not on record"
    return Subject(kind, key, words, None, "unknown", Reason.UNRECORDED, evidence=evidence)


def by_rule(sight: ExplainFacts, text: str) -> Iterator[Subject]:
    """A rule by its text, a part of it, or as it would be typed for iptables."""
    if len(text) < _SHORTEST:
        return
    spelt = _SPELT.fullmatch(text)
    table, chain, rest = spelt.groups() if spelt else (None, None, text)

    def fits(rule: ForeignRule) -> bool:
        if table or chain:
            here = table in (None, rule.table) and chain in (None, rule.chain)
            return here and _bare(rest) in (_bare(rule.text), _bare(rule.native))
        return any(text in words for words in (rule.key, f"{rule.place}: {rule.native}"))

    for rule in sight.rules:
        if fits(rule):
            yield _rule(sight, rule)
    told = {item.mark for item in sight.plan.items if item.mark}
    for entry in sight.snapshot.entries:  # elements of sets: addresses, ports, devices
        if entry.mark in told and text in f"{entry.place}: {entry.text}":
            item = next(item for item in sight.plan.items if item.mark == entry.mark)
            yield of_item(sight, item, evidence=(f"{entry.place}: {entry.text}",))
    for one in sight.differences:
        if one.element and text in f"{one.place}: {one.element}":
            words = "not hvtx's, although it stands in hvtx's own table"
            more = (f"to remove it: {one.fix}",)
            yield Subject("rule", f"{one.place}: {one.element}", words, evidence=more)


def _bare(text: str) -> str:
    return " ".join(text.split())


def _rule(sight: ExplainFacts, rule: ForeignRule) -> Subject:
    words = "not ours: no mark"
    if rule.mark is not None:
        item = next((item for item in sight.plan.items if item.mark == rule.mark), None)
        if item is not None:
            found = of_item(sight, item, evidence=(rule.key,))
            return found._replace(kind="rule", key=rule.key)
        words = f"not ours: it carries {rule.mark}" if rule.mark.startswith(FAMILY) else words
    spoken = f"handle {rule.handle})" if rule.handle else f"`{rule.text}`"
    for one in sight.differences:
        if one.row is None and one.place == rule.place and spoken in one.words:
            words = "not hvtx's, although it stands in a table or chain of hvtx's, or leads there"
            return Subject("rule", rule.key, words, evidence=(f"to remove it: {one.fix}",))
    from hvtx.planner.heuristic import keeper_of  # the emergency mode, for others' rules alone

    keeper = keeper_of(rule)
    looks = next((w for name in (rule.chain, rule.table) if (w := looks_like(name))), None)
    looks = looks or next(
        (w for name in rule.text.split() if (w := looks_like(name.strip('"')))), None
    )
    words += f"; {keeper}" if keeper else ""
    words += f"; looks like {looks}" if looks else ""
    more = (f"rule {rule.position} of its chain", f"to make it again: {rule.restore}")
    if rule.doubt:
        more = (more[0], f"these are not iptables' words for it: {rule.doubt}")
    return Subject("rule", rule.key, words, evidence=more)
