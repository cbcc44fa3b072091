"""Our tables read whole, for `doctor`, `repair`, `explain`; and how nft spells their keys."""

from __future__ import annotations

import _socket as socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from hvtx.host.netlink import attribute_map, legible
from hvtx.host.nfanswers import Rule, all_elements
from hvtx.host.nfnetlink import Nftables
from hvtx.host.nfnumbers import GETFLOWTABLE, GETOBJ, GETSET, SET_ANONYMOUS
from hvtx.host.nftshape import digest, family_of, flags, hooks, number, string
from hvtx.host.nfttext import CATCH_ALL, render
from hvtx.model.ruleset import SeenElement, SeenRule, SeenTable

_NAME = 1
_SET_NAME, _SET_FLAGS, _SET_MAP, _OBJECT_TYPE = 2, 3, 0x8, 3
_OBJECTS = {
    1: "counter", 2: "quota", 3: "ct helper", 4: "limit", 7: "ct timeout", 8: "secmark",
    9: "ct expectation", 10: "synproxy",
}  # fmt: skip


def seen(
    source: Nftables,
    name: str,
    listing: Callable[[str, str], Mapping[tuple[str, int], str]],
    *,
    families: Sequence[str],
    passing: Collection[tuple[str, str]],
) -> tuple[SeenTable, ...]:
    """Our tables, whole: one dump a kind and set. ``listing`` gives the words of a table's rules.

    Sets of ``passing``, by family and name, are filled by packets and not read.

    Asked of the kernel bit by bit: the caller sees to it that nothing changed meanwhile. Raises
    OSError, DumpInterrupted.
    """
    bits, chains, kinds = flags(source, name), hooks(source, name), sets(source, name)
    things, found = objects(source, name), []
    for family in families:
        if family not in bits:
            continue
        rules = source.rules(family, name)
        texts: Mapping[tuple[str, int], str] = {}
        if len({rule.comment for rule in rules}) > 1:
            texts = listing(family, name)
        own = kinds.get(family, {})
        found.append(
            SeenTable(
                family, name, bits[family], chains.get(family, {}),
                tuple(_rule(rule, texts) for rule in rules), own,
                tuple(things.get(family, ())),
                tuple(
                    e
                    for called in own
                    if (family, called) not in passing
                    for e in _elements(source, family, name, called)
                ),
            )
        )  # fmt: skip
    return tuple(found)


def _rule(rule: Rule, texts: Mapping[tuple[str, int], str]) -> SeenRule:
    text = texts.get((rule.chain, rule.handle), "")
    return SeenRule(rule.chain, rule.handle, digest(rule), rule.comment, text)


def _elements(source: Nftables, family: str, table: str, name: str) -> Iterator[SeenElement]:
    for key, data, comment, most, *_ in all_elements(source.dump_elements(family, table, name)):
        words = render(family, name, key, data)
        yield SeenElement(name, key, data, comment, most, words, spelt(family, name, key))


def sets(source: Nftables, name: str) -> dict[str, dict[str, str]]:
    """The named sets and maps of the tables of a name, by family: what each is."""
    found: dict[str, dict[str, str]] = {}
    for body in source.dump_all(GETSET):
        family, table, called, bits = _set(body)
        if table == name and not bits & SET_ANONYMOUS:
            found.setdefault(family, {})[called] = "map" if bits & _SET_MAP else "set"
    return found


def objects(source: Nftables, name: str) -> dict[str, list[tuple[str, str]]]:
    """Counters, quotas, … and flowtables in the tables of a name, by family."""
    found: dict[str, list[tuple[str, str]]] = {}
    for what in (GETOBJ, GETFLOWTABLE):
        for body in source.dump_all(what):
            family, table, called, kind = _object(body)
            if table == name:
                word = "flowtable" if what == GETFLOWTABLE else _OBJECTS.get(kind, "object")
                found.setdefault(family, []).append((word, called))
    return found


@legible
def _set(body: bytes) -> tuple[str, str, str, int]:
    fields = attribute_map(body, 4)
    return (
        family_of(body),
        string(fields[_NAME]),
        string(fields[_SET_NAME]),
        number(fields.get(_SET_FLAGS)),
    )


@legible
def _object(body: bytes) -> tuple[str, str, str, int]:
    fields = attribute_map(body, 4)
    return (
        family_of(body),
        string(fields[_NAME]),
        string(fields[_SET_NAME]),
        number(fields.get(_OBJECT_TYPE)),
    )


# ---------------------------------------------------------------- elements as nft reads them


def _device(raw: bytes) -> str:
    name = raw.rstrip(b"\0").decode()
    import re

    if not re.fullmatch(r"[\w.:@+-]+", name):
        raise ValueError(f"a device name that nft does not read: {name!r}")
    return f'"{name}"'


def _v4(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET, raw[:4])


def _v6(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, raw[:16])


def _mac(raw: bytes) -> str:
    return raw[:6].hex(":")


def _service(raw: bytes) -> str:
    return f"{raw[0]} . {int.from_bytes(raw[4:6], 'big')}"


def _wide(size: int) -> Callable[[bytes], str]:
    return lambda raw: f"0x{raw[:size].hex()}"


_NAME_SIZE = 16
_Parts = tuple[tuple[int, Callable[[bytes], str]], ...]
_D: tuple[int, Callable[[bytes], str]] = (_NAME_SIZE, _device)
_KEYS: Mapping[tuple[str, str], _Parts] = {
    ("inet", "bridges"): (_D,),
    ("inet", "nat_bridges"): (_D,),
    ("inet", "within"): (_D, _D),
    ("inet", "guests4"): ((4, _v4), _D),
    ("inet", "guests6"): ((16, _v6), _D),
    ("inet", "masq4"): ((4, _v4),),
    ("inet", "masq6"): ((16, _v6),),
    ("inet", "flows4"): ((4, _v4), _D),
    ("inet", "flows6"): ((16, _v6), _D),
    ("inet", "flows_link"): (_D,),
    ("inet", "bound"): (_D,),
    ("inet", "uplinks"): (_D, _D),
    ("inet", "snat4"): ((4, _v4),),
    ("inet", "snat6"): ((16, _v6),),
    ("inet", "dnat4_any"): ((8, _service),),
    ("inet", "dnat4_host"): ((4, _v4), (8, _service)),
    ("inet", "dnat6_any"): ((8, _service),),
    ("inet", "dnat6_host"): ((16, _v6), (8, _service)),
    ("inet", "refused_of"): (_D, (8, _mac)),
    ("inet", "vm_named"): (_D, (8, _mac)),
    ("inet", "network_named"): (_D,),
    ("inet", "own_network"): (_D, (8, _mac), _D),
    ("inet", "vm_policies"): (_D, (8, _mac)),
    ("inet", "vm_input"): (_D, (8, _mac)),
    ("inet", "network_policies"): (_D,),
    ("inet", "network_input"): (_D,),
    ("bridge", "ports"): (_D,),
    ("bridge", "apart"): (_D,),
    ("bridge", "only4"): (_D,),
    ("bridge", "macs"): (_D, (8, _mac)),
    ("bridge", "lladdrs"): (_D, (8, _wide(6))),
    ("bridge", "own4"): (_D, (4, _v4)),
    ("bridge", "own6"): (_D, (16, _wide(16))),
    ("bridge", "gateways6"): (_D, (16, _wide(16))),
    ("bridge", "links6"): ((16, _wide(16)),),
    ("bridge", "new6"): (_D,),
}


_OWNERS: Mapping[str, _Parts] = {"vm": (_D, (8, _mac)), "network": (_D,)}


def _ranged(family: str, name: str) -> _Parts:
    """The parts of a set of an egress policy's rules, whose keys are a first and a last."""
    import re

    found = re.fullmatch(r"(vm|network)_(?:deny|allow)([46])(_ports)?", name)
    if found is None or family != "inet":
        return ()
    to: _Parts = ((4, _v4),) if found[2] == "4" else ((16, _v6),)
    ports: _Parts = (
        ((4, lambda raw: str(raw[0])), (4, lambda raw: str(raw[0] << 8 | raw[1])))
        if found[3]
        else ()
    )
    return _OWNERS[found[1]] + to + ports


def _spelt_range(parts: _Parts, key: bytes) -> str:
    half, at, found = len(key) // 2, 0, []
    for size, spell in parts:
        first, last = spell(key[at : at + size]), spell(key[half + at : half + at + size])
        found.append(first if first == last else f"{first}-{last}")
        at += size
    return " . ".join(found) if at == half else ""


def spelt(family: str, name: str, key: bytes) -> str:
    """A key of a set of our layout as nft reads it; empty where there is no such spelling."""
    if not key:
        return CATCH_ALL
    parts, at, found = _KEYS.get((family, name), ()), 0, []
    try:
        if ranged := _ranged(family, name):
            return _spelt_range(ranged, key)
        for size, spell in parts:
            found.append(spell(key[at : at + size]))
            at += size
    except (ValueError, IndexError, OSError):
        return ""
    return " . ".join(found) if at == len(key) else ""
