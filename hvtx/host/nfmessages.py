"""Messages of a batch to nf_tables: what is to be made and removed."""

from __future__ import annotations

import functools
import struct

from hvtx.host.netlink import (
    CREATE,
    EXCL,
    NESTED,
    REPLACE,
    attribute,
    nested,
    text,
)
from hvtx.host.nfanswers import Rule, protocol_of
from hvtx.host.nfnumbers import (
    APPEND,
    BE32,
    BE64,
    COMPAT_FLAGS,
    COMPAT_PROTOCOL,
    CONNLIMIT_COUNT,
    CONNLIMIT_FLAGS,
    CONNLIMIT_OVER,
    DATA_VALUE,
    DATA_VERDICT,
    DELRULE,
    DELSETELEM,
    DELTABLE,
    ELEM_DATA,
    ELEM_EXPR,
    ELEM_KEY,
    ELEM_KEY_END,
    ELEM_USERDATA,
    EXPR_DATA,
    EXPR_NAME,
    LIST_ELEMENTS,
    LIST_SET,
    LIST_TABLE,
    NEWRULE,
    NEWSETELEM,
    RULE_CHAIN,
    RULE_COMPAT,
    RULE_EXPRESSIONS,
    RULE_HANDLE,
    RULE_POSITION,
    RULE_TABLE,
    RULE_USERDATA,
    TABLE_NAME,
    VERDICT_CHAIN,
    VERDICT_CODE,
)
from hvtx.model.hook import SetElement
from hvtx.model.typed import NamedTuple


class Command(NamedTuple):
    """One message of a batch: its number within nf_tables, netlink flags, family and body."""

    number: int
    flags: int
    family: str
    body: bytes


_HEADS = struct.Struct("=HHHH")  # of two attributes, one in the other


# ---------------------------------------------------------------- encoding, pure


def comment_data(comment: str) -> bytes:
    """User data that holds just a comment (libnftnl's TLV: type 0, length, NUL-terminated)."""
    raw = comment.encode() + b"\0"
    return bytes((0, len(raw))) + raw


def verdict(code: int, chain: str = "") -> bytes:
    """A verdict's payload: ACCEPT, or GOTO with its chain."""
    number = attribute(VERDICT_CODE, struct.pack(">i", code))
    return number + text(VERDICT_CHAIN, chain) if chain else number


def value_of(kind: int, piece_data: bytes, verdict_: bool) -> bytes:
    """A key or data as nf_tables has it."""
    return _holding(kind, DATA_VERDICT | NESTED if verdict_ else DATA_VALUE, piece_data)


def _holding(outer: int, inner: int, payload: bytes) -> bytes:
    """An attribute that holds no more than one other, with its payload.

    Both at once: a start writes some forty of these, a fleet of VMs thousands.
    """
    length = 4 + len(payload)
    padding = -length & 3
    heads = _HEADS.pack(4 + length + padding, outer | NESTED, length, inner)
    return heads + payload + bytes(padding)


def key_of(piece: SetElement) -> bytes:
    """The key of an element: of one with ranges, its first and its last."""
    if not piece.interval:
        return _holding(ELEM_KEY, DATA_VALUE, piece.key)
    half = len(piece.key) // 2
    first = value_of(ELEM_KEY, piece.key[:half], False)
    return first + value_of(ELEM_KEY_END, piece.key[half:], False)


def list_body(piece: SetElement, element: bytes) -> bytes:
    """A message about elements of one set."""
    return _set_named(piece.table, piece.set) + _holding(LIST_ELEMENTS, 1 | NESTED, element)


# what many elements in a row have in common


@functools.lru_cache(256)
def _set_named(table: str, name: str) -> bytes:
    return text(LIST_TABLE, table) + text(LIST_SET, name)


@functools.lru_cache(256)
def _marked(comment: str) -> bytes:
    return attribute(ELEM_USERDATA, comment_data(comment))


@functools.lru_cache(256)
def _only_beyond(flows: int) -> bytes:
    """The expression of an element that matches beyond so many tracked connections."""
    inside = attribute(CONNLIMIT_COUNT, BE32.pack(flows))
    inside += attribute(CONNLIMIT_FLAGS, BE32.pack(CONNLIMIT_OVER))
    return nested(ELEM_EXPR, text(EXPR_NAME, "connlimit"), nested(EXPR_DATA, inside))


def element_named(piece: SetElement) -> bytes:
    """A message about the element at a key, whatever else there is to it."""
    if piece.interval:
        return list_body(piece, key_of(piece))
    key, size = piece.key, len(piece.key)
    return _before_key(piece.table, piece.set, size) + key + bytes(-size & 3)


@functools.lru_cache(256)
def _before_key(table: str, name: str, size: int) -> bytes:
    """The message up to a key of so many bytes, which is its end: of one set it is the same."""
    key = value_of(ELEM_KEY, bytes(size), False)
    body = _set_named(table, name) + nested(LIST_ELEMENTS, nested(1, key))
    return body[: len(body) - ((size + 3) & ~3)]


def add_element(piece: SetElement, comment: str) -> Command:
    """Make an element; EEXIST if its key is there, whatever its data."""
    parts = key_of(piece)
    if piece.data:
        parts += value_of(ELEM_DATA, piece.data, piece.verdict)
    if piece.flows:
        parts += _only_beyond(piece.flows)
    return Command(
        NEWSETELEM, CREATE | EXCL, piece.family, list_body(piece, parts + _marked(comment))
    )


def delete_element(piece: SetElement) -> Command:
    """Remove an element by its key: only ever in a batch with a generation."""
    return Command(DELSETELEM, 0, piece.family, element_named(piece))


def delete_table(family: str, name: str) -> Command:
    """Remove a table with all that is in it: only ever in a batch with a generation."""
    return Command(DELTABLE, 0, family, text(TABLE_NAME, name))


def delete_rule(rule: Rule) -> Command:
    """Remove a rule by its handle: only ever in a batch with a generation."""
    body = (
        text(RULE_TABLE, rule.table)
        + text(RULE_CHAIN, rule.chain)
        + attribute(RULE_HANDLE, BE64.pack(rule.handle))
    )
    return Command(DELRULE, 0, rule.family, body)


def delete_rules(family: str, table: str) -> Command:
    """Remove all rules of a table: only ever in a namespace of our own."""
    return Command(DELRULE, 0, family, text(RULE_TABLE, table))


def add_rule(rule: Rule) -> Command:
    """Make an equal rule at the end of the chain of that name."""
    body = (
        text(RULE_TABLE, rule.table)
        + text(RULE_CHAIN, rule.chain)
        + attribute(RULE_EXPRESSIONS | NESTED, rule.expressions)
    )
    if rule.comment:
        body += attribute(RULE_USERDATA, comment_data(rule.comment))
    return Command(NEWRULE, CREATE | APPEND, rule.family, body + _compat(rule))


def insert_rule(rule: Rule, before: int) -> Command:
    """Make an equal rule before the one with a handle: only ever in a batch with a generation."""
    made = add_rule(rule)
    body = made.body + attribute(RULE_POSITION, BE64.pack(before))
    return made._replace(flags=CREATE, body=body)


def comment_rule(rule: Rule, comment: str) -> Command:
    """Put an equal rule with a comment in its place: only ever in a batch with a generation."""
    body = (
        text(RULE_TABLE, rule.table)
        + text(RULE_CHAIN, rule.chain)
        + attribute(RULE_HANDLE, BE64.pack(rule.handle))
        + attribute(RULE_EXPRESSIONS | NESTED, rule.expressions)
        + attribute(RULE_USERDATA, comment_data(comment))
    )
    return Command(NEWRULE, REPLACE, rule.family, body + _compat(rule))


def _compat(rule: Rule) -> bytes:
    """What matches of xtables (those that iptables-nft keeps) ask for: the rule's IP protocol."""
    protocol = protocol_of(rule)
    return (
        b""
        if not protocol
        else nested(
            RULE_COMPAT,
            attribute(COMPAT_PROTOCOL, BE32.pack(protocol)),
            attribute(COMPAT_FLAGS, BE32.pack(0)),
        )
    )
