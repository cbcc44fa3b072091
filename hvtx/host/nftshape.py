"""How a table of nf_tables is built, beyond its rules: flags, hooks of chains, kinds of objects.

Numbers: include/uapi/linux/netfilter/nf_tables.h. And how an element is spelt for nft.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping

from hvtx.host.netlink import (
    CREATE,
    attribute,
    attribute_map,
    attributes,
    legible,
    nested,
    text,
)
from hvtx.host.nfnetlink import (
    FAMILY_NAMES,
    GETCHAIN,
    GETFLOWTABLE,
    GETOBJ,
    GETSET,
    GETTABLE,
    SET_ANONYMOUS,
    Command,
    Nftables,
    Rule,
    all_elements,
)
from hvtx.host.nftlayout import FAMILIES, PASSING, render
from hvtx.model.ruleset import Hook, SeenElement, SeenRule, SeenTable

_NEWTABLE, _NEWCHAIN, _DELCHAIN = 0, 3, 5
_NAME, _TABLE_FLAGS = 1, 2
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES = 1, 2, 3, 4
_SET_NAME, _SET_FLAGS, _SET_MAP, _OBJECT_TYPE = 2, 3, 0x8, 3
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4, "ingress": 5}
_HOOK_NAMES = {number: name for name, number in _HOOKS.items()}
_POLICIES = {0: "drop", 1: "accept"}
_OBJECTS = {
    1: "counter", 2: "quota", 3: "ct helper", 4: "limit", 7: "ct timeout", 8: "secmark",
    9: "ct expectation", 10: "synproxy",
}  # fmt: skip
_HOOK_TEXT = re.compile(r"type (\w+) hook (\w+) priority (-?\d+); policy (\w+);")


def hook_of(declared: str) -> Hook | None:
    """The hook in a chain's declaration (:mod:`hvtx.host.nftlayout`); None for one without."""
    found = _HOOK_TEXT.fullmatch(declared)
    if found is None:
        return None
    kind, hook, priority, policy = found.groups()
    return Hook(kind, _HOOKS[hook], int(priority), int(policy == "accept"))


def hook_words(hook: Hook | None) -> str:
    """A hook as nft writes it."""
    if hook is None:
        return "no hook"
    devices = f" device {', '.join(hook.devices)}" if hook.devices else ""
    name, policy = _HOOK_NAMES.get(hook.number, str(hook.number)), _POLICIES.get(hook.policy, "?")
    return f"type {hook.type} hook {name}{devices} priority {hook.priority}; policy {policy}"


def digest(rule: Rule) -> str:
    """A static rule's identity: a digest of the raw bytes of its expressions."""
    from hashlib import sha256

    return sha256(rule.expressions).hexdigest()[:20]


# ---------------------------------------------------------------- reading


def seen(
    source: Nftables, name: str, listing: Callable[[str, str], Mapping[tuple[str, int], str]]
) -> tuple[SeenTable, ...]:
    """Our tables, whole: one dump a kind and set. ``listing`` gives the words of a table's rules.

    Asked of the kernel bit by bit: the caller sees to it that nothing changed meanwhile. Raises
    OSError, DumpInterrupted.
    """
    bits, chains, kinds = flags(source, name), hooks(source, name), sets(source, name)
    things, found = objects(source, name), []
    for family in FAMILIES:
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
                tuple(e for called in own for e in _elements(source, family, name, called)),
            )
        )  # fmt: skip
    return tuple(found)


def _rule(rule: Rule, texts: Mapping[tuple[str, int], str]) -> SeenRule:
    text = texts.get((rule.chain, rule.handle), "")
    return SeenRule(rule.chain, rule.handle, digest(rule), rule.comment, text)


def _elements(source: Nftables, family: str, table: str, name: str) -> Iterator[SeenElement]:
    if (family, name) in PASSING:
        return
    for key, data, comment, most in all_elements(source.dump_elements(family, table, name)):
        words = render(family, name, key, data)
        yield SeenElement(name, key, data, comment, most, words, spelt(family, name, key))


def flags(source: Nftables, name: str) -> dict[str, int]:
    """The flags of the tables of a name, by family. Raises OSError, DumpInterrupted."""
    found = {}
    for body in source.dump_all(GETTABLE):
        family, table, bits = _table(body)
        if table == name:
            found[family] = bits
    return found


def hooks(source: Nftables, name: str) -> dict[str, dict[str, Hook | None]]:
    """The chains of the tables of a name, by family. Raises OSError, DumpInterrupted."""
    found: dict[str, dict[str, Hook | None]] = {}
    for body in source.dump_all(GETCHAIN):
        family, table, chain, hook = _chain(body)
        if table == name:
            found.setdefault(family, {})[chain] = hook
    return found


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


def _family(body: bytes) -> str:
    return FAMILY_NAMES.get(body[0], str(body[0]))


def _string(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes | None) -> int:
    return int.from_bytes(raw or b"", "big")


@legible
def _table(body: bytes) -> tuple[str, str, int]:
    fields = attribute_map(body, 4)
    return _family(body), _string(fields[_NAME]), _number(fields.get(_TABLE_FLAGS))


@legible
def _chain(body: bytes) -> tuple[str, str, str, Hook | None]:
    fields = attribute_map(body, 4)
    hook = None
    if (raw := fields.get(_CHAIN_HOOK)) is not None:
        inside = attribute_map(raw)
        hook = Hook(
            _string(fields.get(_CHAIN_TYPE)),
            _number(inside[_HOOK_NUMBER]),
            int.from_bytes(inside[_HOOK_PRIORITY], "big", signed=True),
            _number(fields.get(_CHAIN_POLICY)),
            _devices(inside),
        )
    return _family(body), _string(fields[_CHAIN_TABLE]), _string(fields[_CHAIN_NAME]), hook


def _devices(inside: Mapping[int, bytes]) -> tuple[str, ...]:
    listed = inside.get(_HOOK_DEVICES, b"")
    found = [_string(listed[start:end]) for _, start, end in attributes(listed, 0, len(listed))]
    return tuple(found or filter(None, [_string(inside.get(_HOOK_DEVICE))]))


@legible
def _set(body: bytes) -> tuple[str, str, str, int]:
    fields = attribute_map(body, 4)
    return (
        _family(body),
        _string(fields[_NAME]),
        _string(fields[_SET_NAME]),
        _number(fields.get(_SET_FLAGS)),
    )


@legible
def _object(body: bytes) -> tuple[str, str, str, int]:
    fields = attribute_map(body, 4)
    return (
        _family(body),
        _string(fields[_NAME]),
        _string(fields[_SET_NAME]),
        _number(fields.get(_OBJECT_TYPE)),
    )


# ---------------------------------------------------------------- changing


def wake(family: str, table: str) -> Command:
    """Take all flags from a table: a dormant one is asked again."""
    body = text(_NAME, table) + attribute(_TABLE_FLAGS, bytes(4))
    return Command(_NEWTABLE, 0, family, body)


def delete_chain(family: str, table: str, chain: str) -> Command:
    """Remove a chain with all that is in it: only ever in a batch with a generation."""
    return Command(_DELCHAIN, 0, family, text(_CHAIN_TABLE, table) + text(_CHAIN_NAME, chain))


def new_chain(family: str, table: str, chain: str, hook: Hook | None) -> Command:
    """Make a chain, with its hook."""
    body = text(_CHAIN_TABLE, table) + text(_CHAIN_NAME, chain)
    if hook is not None:
        number = attribute(_HOOK_NUMBER, hook.number.to_bytes(4, "big"))
        priority = attribute(_HOOK_PRIORITY, hook.priority.to_bytes(4, "big", signed=True))
        body += nested(_CHAIN_HOOK, number, priority)
        body += attribute(_CHAIN_POLICY, hook.policy.to_bytes(4, "big"))
        body += text(_CHAIN_TYPE, hook.type)
    return Command(_NEWCHAIN, CREATE, family, body)


# ---------------------------------------------------------------- elements as nft reads them


def _device(raw: bytes) -> str:
    name = raw.rstrip(b"\0").decode()
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
    ("inet", "dnat4_any"): ((8, _service),),
    ("inet", "dnat4_host"): ((4, _v4), (8, _service)),
    ("inet", "dnat6_any"): ((8, _service),),
    ("inet", "dnat6_host"): ((16, _v6), (8, _service)),
    ("bridge", "ports"): (_D,),
    ("bridge", "apart"): (_D,),
    ("bridge", "macs"): (_D, (8, _mac)),
    ("bridge", "lladdrs"): (_D, (8, _wide(6))),
    ("bridge", "own4"): (_D, (4, _v4)),
    ("bridge", "own6"): (_D, (16, _wide(16))),
    ("bridge", "gateways6"): (_D, (16, _wide(16))),
    ("bridge", "links6"): ((16, _wide(16)),),
    ("bridge", "new6"): (_D,),
}


def spelt(family: str, name: str, key: bytes) -> str:
    """A key of a set of our layout as nft reads it; empty where there is no such spelling."""
    parts, at, found = _KEYS.get((family, name), ()), 0, []
    try:
        for size, spell in parts:
            found.append(spell(key[at : at + size]))
            at += size
    except (ValueError, IndexError, OSError):
        return ""
    return " . ".join(found) if at == len(key) else ""
