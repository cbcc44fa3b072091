"""The verdict on each claim. Pure."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.place import Place, legacy_place, nft_place
from hvtx.model.resource import Kind, Link
from hvtx.model.vm import Liveness, ProcessFacts
from hvtx.planner.adoption.claims import OPERATOR, AdoptFacts, Claim, Finding, Verdict, Why
from hvtx.planner.adoption.deletion import Deletion, parse_deletion
from hvtx.planner.heuristic import keeper_of

_IFF_TAP = 0x2
Known = Mapping[tuple[Place, tuple[str, ...]], Sequence[ForeignRule]]


def judge(claims: Sequence[Claim], sighted: AdoptFacts) -> list[Verdict]:
    """What is proven of each claim; what two of them claim is neither's."""
    devices = Counter(claim.device for claim in claims if claim.device)
    ids = Counter(vm_id(claim.id) for claim in claims)
    names = Counter(vm_name(claim) for claim in claims)
    rules = Counter(found for claim in claims for found in set(_deletions(claim)))
    twice = {rule for rule, times in rules.items() if times > 1}
    known = _by_words(sighted.rules)
    verdicts = []
    for claim in claims:
        if ids[vm_id(claim.id)] > 1 or names[vm_name(claim)] > 1:
            words = "another of these files describes a VM of that id or name"
            verdicts.append(_refused(claim, Why.CLAIMED_TWICE, words))
        elif claim.device and devices[claim.device] > 1:
            words = f"another of these files claims {claim.device} too"
            verdicts.append(_refused(claim, Why.CLAIMED_TWICE, words))
        else:
            verdicts.append(_judge(claim, sighted, twice, known))
    return verdicts


def _deletions(claim: Claim) -> list[Deletion]:
    found = []
    for text in claim.rules:
        try:
            found.append(parse_deletion(text))
        except ValueError:
            continue
    return found


def vm_id(identity: str) -> str:
    """The id that hvtx gives the VM: the same for the same VM, so that it is taken over once."""
    bare = identity.replace("-", "").lower()
    if re.fullmatch(r"[0-9a-f]{32}", bare):
        return bare
    from hashlib import blake2b

    return blake2b(identity.encode(), digest_size=16).hexdigest()


def vm_name(claim: Claim) -> str:
    """A name that hvtx allows, made from the claimed one."""
    name = re.sub(r"[^a-z0-9]+", "-", claim.name.lower()).strip("-")[:63].strip("-")
    return name or f"imported-{vm_id(claim.id)[:8]}"


def _refused(claim: Claim, why: Why, message: str, *findings: Finding) -> Verdict:
    unknown = Liveness.UNKNOWN
    return Verdict(
        claim, vm_id(claim.id), vm_name(claim), unknown, "", why.value, message, findings
    )


def _judge(claim: Claim, sighted: AdoptFacts, twice: set[Deletion], known: Known) -> Verdict:
    if not claim.owns or not (claim.device or claim.rules):
        words = "its state.json says nothing of the network: what is its own cannot be proven"
        return _refused(claim, Why.NO_OWNERSHIP, words)
    owner = sighted.names.get(vm_name(claim))
    if owner is not None and owner != vm_id(claim.id):
        words = f"another VM on record is called {vm_name(claim)!r}"
        return _refused(claim, Why.NAME_TAKEN, words)
    tap = judge_tap(claim, sighted)
    rules = [_judge_rule(claim, text, sighted, twice, known) for text in claim.rules]
    if tap is not None and not tap.proven and tap.reason != Why.GONE:
        left = [rule._replace(proven=False, reason=Why.VM_NOT_TAKEN.value) for rule in rules]
        words = f"its device is not proven: {tap.message}"
        return _refused(claim, Why(tap.reason), words, tap, *left)
    if unread := next((rule for rule in rules if rule.reason == Why.OBSERVE_FAILED), None):
        # without it in the record, it would stay for good once the VM is dead
        items = [item for item in (tap, *rules) if item is not None]
        left = [
            item
            if item is unread or item.reason
            else item._replace(proven=False, reason=Why.VM_NOT_TAKEN.value)
            for item in items
        ]
        return _refused(claim, Why.OBSERVE_FAILED, unread.message, *left)
    liveness, process = judge_process(claim, tap, sighted)
    if claim.pid is not None and _looked_at(claim.pid, sighted).error:
        # on record without its process, it could be proven dead never again
        items = [item for item in (tap, *rules) if item is not None]
        left = [item._replace(proven=False, reason=Why.VM_NOT_TAKEN.value) for item in items]
        return _refused(claim, Why.NOT_LOOKED_AT, process, *left)
    found = tuple(item for item in (tap, *rules) if item is not None)
    verdict = Verdict(claim, vm_id(claim.id), vm_name(claim), liveness, process, "", "", found)
    if any(item.proven for item in found):
        return verdict
    words = "nothing exists as it describes"
    return verdict._replace(reason=Why.GONE.value, message=words)


def operator_claim(
    name: str, identity: str, *, device: str | None, rule: str | None, pid: int | None
) -> Claim:
    """What an operator says: this device or this rule is the VM's, and so is this process."""
    return Claim(
        path="",
        id=identity,
        name=name,
        status=None,
        pid=pid,
        device=device,
        bridge=None,
        ip=None,
        rules=(rule,) if rule else (),
        owns=True,
        spelling={},
        by=OPERATOR,
    )


def judge_process(claim: Claim, tap: Finding | None, sighted: AdoptFacts) -> tuple[Liveness, str]:
    """Whether the VM's process lives, by its pid; a pid alone never proves that it does."""
    if claim.pid is None:
        return Liveness.UNKNOWN, "no process is known to be the VM's"
    facts = _looked_at(claim.pid, sighted)
    if facts.error:
        return Liveness.UNKNOWN, f"pid {claim.pid} could not be inspected: {facts.error}"
    if not facts.exists or facts.ended:
        return Liveness.DEAD, f"pid {claim.pid} is gone"
    holds = tap is not None and claim.pid in sighted.holders.get(claim.device or "", ())
    if holds:
        return Liveness.ALIVE, f"pid {claim.pid} runs and holds {claim.device}"
    return Liveness.UNKNOWN, f"pid {claim.pid} runs, but nothing proves that it is this VM"


def _looked_at(pid: int, sighted: AdoptFacts) -> ProcessFacts:
    return sighted.processes.get(pid, ProcessFacts(False, error="it was not inspected"))


def judge_tap(claim: Claim, sighted: AdoptFacts) -> Finding | None:
    """The claimed device: just as described, nobody's by its alias, held by nobody else."""
    name = claim.device
    if name is None:
        return None
    link = next((link for link in sighted.links if link.name == name), None)

    def unproven(why: Why, words: str) -> Finding:
        return Finding(Kind.TAP, name, False, why.value, words)

    if link is None:
        return unproven(Why.GONE, f"there is no device {name}")
    owner = sighted.recorded.get(name)
    if owner is not None and owner != vm_id(claim.id):
        return unproven(Why.ON_RECORD, f"{name} is on record already")
    if link.kind != "tun" or not link.tun_flags & _IFF_TAP:
        return unproven(Why.NOT_A_TAP, f"{name} is not a TAP device")
    if link.alias and owner is None:
        return unproven(Why.HAS_ALIAS, f"{name} carries an alias: {link.alias!r}")
    there = _port_of(link, claim, sighted)
    if isinstance(there, Finding):
        return there
    holders = sighted.holders.get(name, ())
    others = [pid for pid in holders if pid != claim.pid]
    if others:
        return unproven(
            Why.HELD_BY_OTHERS, f"{name} is held open by pid {', '.join(map(str, others))}"
        )
    held = f"held open by pid {claim.pid}" if holders else "held open by nobody"
    alias = f"alias {link.alias}" if link.alias else "no alias"
    evidence = (f"index {link.ifindex}", there, alias, held)
    return Finding(
        Kind.TAP,
        name,
        True,
        "",
        f"{name} is vouched for" if claim.by_operator else f"{name} is just as described",
        evidence,
        link=link,
        idle=not holders,
    )


def _port_of(link: Link, claim: Claim, sighted: AdoptFacts) -> str | Finding:
    """Where the device is a port, in words; a finding if that is not where it was said to be."""
    master = next((m for m in sighted.links if m.ifindex == link.master and link.master), None)
    there = f"a port of {master.name}" if master else "a port of no bridge"
    if claim.by_operator:
        return there
    words = f"{link.name} is {there}, not of {claim.bridge}"
    if claim.bridge is None:
        words = "its state.json names no bridge"
    elif master is not None and (master.kind, master.name) == ("bridge", claim.bridge):
        return there
    return Finding(Kind.TAP, link.name, False, Why.OTHER_BRIDGE.value, words)


def _judge_rule(
    claim: Claim, text: str, sighted: AdoptFacts, twice: set[Deletion], known: Known
) -> Finding:
    def unproven(why: Why, words: str) -> Finding:
        return Finding("rule", text, False, why.value, words)

    matches = [rule for rule in sighted.rules if claim.by_operator and _bare_key(rule) == text]
    try:
        forms = ("-A", "--append") if claim.by_operator else ()
        wanted = parse_deletion(text, *forms) if not matches else None
    except ValueError as problem:
        return unproven(Why.NOT_UNDERSTOOD, str(problem))
    if wanted in twice:
        return unproven(Why.CLAIMED_TWICE, "another of these files claims the same rule")
    if wanted and not claim.by_operator and not _its_own(claim, wanted):
        return unproven(Why.NOT_ITS_OWN, "it mentions neither the VM's address nor its device")
    if wanted:
        matches = [
            rule for place in _places(wanted) for rule in known.get((place, wanted.words), ())
        ]
        if not matches and (doubt := _doubt(sighted, wanted)):
            return unproven(Why.OBSERVE_FAILED, doubt)
    if not matches:
        return unproven(Why.GONE, "no such rule exists")
    if len(matches) > 1:
        return unproven(Why.NOT_UNIQUE, f"{len(matches)} such rules exist")
    rule = matches[0]
    if rule.mark is not None:
        mine = sighted.recorded.get(rule.mark) == vm_id(claim.id)
        words = f"it is marked {rule.mark}"
        if not mine:
            return unproven(Why.MARKED, words)
    keeper = keeper_of(rule)
    if keeper:
        return unproven(Why.NOT_ITS_OWN, f"another program's: {keeper}")
    evidence = (f"in {rule.place}, rule {rule.position}", "there exactly once", f"as {text!r}")
    words = "there exactly once, word for word"
    return Finding(kind_of(rule.text), rule.key, True, "", words, evidence, rule=rule)


def _doubt(sighted: AdoptFacts, wanted: Deletion) -> str:
    """Why it cannot be told whether a rule is there; empty if it can."""
    for rule in sighted.rules:
        if not rule.doubt or rule.place not in _places(wanted):
            continue
        if rule.printed and _words_of(rule.printed) != wanted.words:
            continue  # whatever it is, it is another one
        return f"a rule in {rule.place} ({rule.text}) could not be told from it: {rule.doubt}"
    return ""


def _words_of(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return ()


def _bare_key(rule: ForeignRule) -> str:
    """A rule's name to people, as it was before a mark of ours stood in it."""
    return f"{rule.place}: {bare_text(rule)}"


def bare_text(rule: ForeignRule) -> str:
    """A rule's words without a mark of ours."""
    if rule.mark is None:
        return rule.text
    text = rule.text.replace(f"-m comment --comment {rule.mark} ", "")
    return text.replace(f' comment "{rule.mark}"', "")


def _its_own(claim: Claim, wanted: Deletion) -> bool:
    words = " ".join(wanted.words)
    things = [claim.ip.partition("/")[0] if claim.ip else None, claim.device, claim.called]
    return any(
        thing and re.search(rf"(?<![\w.:-]){re.escape(thing)}(?![\w.-])", words) for thing in things
    )


def _places(wanted: Deletion) -> tuple[Place, Place]:
    """Where a rule may stand, of either kind of iptables."""
    family = "ip6" if wanted.tool == "ip6tables" else "ip"
    return (
        legacy_place(wanted.tool, wanted.table, wanted.chain),
        nft_place(family, wanted.table, wanted.chain),
    )


def _by_words(rules: Sequence[ForeignRule]) -> Known:
    """The rules by their places and words: each is taken apart once, however many are claimed."""
    found: dict[tuple[Place, tuple[str, ...]], list[ForeignRule]] = {}
    for rule in rules:
        try:
            words = tuple(shlex.split(bare_text(rule)))
        except ValueError:
            continue
        found.setdefault((rule.place, words), []).append(rule)
    return found


def kind_of(text: str) -> str:
    """Which kind of resource a rule in the words of iptables is."""
    if re.search(r"(?:^| )-j (?:DNAT|REDIRECT)\b", text):
        return Kind.PUBLISH.value
    if re.search(r"(?:^| )-j (?:MASQUERADE|SNAT)\b", text):
        return Kind.MASQUERADE.value
    return Kind.FILTER.value
