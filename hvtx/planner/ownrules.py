"""Differences of hvtx's own tables and chains: expected and seen, compared. Pure.

Everything in them is looked at: flags, hooks, policies, chains, sets, rules and their order,
elements and what they lead to. A thing of ours that is missing or changed has its row, and `repair`
puts it back. What is somebody else's stays, as everywhere: the command that takes it away is named.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hvtx.model.hook import DORMANT, Hook
from hvtx.model.place import Place, legacy_place, nft_place
from hvtx.model.ruleset import (
    Difference,
    SeenLine,
    SeenRule,
    SeenTable,
    WantedLine,
    WantedTable,
)

REPAIR = "hvtx repair"
_FOREIGN = "not hvtx's"
_UNRECORDED = "with hvtx's mark that is not on record"
_GC = "hvtx gc --plan"  # whether it goes, a person says: gc --apply --unrecorded
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")  # a name that nft and a shell read as it is
_PLAIN_RULE = re.compile(r'[\w ./:,!+=@%"-]*')


# -- nf_tables -------------------------------------------------------------------------------------


def of_table(
    wanted: WantedTable, seen: SeenTable, words: Callable[[Hook | None], str]
) -> list[Difference]:
    """What differs in one table; ``words`` writes a hook. Elements of packets are left out."""
    found = [*_flags(wanted, seen), *_hooks(wanted, seen, words), *_rules(wanted, seen)]
    found += [*_elements(wanted, seen), *_more(wanted, seen)]
    return found


def _at(seen: SeenTable, name: str = "") -> Place:
    return nft_place(seen.family, seen.name, name)


def _nft(*words: str) -> str:
    return "nft " + shlex.quote(" ".join(words))


def _flags(wanted: WantedTable, seen: SeenTable) -> Iterator[Difference]:
    if seen.flags & DORMANT:
        words = "the table is dormant: no rule of it is asked, and guests are not held"
        yield Difference(_at(seen), words, REPAIR, wanted.row)


def _hooks(
    wanted: WantedTable, seen: SeenTable, words: Callable[[Hook | None], str]
) -> Iterator[Difference]:
    for name, hook in wanted.hooks.items():
        if name not in seen.hooks:
            yield Difference(_at(seen, name), "the chain is gone", REPAIR, wanted.row)
        elif seen.hooks[name] != hook:
            said = f"the chain has {words(seen.hooks[name])}, and hvtx's has {words(hook)}"
            yield Difference(_at(seen, name), said, REPAIR, wanted.row)
    for name in sorted(wanted.sets - seen.sets.keys()):
        yield Difference(_at(seen, name), "the set is gone", REPAIR, wanted.row)


def _rules(wanted: WantedTable, seen: SeenTable) -> Iterator[Difference]:
    inside: dict[str, list[SeenRule]] = {}
    for rule in seen.rules:
        if rule.chain in wanted.hooks or rule.chain in wanted.rules:
            inside.setdefault(rule.chain, []).append(rule)
    for chain in wanted.rules.keys() | inside.keys():
        yield from _chain(wanted, seen, chain, inside.get(chain, ()))


def _chain(
    wanted: WantedTable, seen: SeenTable, chain: str, rules: Sequence[SeenRule]
) -> Iterator[Difference]:
    where, expected = _at(seen, chain), wanted.rules.get(chain, ())
    ours = [rule.digest for rule in rules if rule.comment == wanted.mark]
    for rule in rules:
        if rule.comment != wanted.mark:
            said = f"a rule that is {_FOREIGN}: `{rule.text}` (handle {rule.handle})"
            fix = f"nft delete rule {seen.family} {seen.name} {chain} handle {rule.handle}"
            fix = fix if _PLAIN.fullmatch(chain) else _see(seen)
            yield Difference(where, said, fix)
    if ours == [digest for digest, _ in expected]:
        return
    missing, there = Counter(digest for digest, _ in expected), Counter(ours)
    for digest, text in expected:
        if missing[digest] > there[digest]:
            missing[digest] -= 1
            yield Difference(where, f"a rule is gone: `{text}`", REPAIR, wanted.row)
    known = Counter(digest for digest, _ in expected)
    surplus = there - known
    for digest, number in surplus.items():
        said = f"{number} more with hvtx's mark that is another rule"
        if digest in known:
            said = f"{number} more of a rule that hvtx has once"
        yield Difference(where, said, REPAIR, wanted.row, copies=True)
    if there == known:
        yield Difference(where, "its rules stand in another order", REPAIR, wanted.row)


def _elements(wanted: WantedTable, seen: SeenTable) -> Iterator[Difference]:
    for element in seen.elements:
        where = _at(seen, element.set)
        there = wanted.elements.get((element.set, element.key))
        if there is not None and element.comment == there.mark:
            if there.flows and element.flows != there.flows:
                said = f"`{element.text}` is for {element.flows} flows, and hvtx's for"
                yield Difference(where, f"{said} {there.flows}", REPAIR, there.row)
            if element.data != there.data:
                said = f"`{element.text}` leads elsewhere than hvtx's"
                yield Difference(where, said, REPAIR, there.row)
            continue
        if there is None and element.comment in wanted.known:
            continue  # of an operation that runs, or gc's to judge
        lost = element.comment in wanted.unrecorded
        said = f"an element {_UNRECORDED if lost else f'that is {_FOREIGN}'}: `{element.text}`"
        command = _GC if lost else _remove_element(seen, element.set, element.spelt)
        if there is not None:
            said = f"in the place of hvtx's stands another `{element.text}`"
            command += "" if lost else f"; {REPAIR}"
        instead = None if there is None else there.row
        yield Difference(
            where, said, command, instead=instead, element=element.text, unrecorded=lost
        )


def _remove_element(seen: SeenTable, name: str, key: str) -> str:
    if not key:
        return f"see nft list set {seen.family} {seen.name} {name}"
    return _nft(f"delete element {seen.family} {seen.name} {name} {{ {key} }}")


def _see(seen: SeenTable) -> str:
    return f"see nft -a list table {seen.family} {seen.name}"


def _more(wanted: WantedTable, seen: SeenTable) -> Iterator[Difference]:
    """Chains, sets and objects of somebody else; a rule that needs them is told before."""
    place = f"{seen.family} {seen.name}"
    for name, hook in seen.hooks.items():
        if name not in wanted.hooks:
            kind = "a base chain" if hook is not None else "a chain"
            fix = _nft(f"flush chain {place} {name}; delete chain {place} {name}")
            said, fix = (
                f"{kind} that is {_FOREIGN}",
                fix if _PLAIN.fullmatch(name) else _see(seen),
            )
            calls = hook is not None
            yield Difference(_at(seen, name), said, fix, stops=calls, whole=True)
    for name, kind in seen.sets.items():
        if name not in wanted.sets:
            said, fix = f"a {kind} that is {_FOREIGN}", f"nft delete {kind} {place} {name}"
            fix = fix if _PLAIN.fullmatch(name) else _see(seen)
            yield Difference(_at(seen, name), said, fix, stops=False, whole=True)
    for kind, name in seen.objects:
        said, fix = f"a {kind} that is {_FOREIGN}", f"nft delete {kind} {place} {name}"
        fix = fix if _PLAIN.fullmatch(name) else _see(seen)
        yield Difference(_at(seen, name), said, fix, stops=False)


# -- legacy tables ---------------------------------------------------------------------------------

_JUMP = re.compile(r"(?:^| )-([jg]) (\S+)")
_DEVICE = re.compile(r"(! )?(^|(?<= ))-([io]) (\S+)")
_KNOWN_FLOWS = re.compile(r"(?:^| )--(?:ctstate|state) (?:RELATED,ESTABLISHED|ESTABLISHED,RELATED"
                          r"|ESTABLISHED|RELATED)(?: |$)")  # fmt: skip
_HARMLESS = frozenset({
    "DROP", "REJECT", "RETURN", "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "DSCP", "TOS", "TTL",
    "HL", "CT", "NOTRACK", "SET", "CHECKSUM", "CLASSIFY", "AUDIT", "TRACE", "SECMARK",
    "CONNSECMARK", "RATEEST", "LED", "ECN", "TCPOPTSTRIP",
})  # fmt: skip


def of_lines(
    wanted: Sequence[WantedLine],
    seen: Sequence[SeenLine],
    chains: Mapping[str, frozenset[str]],
    known: frozenset[str],
    unrecorded: frozenset[str] = frozenset(),
) -> list[Difference]:
    """What differs in the legacy tables; ``chains`` are ours by table, ``known`` marks.

    ``unrecorded`` are marks of ours of which the record knows nothing.

    No order matters in our chains: what stands in one drops only, accepts only or translates
    different things. A rule that must come before others' is told where something that may let
    packets past it, or lead them away, stands before it.
    """
    own: dict[tuple[str, str, str, str, str], WantedLine] = {
        (w.tool, w.table, w.chain, w.text, w.mark): w for w in wanted
    }
    times = Counter(key for line in seen if (key := _key(line)) in own)
    found = [_gone(line) for key, line in own.items() if not times[key]]
    found += [
        Difference(_in(own[key]), f"{number} copies of `{own[key].text}`", REPAIR, own[key].row,
                   stops=False, copies=True)
        for key, number in times.items() if number > 1
    ]  # fmt: skip
    marked = {line.mark for line in wanted}
    for line in seen:
        if _key(line) in own or line.mark in known:
            continue
        if line.mark in unrecorded:
            said = f"a rule {_UNRECORDED}: `{line.text}`"
            found.append(Difference(_in(line), said, _GC, unrecorded=True))
        elif line.mark in marked:
            said = f"a rule with hvtx's mark that is {_FOREIGN}: `{line.text}`"
            found.append(Difference(_in(line), said, _remove(line)))
        else:
            found += _foreign_object(line, chains.get(line.table, frozenset()))
    return found + list(_behind(own, seen))


def _key(line: SeenLine) -> tuple[str, str, str, str, str]:
    return line.tool, line.table, line.chain, line.text, line.mark or ""


def _in(line: SeenLine | WantedLine) -> Place:
    return legacy_place(line.tool, line.table, line.chain)


def _gone(line: WantedLine) -> Difference:
    return Difference(_in(line), f"a rule is gone: `{line.text}`", REPAIR, line.row)


def _remove(line: SeenLine) -> str:
    """By its words; by its number where these are hvtx's own, or a shell would take some else."""
    plain = line.mark is None and _PLAIN_RULE.fullmatch(line.text)
    what = line.text if plain else str(line.place)
    return f"{line.tool}-legacy -t {line.table} -D {line.chain} {what}".rstrip()


def _foreign_object(line: SeenLine, chains: frozenset[str]) -> Iterator[Difference]:
    """A rule of somebody else in a chain of ours, or that leads to one."""
    jump = _JUMP.search(line.text)
    if line.chain in chains:
        said = f"a rule that is {_FOREIGN}: `{line.text}`"
    elif jump is not None and jump[2] in chains:
        said = f"a rule that is {_FOREIGN} leads to hvtx's chain: `{line.text}`"
    else:
        return
    yield Difference(_in(line), said, _remove(line))


def _behind(
    own: Mapping[tuple[str, str, str, str, str], WantedLine], seen: Sequence[SeenLine]
) -> Iterator[Difference]:
    """Rules of ours that come too late."""
    bridges = frozenset(
        device for line in own.values() for *_, device in _DEVICE.findall(line.text)
    )
    inside: dict[tuple[str, str, str], list[SeenLine]] = {}
    for line in seen:
        inside.setdefault((line.tool, line.table, line.chain), []).append(line)
    for lines in inside.values():
        ahead: list[SeenLine] = []
        told: set[int] = set()
        for line in lines:
            mine = own.get(_key(line))
            if mine is None:
                ahead.append(line)
            elif mine.first and mine.row not in told:
                passed = next((a for a in ahead if _takes(a, mine, bridges, inside)), None)
                if passed is not None:
                    told.add(mine.row)
                    said = f"`{passed.text}`, {_FOREIGN}, stands before `{mine.text}`"
                    yield Difference(
                        _in(line), f"{said} and lets packets past it", REPAIR, mine.row
                    )


def _takes(
    line: SeenLine,
    mine: WantedLine,
    bridges: frozenset[str],
    inside: Mapping[tuple[str, str, str], list[SeenLine]],
) -> bool:
    """Whether a rule may decide about packets that are for one of ours."""
    ways = [found[2:] for found in _DEVICE.findall(mine.text)]
    concerned = [
        any(_same(line, side, name) for name in ([device] if device else bridges))
        for side, device in (ways or (("i", ""), ("o", "")))
    ]
    if not any(concerned):
        return False
    if _KNOWN_FLOWS.search(line.text) and "!" not in line.text:
        return False  # what is dropped are new flows
    return _decides(line, inside, frozenset())


def _same(line: SeenLine, side: str, name: str) -> bool:
    """Whether packets that come in or go out (``i``, ``o``) by a device may match a rule."""
    for inverted, _, way, device in _DEVICE.findall(line.text):
        if way == side:
            start = device.removesuffix("+")
            fits = name.startswith(start) if device.endswith("+") else name == device
            if fits == bool(inverted):
                return False
    return True


def _decides(
    line: SeenLine,
    inside: Mapping[tuple[str, str, str], list[SeenLine]],
    passed: frozenset[str],
) -> bool:
    jump = _JUMP.search(line.text)
    if jump is None or jump[2] in _HARMLESS:
        return False
    chain = (line.tool, line.table, jump[2])
    if chain not in inside or jump[2] in passed:  # a target of the kernel's, or an empty chain
        return jump[2].isupper() and jump[2] in _DECIDING
    return any(_decides(one, inside, passed | {jump[2]}) for one in inside[chain])


_DECIDING = frozenset({
    "ACCEPT", "QUEUE", "NFQUEUE", "DNAT", "REDIRECT", "TPROXY", "NETMAP", "MASQUERADE", "SNAT",
})  # fmt: skip


def by_row(differences: Iterable[Difference]) -> dict[int, list[Difference]]:
    """Those of things of ours, by row."""
    found: dict[int, list[Difference]] = {}
    for one in differences:
        if one.row is not None:
            found.setdefault(one.row, []).append(one)
    return found


_NAMED = 3  # differences of one row that are told in full


def told(differences: Sequence[Difference]) -> str:
    """The differences of one row, in words."""
    words = [f"{one.place}: {one.words}" for one in differences[:_NAMED]]
    more = len(differences) - _NAMED
    return "; ".join(words) + (f"; and {more} more" if more > 0 else "")
