"""Comparison of a copied ruleset with the host's. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from hvtx.host.netlink import attribute_map, attributes, legible
from hvtx.host.nfanswers import expressions
from hvtx.host.nfnumbers import NEWRULE, NEWSETELEM
from hvtx.host.replica import limits
from hvtx.host.replica.copying import Copied
from hvtx.host.replica.ruleset import (
    NEWCHAIN,
    NEWSET,
    SET_KEPT,
    Place,
    Ruleset,
    handle_of,
    kept,
    named,
    parts,
    place,
    table_awake,
)

# What these expressions say of themselves changes with packets, or with the kernel's addresses.
_VOLATILE = frozenset({"counter", "limit", "quota", "last", "connlimit", "match", "target",
                       "numgen", "dynset"})  # fmt: skip
_NAME, _SET_NAME, _SET_FLAGS, _ELEMENTS, _RULE_EXPRESSIONS = 1, 2, 3, 3, 4
_EXPIRES, _DYNAMIC, _WITH_EXPRESSIONS = 0x10, 0x20, frozenset({17, 18})
_OWN = "hvtx-"
_WHOLE = Copied()
_LARGE = 1 << 18  # bytes of a set's elements, some thousands of them


@legible
def differences(
    host: Ruleset,
    scratch: Ruleset,
    devices: Collection[str],
    copied: Copied = _WHOLE,
) -> list[str]:
    """What a copy does not have as the original does, in words. Raises Garbled.

    What ``copied`` is known to lack, or to have in another way, is no difference. Elements of
    hvtx's own tables, which may be hundreds of thousands, are not compared: they are plain, and
    the kernel took all or none.
    """
    tables = [body for body in host.tables if named(body, _NAME)[:2] not in copied.without]
    known = host._replace(tables=tables)
    wanted, there = _shape(known, devices, copied), _shape(scratch, devices, _WHOLE)
    found = dict.fromkeys(words for (_, words, body), count in wanted.items()
                          if there[_, words, body] < count)  # fmt: skip
    return [f"{words} is not the same in the copy" for words in found]


_Shape = tuple[int, str, bytes]


def _shape(ruleset: Ruleset, devices: Collection[str], copied: Copied) -> Counter[_Shape]:
    """What is compared of a ruleset: each chain, set and rule without what must differ."""
    shapes: Counter[_Shape] = Counter()
    passing = {named(b, _SET_NAME) for b in ruleset.sets if _is_passing(b)}
    numbers: Counter[Place] = Counter()
    for part in parts(ruleset._replace(elements=(), rules=()), devices):
        body = part.command.body
        if (*part.table, part.name) in copied.unmade:
            continue
        if part.command.number == NEWSET:
            body = kept(body, 0, SET_KEPT)
        if part.command.number in (NEWSET, NEWCHAIN):
            shapes[part.command.number, part.words, body] += 1
    awake = {table for body in ruleset.tables if (table := table_awake(body)) is not None}
    for where, bodies in _by_set(ruleset.elements).items():
        left_out = where in passing or where in copied.unmade or where[1].startswith(_OWN)
        if where[:2] in awake and not left_out:
            for element in _elements(bodies):
                shapes[NEWSETELEM, f"set {' '.join(where)}", element] += 1
    chains = {words for number, words, _ in shapes if number == NEWCHAIN}
    for body in ruleset.rules:
        where = place(body)
        numbers[where] += 1
        if (where, handle_of(body)) in copied.doubts:
            continue
        if where[:2] in awake and f"chain {' '.join(where)}" in chains:
            words = f"rule {numbers[where]} of {' '.join(where)}"
            shapes[NEWRULE, words, _still(body)] += 1
    return shapes


def _is_passing(set_: bytes) -> bool:
    """Whether packets or time change a set's elements, or what they carry."""
    fields = attribute_map(set_, 4)
    flags = int.from_bytes(fields.get(_SET_FLAGS, b""), "big")
    return bool(flags & (_EXPIRES | _DYNAMIC)) or bool(fields.keys() & _WITH_EXPRESSIONS)


def _by_set(elements: Iterable[bytes]) -> dict[Place, list[bytes]]:
    found: dict[Place, list[bytes]] = {}
    for body in elements:
        found.setdefault(named(body, 2), []).append(body)
    return found


def _elements(bodies: Sequence[bytes]) -> Iterator[bytes]:
    """Each element of a set; of a large one only how many bytes they are."""
    lists = [attribute_map(body, 4).get(_ELEMENTS, b"") for body in bodies]
    if (size := sum(map(len, lists))) > _LARGE:
        yield size.to_bytes(8, "big")
        return
    for listed in lists:
        for _, a, b in attributes(listed, 0, len(listed)):
            yield listed[a:b]


def _still(rule: bytes) -> bytes:
    """A rule's expressions without what changes by itself."""
    raw = limits.of_rule(attribute_map(rule, 4).get(_RULE_EXPRESSIONS, b""))
    return b"".join(
        name.encode() + (b"" if name in _VOLATILE else data) for name, data in expressions(raw)
    )
