"""nf_tables copied attribute by attribute: dumps of one namespace, commands for another.

No text is read or written: what a dump says is handed to the kernel again, so expressions that nft
has no words for (those of iptables-nft) are carried like any other. Layouts and numbers:
include/uapi/linux/netfilter/nf_tables.h.

What is changed on the way, since it cannot be otherwise: anonymous sets and bound chains become
named ones (of the names that the kernel gave them), owned tables become everybody's, handles are
new. Tables that are dormant decide nothing and stay behind, and so do devices of netdev chains
that the scratch does not have.
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence

from hvtx.host.netlink import (
    CREATE,
    NESTED,
    DumpInterrupted,
    attribute,
    attribute_map,
    attributes,
    legible,
    nested,
    text,
    u32,
)
from hvtx.host.nfanswers import expressions
from hvtx.host.nfgeneration import StillChanging, consistently
from hvtx.host.nfmessages import Command
from hvtx.host.nfnetlink import Nftables
from hvtx.host.nfnumbers import (
    FAMILY_NAMES,
    GETCHAIN,
    GETFLOWTABLE,
    GETOBJ,
    GETRULE,
    GETSET,
    GETTABLE,
    NEWRULE,
    NEWSETELEM,
)
from hvtx.host.replica import limits
from hvtx.model.typed import Literal, NamedTuple

_NEWTABLE, NEWCHAIN, NEWSET, NEWOBJ, NEWFLOWTABLE = 0, 3, 9, 18, 22
_APPEND = 0x800

_NAME, _FLAGS = 1, 2  # of a table
_DORMANT = 0x1
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_FLAGS, _BASE_CHAIN = 3, 4, 10, 0x1
_CHAIN_KEPT = frozenset({1, 3, 4, 5, 7, 12})
_HOOK_NUMBER, _HOOK_DEVICE, _HOOK_DEVICES = 1, 3, 4
_SET_NAME, _SET_FLAGS, _SET_ID, _ANONYMOUS, _EXPIRES = 2, 3, 10, 0x1, 0x10
SET_KEPT = frozenset({1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 17, 18})
_OBJECT_KEPT, _OBJECT_TYPE, _OBJECT_DATA = frozenset({1, 2, 3, 4, 8}), 3, 4
_FLOWTABLE_HOOK = 3
_FLOWTABLE_DEVICES = 3  # within its hook
_RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 2, 3, 4
_RULE_KEPT = frozenset({1, 2, 4, 7})
_ELEMENTS, _ELEMENT_EXPIRATION = 3, 5
_COMPAT, _COMPAT_PROTOCOL, _COMPAT_FLAGS, _COMPAT_INVERTED = 5, 1, 2, 2
_EXTHDR_TO, _EXTHDR_FLAGS, _EXTHDR_FROM = 1, 5, 7
_EXTHDR_PLACE = frozenset({3, 4, 5})
_MOST_ATTEMPTS = 32
_OWN = "hvtx-"

_OF_XTABLES = frozenset({"match", "target"})

Place = tuple[str, str, str]  # family, table, chain


class Ruleset(NamedTuple):
    """All that a dump of nf_tables tells, as message bodies (with their nfgenmsg)."""

    tables: Sequence[bytes] = ()
    chains: Sequence[bytes] = ()
    flowtables: Sequence[bytes] = ()
    objects: Sequence[bytes] = ()
    sets: Sequence[bytes] = ()
    elements: Sequence[bytes] = ()
    rules: Sequence[bytes] = ()


class Part(NamedTuple):
    """One object to be made: the command, the table that it is of, and words for it.

    ``name`` is its own; a rule's is that of its chain, with the handle that it has on the host.
    """

    command: Command
    table: tuple[str, str]
    words: str
    name: str = ""
    handle: int = 0


# ---------------------------------------------------------------- reading


def read() -> Ruleset:
    """The ruleset of the calling thread's namespace, of one moment.

    Raises OSError, DumpInterrupted if it never stands still.
    """
    with contextlib.closing(Nftables()) as channel:
        try:
            return consistently(channel, lambda _: _dumped(channel), _MOST_ATTEMPTS)
        except StillChanging as problem:
            raise DumpInterrupted from problem


def _dumped(channel: Nftables) -> Ruleset:
    def every(number: int) -> list[bytes]:
        return channel.dump_all(number)

    tables = every(GETTABLE)
    if not tables:
        return Ruleset()
    sets = every(GETSET)
    elements = []
    for body in sets:
        family, table, name = named(body, _SET_NAME)
        elements += channel.dump_elements(family, table, name)
    flowtables: list[bytes] = []
    try:
        flowtables = every(GETFLOWTABLE)
    except OSError as problem:
        if problem.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
            raise
    return Ruleset(
        tables, every(GETCHAIN), flowtables, every(GETOBJ), sets, elements, every(GETRULE)
    )


# ---------------------------------------------------------------- what to make of it, pure


@legible
def named(body: bytes, name: int) -> Place:
    """Family, table and own name of an object; attribute ``name`` holds it. Raises Garbled."""
    fields = attribute_map(body, 4)
    return (
        FAMILY_NAMES.get(body[0], str(body[0])),
        fields[1].rstrip(b"\0").decode(),
        fields[name].rstrip(b"\0").decode(),
    )


def kept(data: bytes, start: int, kinds: Collection[int]) -> bytes:
    """The attributes of some kinds, to the byte."""
    return b"".join(
        data[a - 4 : a - 4 + ((b - a + 4 + 3) & ~3)]
        for kind, a, b in attributes(data, start, len(data))
        if kind in kinds
    )


@legible
def parts(ruleset: Ruleset, devices: Collection[str]) -> list[Part]:
    """What has to be made, in an order in which it can be.

    ``devices`` are those that the scratch has. Raises Garbled.
    """
    awake = dict.fromkeys(t for body in ruleset.tables if (t := table_awake(body)) is not None)
    found = [
        Part(Command(_NEWTABLE, CREATE, family, text(_NAME, name) + u32(_FLAGS, 0)),
             (family, name), f"table {family} {name}")
        for family, name in awake
    ]  # fmt: skip
    made: list[Part | None] = [_chain(body, devices) for body in ruleset.chains]
    there = {(*part.table, part.words) for part in made if part is not None}
    made += [_flowtable(body, devices) for body in ruleset.flowtables]
    made += [_object(body) for body in ruleset.objects]
    made += [_set(number, body) for number, body in enumerate(ruleset.sets, 1)]
    made += [_elements(body) for body in ruleset.elements]
    made += [_rule(body) for body in ruleset.rules if (*place(body)[:2], _words(body)) in there]
    return found + [part for part in made if part is not None and part.table in awake]


def place(rule: bytes) -> Place:
    """The chain of a rule. Raises Garbled."""
    return named(rule, _RULE_CHAIN)


def table_of(body: bytes) -> tuple[str, str]:
    """Family and table of any object, or of elements. Raises Garbled."""
    return named(body, _NAME)[:2]


def _words(rule: bytes) -> str:
    return "chain " + " ".join(place(rule))


def table_awake(body: bytes) -> tuple[str, str] | None:
    """Family and name of a table; None if it is dormant. Raises Garbled."""
    family, name, _ = named(body, _NAME)
    flags = int.from_bytes(attribute_map(body, 4).get(_FLAGS, b""), "big")
    return None if flags & _DORMANT else (family, name)


def _chain(body: bytes, devices: Collection[str]) -> Part | None:
    """A chain; None where no device that it is bound to is there."""
    family, table, name = named(body, _CHAIN_NAME)
    fields = attribute_map(body, 4)
    inside = kept(body, 4, _CHAIN_KEPT - {_CHAIN_HOOK})
    if (hook := fields.get(_CHAIN_HOOK)) is not None:
        narrowed = _hook(hook, devices)
        if narrowed is None:
            return None
        inside += attribute(_CHAIN_HOOK | NESTED, narrowed)
        inside += attribute(_CHAIN_FLAGS, _BASE_CHAIN.to_bytes(4, "big"))
    command = Command(NEWCHAIN, CREATE, family, inside)
    return Part(command, (family, table), f"chain {family} {table} {name}", name)


def _hook(hook: bytes, devices: Collection[str]) -> bytes | None:
    """A chain's hook with those of its devices that are there; None if it had and has none."""
    fields = attribute_map(hook)
    if not fields.keys() & {_HOOK_DEVICE, _HOOK_DEVICES}:
        return hook
    bound = _devices(fields.get(_HOOK_DEVICES, b""), devices)
    if not bound and _HOOK_DEVICE in fields:
        bound = [attribute(_NAME, fields[_HOOK_DEVICE])]
        if fields[_HOOK_DEVICE].rstrip(b"\0").decode() not in devices:
            return None
    rest = kept(hook, 0, fields.keys() - {_HOOK_DEVICE, _HOOK_DEVICES})
    return rest + nested(_HOOK_DEVICES, *bound) if bound else None


def _devices(data: bytes, there: Collection[str]) -> list[bytes]:
    """The names (and prefixes) in a list of devices that stand for one that is there."""
    found = []
    for _, a, b in attributes(data, 0, len(data)):
        name = data[a:b]
        if name.rstrip(b"\0").decode() in there:
            found.append(attribute(_NAME, name))
        elif not name.endswith(b"\0"):  # a prefix, as newer kernels have them
            prefix = name.decode()
            found += [text(_NAME, one) for one in sorted(there) if one.startswith(prefix)]
    return found


def _flowtable(body: bytes, devices: Collection[str]) -> Part:
    family, table, name = named(body, 2)
    hook = attribute_map(body, 4)[_FLOWTABLE_HOOK]
    fields = attribute_map(hook)
    inner = kept(hook, 0, fields.keys() - {_FLOWTABLE_DEVICES})
    if bound := _devices(fields.get(_FLOWTABLE_DEVICES, b""), devices):
        inner += nested(_FLOWTABLE_DEVICES, *bound)
    data = kept(body, 4, {1, 2}) + attribute(_FLOWTABLE_HOOK | NESTED, inner)
    command = Command(NEWFLOWTABLE, CREATE, family, data)
    return Part(command, (family, table), f"flowtable {family} {table} {name}", name)


def _object(body: bytes) -> Part:
    family, table, name = named(body, 2)
    fields = attribute_map(body, 4)
    kind = int.from_bytes(fields.get(_OBJECT_TYPE, b""), "big")
    inside = kept(body, 4, _OBJECT_KEPT - {_OBJECT_DATA})
    data = limits.object_data(kind, fields.get(_OBJECT_DATA, b""))
    inside += attribute(_OBJECT_DATA | NESTED, data)
    command = Command(NEWOBJ, CREATE, family, inside)
    return Part(command, (family, table), f"object {family} {table} {name}", name)


def _set(number: int, body: bytes) -> Part:
    family, table, name = named(body, _SET_NAME)
    flags = int.from_bytes(attribute_map(body, 4).get(_SET_FLAGS, b""), "big") & ~_ANONYMOUS
    inside = limits.of_set(kept(body, 4, SET_KEPT))
    inside += attribute(_SET_FLAGS, flags.to_bytes(4, "big"))
    inside += attribute(_SET_ID, number.to_bytes(4, "big"))
    command = Command(NEWSET, CREATE, family, inside)
    return Part(command, (family, table), f"set {family} {table} {name}", name)


def _elements(body: bytes) -> Part | None:
    family, table, name = named(body, 2)
    if _ELEMENTS not in attribute_map(body, 4):
        return None
    inside = body[4:]
    if not table.startswith(_OWN):  # of hvtx's there may be hundreds of thousands
        listed = limits.of_elements(attribute_map(body, 4)[_ELEMENTS])
        inside = limits.with_fields(inside, {_ELEMENTS: None}) + attribute(
            _ELEMENTS | NESTED, listed
        )
    command = Command(NEWSETELEM, CREATE, family, inside)
    return Part(command, (family, table), f"elements of set {family} {table} {name}", name)


def _rule(body: bytes) -> Part:
    family, table, chain = place(body)
    raw = limits.of_rule(attribute_map(body, 4).get(_RULE_EXPRESSIONS, b""))
    if b"exthdr\0" in raw:
        raw = _readable(raw)
    inside = kept(body, 4, _RULE_KEPT - {_RULE_EXPRESSIONS})
    inside += attribute(_RULE_EXPRESSIONS | NESTED, raw)
    named = list(expressions(raw))
    if any(name in _OF_XTABLES for name, _ in named):
        number, inverted = protocol_of(family, named)
        inside += nested(
            _COMPAT,
            attribute(_COMPAT_PROTOCOL, number.to_bytes(4, "big")),
            attribute(_COMPAT_FLAGS, (_COMPAT_INVERTED * inverted).to_bytes(4, "big")),
        )
    command = Command(NEWRULE, CREATE | _APPEND, family, inside)
    handle = handle_of(body)
    words = f"rule {family} {table} {chain} handle {handle}"
    return Part(command, (family, table), words, chain, handle)


def _readable(raw: bytes) -> bytes:
    """Expressions as the kernel takes them: it tells more of ``exthdr`` than it lets be said.

    What writes a TCP option has no flags, and what removes one no place either
    (nft_exthdr_tcp_set_init, nft_exthdr_tcp_strip_init).
    """
    found = []
    for name, data in expressions(raw):
        fields = attribute_map(data)
        if name == "exthdr" and _EXTHDR_TO not in fields:
            surplus = {_EXTHDR_FLAGS} if _EXTHDR_FROM in fields else _EXTHDR_PLACE
            found.append(limits.listed(name, kept(data, 0, fields.keys() - surplus)))
        else:
            found.append(limits.listed(name, data))
    return b"".join(found)


@legible
def handle_of(rule: bytes) -> int:
    """The handle of a rule."""
    return int.from_bytes(attribute_map(rule, 4)[_RULE_HANDLE], "big")


_META_KEY, _META_PROTOCOL, _META_L4PROTO = 2, 1, 16
_CMP_OP, _CMP_DATA, _NOT_EQUAL = 2, 3, 1
# Where in a packet its upper protocol stands: (base, offset, length) of a payload expression.
_UPPER = {"ip": (1, 9, 1), "ip6": (1, 6, 1), "bridge": (0, 12, 2)}


@legible
def protocol_of(family: str, named: Iterable[tuple[str, bytes]]) -> tuple[int, bool]:
    """The protocol that a rule asks for, and whether it is the one that may not be.

    The kernel wants it beside matches of xtables, and does not tell it: ``-p tcp`` has an
    expression of its own, in the bridge family the ether type. 0 where a rule asks for none.
    """
    loaded = False
    for name, data in named:
        fields = attribute_map(data)
        values = {kind: int.from_bytes(raw, "big") for kind, raw in fields.items()}
        if name == "meta":
            wanted = _META_PROTOCOL if family == "bridge" else _META_L4PROTO
            loaded = values.get(_META_KEY) == wanted
        elif name == "payload":
            loaded = tuple(values.get(kind) for kind in (2, 3, 4)) == _UPPER.get(family)
        elif name == "cmp" and loaded:
            raw = attribute_map(fields[_CMP_DATA])[1]
            # an ether type is handed on as it stands in a frame
            order: Literal["big", "little"] = sys.byteorder if family == "bridge" else "big"
            return int.from_bytes(raw, order), values.get(_CMP_OP) == _NOT_EQUAL
        else:
            loaded = False
    return 0, False


# ---------------------------------------------------------------- which rule is which, pure


@legible
def handles(host: Ruleset, scratch: Ruleset) -> Mapping[tuple[Place, int], int]:
    """The host's handle for each rule of the copy, by its chain and the copy's handle."""
    original = _numbered(host)
    return {
        (where, copied): number
        for where, numbers in _numbered(scratch).items()
        for copied, number in zip(numbers, original.get(where, ()), strict=False)
    }


def _numbered(ruleset: Ruleset) -> dict[Place, list[int]]:
    found: dict[Place, list[int]] = {}
    for body in ruleset.rules:
        found.setdefault(place(body), []).append(handle_of(body))
    return found
