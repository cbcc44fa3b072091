"""Answers of nf_tables, parsed: tables, rules and what they ask for, elements of sets."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from hvtx.host.netlink import (
    Garbled,
    attribute_map,
    attributes,
    legible,
)
from hvtx.host.nfnumbers import (
    BE32,
    BE64,
    CHAIN_USERDATA,
    CMP_DATA,
    CMP_EQUAL,
    CMP_OP,
    CONNLIMIT_COUNT,
    COUNTER_BYTES,
    COUNTER_PACKETS,
    DATA_VALUE,
    ELEM_CATCH_ALL,
    ELEM_DATA,
    ELEM_EXPR,
    ELEM_FLAGS,
    ELEM_KEY,
    ELEM_KEY_END,
    ELEM_USERDATA,
    EXPR_DATA,
    EXPR_NAME,
    FAMILY_NAMES,
    HEADER_PROTOCOL,
    L4PROTO,
    LIST_ELEMENTS,
    META_KEY,
    NETWORK_HEADER,
    PAYLOAD_BASE,
    PAYLOAD_LENGTH,
    PAYLOAD_OFFSET,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_HANDLE,
    RULE_TABLE,
    RULE_USERDATA,
    SET_FLAGS,
    SIX,
    TABLE_NAME,
    TABLE_USERDATA,
    TWO,
    XT_INFO,
    XT_NAME,
)
from hvtx.model.typed import NamedTuple

_TABLES, _SETS, _RULES = 256, 512, 1024  # answers that are kept read
_OF_HVTX = b"hvtx-"  # how the names of our own tables begin, and those of other installations


class Element(NamedTuple):
    """An element as it stands in a set: raw key, raw data (or verdict), comment.

    ``flows``: it matches only beyond so many tracked connections, 0 where it has no such limit.
    ``interval``: the key is the first of each part, then the last of each. ``counted``: the packets
    and the bytes of its counter, where it has one.
    """

    key: bytes
    data: bytes
    comment: str | None
    flows: int = 0
    interval: bool = False
    counted: tuple[int, int] | None = None


class Table(NamedTuple):
    """A table and its comment."""

    family: str
    name: str
    comment: str | None


class Rule(NamedTuple):
    """A rule with the raw bytes of its expressions."""

    family: str
    table: str
    chain: str
    handle: int
    expressions: bytes
    comment: str | None


class Named(NamedTuple):
    """A chain, set, object or flowtable: only where it stands; ``flags`` of sets."""

    family: str
    table: str
    name: str
    flags: int = 0


# ---------------------------------------------------------------- decoding, pure


def comment_of(userdata: bytes | None) -> str | None:
    """The comment in libnftnl's user data (TLVs of one-byte type and length), if any."""
    at, size = 0, len(userdata or b"")
    while userdata and at + 2 <= size:
        kind, length = userdata[at], userdata[at + 1]
        if kind == 0:
            return userdata[at + 2 : at + 2 + length].rstrip(b"\0").decode(errors="replace")
        at += 2 + length
    return None


def _string(raw: bytes | None) -> str:
    return (raw or b"").rstrip(b"\0").decode(errors="replace")


def plain(body: bytes) -> bytes:
    """An answer without what changes though its object does not: the generation in its head.

    (``res_id`` of struct nfgenmsg; net/netfilter/nf_tables_api.c.)
    """
    return body[:2] + b"\0\0" + body[4:]


def parse_table(body: bytes) -> Table:
    """A GETTABLE answer. Raises Garbled, as the next ones do."""
    return _table(plain(body))


@functools.lru_cache(_TABLES)  # a table that nobody changed is told by the same bytes
@legible
def _table(body: bytes) -> Table:
    fields = attribute_map(body, 4)
    return Table(
        FAMILY_NAMES.get(body[0], str(body[0])),
        _string(fields[TABLE_NAME]),
        comment_of(fields.get(TABLE_USERDATA)),
    )


@legible
def chain_comment(body: bytes) -> Table:
    """A GETCHAIN answer: the table that the chain is in, and the comment of the chain."""
    fields = attribute_map(body, 4)
    family = FAMILY_NAMES.get(body[0], str(body[0]))
    return Table(family, _string(fields[1]), comment_of(fields.get(CHAIN_USERDATA)))


def parse_rule(body: bytes) -> Rule:
    """A GETRULE answer."""
    return _kept_rule(plain(body)) if _OF_HVTX in body else _rule(body)


@legible
def _rule(body: bytes) -> Rule:
    fields = attribute_map(body, 4)
    return Rule(
        FAMILY_NAMES.get(body[0], str(body[0])),
        _string(fields[RULE_TABLE]),
        _string(fields[RULE_CHAIN]),
        BE64.unpack(fields[RULE_HANDLE])[0],
        fields.get(RULE_EXPRESSIONS, b""),
        comment_of(fields.get(RULE_USERDATA)),
    )


# the rules of hvtx's tables, which nobody changes: each plan lists all of them
_kept_rule = functools.lru_cache(_RULES)(_rule)


def parse_named(body: bytes, name: int = 2) -> Named:
    """A GETSET, GETCHAIN, GETOBJ or GETFLOWTABLE answer; attribute ``name`` holds its name."""
    return _kept_named(plain(body), name) if _OF_HVTX in body else _named(body, name)


@legible
def _named(body: bytes, name: int) -> Named:
    fields = attribute_map(body, 4)
    return Named(
        FAMILY_NAMES.get(body[0], str(body[0])),
        _string(fields[1]),
        _string(fields[name]),
        BE32.unpack(fields[SET_FLAGS])[0] if len(fields.get(SET_FLAGS, b"")) == 4 else 0,
    )


_kept_named = functools.lru_cache(_SETS)(_named)


def expressions(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The expressions of a rule: name and raw data. Raises Garbled."""
    for _, start, stop in attributes(raw, 0, len(raw)):
        fields = attribute_map(raw, start, stop)
        yield _string(fields.get(EXPR_NAME)), fields.get(EXPR_DATA, b"")


def is_xt_comment(name: str, data: bytes) -> bool:
    """Whether an expression is a ``comment`` match of xtables, where iptables-nft has comments."""
    return name == "match" and _string(attribute_map(data).get(XT_NAME)) == "comment"


def xt_comment(rule: Rule) -> str | None:
    """The text of an xtables ``comment`` match."""
    for name, data in expressions(rule.expressions):
        if is_xt_comment(name, data):
            info = attribute_map(data).get(XT_INFO, b"")
            return info.split(b"\0", 1)[0].decode(errors="replace")
    return None


@legible
def protocol_of(rule: Rule) -> int:
    """The IP protocol that a rule asks for, 0 if none: the kernel does not tell it otherwise.

    iptables-nft asks by ``meta l4proto`` or by the byte in the header of IPv4 or IPv6, and compares
    it as equal. Raises Garbled.
    """
    loaded = False
    for name, data in expressions(rule.expressions):
        fields = attribute_map(data)
        if name == "cmp" and loaded and fields.get(CMP_OP) == CMP_EQUAL:
            return attribute_map(fields[CMP_DATA])[DATA_VALUE][0]
        if name == "meta":
            loaded = fields.get(META_KEY) == L4PROTO
        elif name == "payload":
            at = HEADER_PROTOCOL.get(rule.family)
            where = (fields.get(PAYLOAD_BASE), fields.get(PAYLOAD_OFFSET))
            loaded = at is not None and where == (NETWORK_HEADER, BE32.pack(at))
            loaded = loaded and fields.get(PAYLOAD_LENGTH) == BE32.pack(1)
        else:
            loaded = False
    return 0


_TRANSLATING = frozenset({"nat", "masq", "redir"})
_XT_TRANSLATING = frozenset({"MASQUERADE", "DNAT", "SNAT", "REDIRECT", "NETMAP"})


def translates(raw: bytes) -> bool:
    """Whether a rule with these expressions translates addresses, natively or by xtables."""
    for name, data in expressions(raw):
        if name in _TRANSLATING:
            return True
        if name == "target" and _string(attribute_map(data).get(XT_NAME)) in _XT_TRANSLATING:
            return True
    return False


@legible
def parse_elements(body: bytes, found: list[Element]) -> None:
    """Append the elements of a GETSETELEM answer to ``found``. Raises Garbled.

    Written out instead of through :func:`attributes`, since thousands are read for every plan:
    an element is ``{KEY {VALUE}} [{DATA {VALUE or VERDICT}}] … [USERDATA]``, in this order. Of a
    catch-all element (``*``) the key is empty.
    """
    at, end = 4, len(body)
    while at + 4 <= end:  # as `attributes` walks
        length, kind = TWO.unpack_from(body, at)
        if length < 4 or at + length > end:
            raise Garbled("a netlink attribute runs past its message")
        if kind & 0x3FFF == LIST_ELEMENTS:
            _parse_list(body, at + 4, at + length, found)
        at += (length + 3) & ~3


def _parse_list(body: bytes, at: int, end: int, found: list[Element]) -> None:
    """Append the elements that stand in ``body[at:end]``."""
    while at < end:
        length, _, key_length, key_kind, value_length, _ = SIX.unpack_from(body, at)
        stop = at + length
        if length < 12 or stop > end:
            raise Garbled("a set element in a form that is not known")
        if key_kind & 0x3FFF == ELEM_KEY and 4 < value_length <= length - 8:
            key = body[at + 12 : at + 8 + value_length]
            inner = at + 4 + ((key_length + 3) & ~3)
        elif _is_catch_all(body, at + 4, stop):
            key, inner = b"", at + 4
        else:
            raise Garbled("a set element in a form that is not known")
        data, comment, flows, interval, counted = b"", None, 0, False, None
        while inner < stop:
            size, what = TWO.unpack_from(body, inner)
            if size < 4:
                raise Garbled("a set element with an empty attribute")
            what &= 0x3FFF
            if what == ELEM_DATA:
                data = body[inner + 8 : inner + 4 + TWO.unpack_from(body, inner + 4)[0]]
            elif what == ELEM_KEY_END:
                key += body[inner + 8 : inner + 4 + TWO.unpack_from(body, inner + 4)[0]]
                interval = True
            elif what == ELEM_EXPR:
                flows, counted = _statement(body, inner + 4, inner + size)
            elif what == ELEM_USERDATA:
                if body[inner + 4] == 0 and body[inner + 5] == size - 6:  # a comment only
                    comment = body[inner + 6 : inner + size - 1].decode(errors="replace")
                else:
                    comment = comment_of(body[inner + 4 : inner + size])
            inner += (size + 3) & ~3
        found.append(Element(key, data, comment, flows, interval, counted))
        at += (length + 3) & ~3


def _is_catch_all(body: bytes, start: int, stop: int) -> bool:
    """Whether it is the one element of a set that stands for all that has no other: ``*``."""
    fields = attribute_map(body, start, stop)
    flags = int.from_bytes(fields.get(ELEM_FLAGS, b""), "big")
    return ELEM_KEY not in fields and bool(flags & ELEM_CATCH_ALL)


def _statement(body: bytes, start: int, stop: int) -> tuple[int, tuple[int, int] | None]:
    """The number of an element's ``ct count over``, and what its ``counter`` has counted."""
    fields = attribute_map(body, start, stop)
    name = _string(fields.get(EXPR_NAME))
    if name not in ("connlimit", "counter"):
        return 0, None
    inside = attribute_map(fields[EXPR_DATA])
    if name == "connlimit":
        return int.from_bytes(inside.get(CONNLIMIT_COUNT, b""), "big"), None
    packets, size = inside.get(COUNTER_PACKETS, b""), inside.get(COUNTER_BYTES, b"")
    return 0, (int.from_bytes(packets, "big"), int.from_bytes(size, "big"))


def all_elements(bodies: Iterable[bytes]) -> list[Element]:
    """The elements in raw messages."""
    found: list[Element] = []
    for body in bodies:
        parse_elements(body, found)
    return found
