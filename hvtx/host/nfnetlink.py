"""nf_tables over nfnetlink: elements by atomic batches, raw dumps, compare-and-swap.

A batch is one kernel transaction. With a generation id in its first message it is refused with
ERESTART if anything in this namespace's nf_tables changed since that id was read, which makes
read, judge, delete safe. Numbers and layouts: include/uapi/linux/netfilter/nf_tables.h and
nfnetlink.h. All integers in attributes are big-endian.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from hvtx.host.netlink import (
    ACK,
    CREATE,
    EXCL,
    NESTED,
    REPLACE,
    REQUEST,
    Channel,
    Garbled,
    KernelError,
    attribute,
    attribute_map,
    attributes,
    kernel_error,
    legible,
    message,
    nested,
    text,
)

NETLINK_NETFILTER = 12
FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
FAMILY_NAMES = {number: name for name, number in FAMILIES.items()}

SUBSYSTEM = 10
GETTABLE, DELTABLE, GETCHAIN, NEWRULE, GETRULE, DELRULE = 1, 2, 4, 6, 7, 8
GETSET, NEWSETELEM, GETSETELEM, DELSETELEM = 10, 12, 13, 14
GETGEN, GETOBJ, GETFLOWTABLE = 16, 19, 23

SET_ANONYMOUS = 0x1

_BATCH_BEGIN, _BATCH_END, _BATCH_GENID = 16, 17, 1
_ERROR = 2
_SO_SNDBUFFORCE = 32
_SEND_BUFFER = 64 << 20  # an account, not an allocation: 100,000 elements fit in one batch
_PIPELINE = 64  # answers of that many reads fit into any receive buffer

_TABLE_NAME, _TABLE_USERDATA = 1, 6
_CHAIN_NAME, _CHAIN_USERDATA = 3, 12
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 3, 4, 7
_RULE_COMPAT, _COMPAT_PROTOCOL, _COMPAT_FLAGS = 5, 1, 2
_SET_FLAGS = 3
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEM_KEY, _ELEM_DATA, _ELEM_USERDATA, _ELEM_EXPR = 1, 2, 6, 7
_CONNLIMIT_COUNT, _CONNLIMIT_FLAGS, _CONNLIMIT_OVER = 1, 2, 1
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_EXPR_NAME, _EXPR_DATA = 1, 2
_XT_NAME, _XT_INFO = 1, 3
_META_KEY, _L4PROTO = 2, (16).to_bytes(4, "big")
_CMP_OP, _CMP_DATA, _CMP_EQUAL = 2, 3, bytes(4)
_PAYLOAD_BASE, _PAYLOAD_OFFSET, _PAYLOAD_LENGTH, _NETWORK_HEADER = 2, 3, 4, (1).to_bytes(4, "big")
_HEADER_PROTOCOL = {"ip": 9, "ip6": 6}  # where the protocol stands in the header
_APPEND = 0x800

ACCEPT, GOTO = 1, -4

_SIX = struct.Struct("=HHHHHH")
_TWO = struct.Struct("=HH")
_BE32 = struct.Struct(">I")
_BE64 = struct.Struct(">Q")
_GENMSG = struct.Struct(">BBH")


class BatchRefused(KernelError):
    """A batch that the kernel refused as a whole; nothing of it happened.

    ``index`` is the message at fault, or -1 if it was the batch itself (permission, generation).
    """

    def __init__(self, code: int, words: str, index: int) -> None:
        """Keep which message failed."""
        super().__init__(code, words)
        self.index = index


class Element(NamedTuple):
    """An element as it stands in a set: raw key, raw data (or verdict), comment.

    ``flows``: it matches only beyond so many tracked connections, 0 where it has no such limit.
    """

    key: bytes
    data: bytes
    comment: str | None
    flows: int = 0


class Piece(NamedTuple):
    """An element that is wanted: where it belongs, and its raw key and data.

    ``flows``: it matches only beyond so many tracked connections (of a set with ``ct count``).
    """

    family: str
    table: str
    set: str
    key: bytes
    data: bytes = b""
    verdict: bool = False
    flows: int = 0


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


class Command(NamedTuple):
    """One message of a batch: its number within nf_tables, netlink flags, family and body."""

    number: int
    flags: int
    family: str
    body: bytes


# ---------------------------------------------------------------- encoding, pure


def comment_data(comment: str) -> bytes:
    """User data that holds just a comment (libnftnl's TLV: type 0, length, NUL-terminated)."""
    raw = comment.encode() + b"\0"
    return bytes((0, len(raw))) + raw


def verdict(code: int, chain: str = "") -> bytes:
    """A verdict's payload: ACCEPT, or GOTO with its chain."""
    number = attribute(_VERDICT_CODE, struct.pack(">i", code))
    return number + text(_VERDICT_CHAIN, chain) if chain else number


def _value(kind: int, piece_data: bytes, verdict_: bool) -> bytes:
    if verdict_:
        return nested(kind, nested(_DATA_VERDICT, piece_data))
    return nested(kind, attribute(_DATA_VALUE, piece_data))


def _list_body(piece: Piece, element: bytes) -> bytes:
    return (
        text(_LIST_TABLE, piece.table)
        + text(_LIST_SET, piece.set)
        + nested(_LIST_ELEMENTS, nested(1, element))
    )


def add_element(piece: Piece, comment: str) -> Command:
    """Make an element; EEXIST if its key is there, whatever its data."""
    parts = _value(_ELEM_KEY, piece.key, False)
    if piece.data:
        parts += _value(_ELEM_DATA, piece.data, piece.verdict)
    if piece.flows:
        inside = attribute(_CONNLIMIT_COUNT, _BE32.pack(piece.flows))
        inside += attribute(_CONNLIMIT_FLAGS, _BE32.pack(_CONNLIMIT_OVER))
        parts += nested(_ELEM_EXPR, text(_EXPR_NAME, "connlimit"), nested(_EXPR_DATA, inside))
    parts += attribute(_ELEM_USERDATA, comment_data(comment))
    return Command(NEWSETELEM, CREATE | EXCL, piece.family, _list_body(piece, parts))


def delete_element(piece: Piece) -> Command:
    """Remove an element by its key: only ever in a batch with a generation."""
    body = _list_body(piece, _value(_ELEM_KEY, piece.key, False))
    return Command(DELSETELEM, 0, piece.family, body)


def delete_table(family: str, name: str) -> Command:
    """Remove a table with all that is in it: only ever in a batch with a generation."""
    return Command(DELTABLE, 0, family, text(_TABLE_NAME, name))


def delete_rule(rule: Rule) -> Command:
    """Remove a rule by its handle: only ever in a batch with a generation."""
    body = (
        text(_RULE_TABLE, rule.table)
        + text(_RULE_CHAIN, rule.chain)
        + attribute(_RULE_HANDLE, _BE64.pack(rule.handle))
    )
    return Command(DELRULE, 0, rule.family, body)


def delete_rules(family: str, table: str) -> Command:
    """Remove all rules of a table: only ever in a namespace of our own."""
    return Command(DELRULE, 0, family, text(_RULE_TABLE, table))


def add_rule(rule: Rule) -> Command:
    """Make an equal rule at the end of the chain of that name."""
    body = (
        text(_RULE_TABLE, rule.table)
        + text(_RULE_CHAIN, rule.chain)
        + attribute(_RULE_EXPRESSIONS | NESTED, rule.expressions)
    )
    if rule.comment:
        body += attribute(_RULE_USERDATA, comment_data(rule.comment))
    return Command(NEWRULE, CREATE | _APPEND, rule.family, body + _compat(rule))


def comment_rule(rule: Rule, comment: str) -> Command:
    """Put an equal rule with a comment in its place: only ever in a batch with a generation."""
    body = (
        text(_RULE_TABLE, rule.table)
        + text(_RULE_CHAIN, rule.chain)
        + attribute(_RULE_HANDLE, _BE64.pack(rule.handle))
        + attribute(_RULE_EXPRESSIONS | NESTED, rule.expressions)
        + attribute(_RULE_USERDATA, comment_data(comment))
    )
    return Command(NEWRULE, REPLACE, rule.family, body + _compat(rule))


def _compat(rule: Rule) -> bytes:
    """What matches of xtables (those that iptables-nft keeps) ask for: the rule's IP protocol."""
    protocol = protocol_of(rule)
    return (
        b""
        if not protocol
        else nested(
            _RULE_COMPAT,
            attribute(_COMPAT_PROTOCOL, _BE32.pack(protocol)),
            attribute(_COMPAT_FLAGS, _BE32.pack(0)),
        )
    )


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


@legible
def parse_table(body: bytes) -> Table:
    """A GETTABLE answer. Raises Garbled, as the next ones do."""
    fields = attribute_map(body, 4)
    return Table(
        FAMILY_NAMES.get(body[0], str(body[0])),
        _string(fields[_TABLE_NAME]),
        comment_of(fields.get(_TABLE_USERDATA)),
    )


@legible
def _chain_comment(body: bytes) -> Table:
    fields = attribute_map(body, 4)
    family = FAMILY_NAMES.get(body[0], str(body[0]))
    return Table(family, _string(fields[1]), comment_of(fields.get(_CHAIN_USERDATA)))


@legible
def parse_rule(body: bytes) -> Rule:
    """A GETRULE answer."""
    fields = attribute_map(body, 4)
    return Rule(
        FAMILY_NAMES.get(body[0], str(body[0])),
        _string(fields[_RULE_TABLE]),
        _string(fields[_RULE_CHAIN]),
        _BE64.unpack(fields[_RULE_HANDLE])[0],
        fields.get(_RULE_EXPRESSIONS, b""),
        comment_of(fields.get(_RULE_USERDATA)),
    )


@legible
def parse_named(body: bytes, name: int = 2) -> Named:
    """A GETSET, GETCHAIN, GETOBJ or GETFLOWTABLE answer; attribute ``name`` holds its name."""
    fields = attribute_map(body, 4)
    return Named(
        FAMILY_NAMES.get(body[0], str(body[0])),
        _string(fields[1]),
        _string(fields[name]),
        _BE32.unpack(fields[_SET_FLAGS])[0] if len(fields.get(_SET_FLAGS, b"")) == 4 else 0,
    )


def expressions(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The expressions of a rule: name and raw data. Raises Garbled."""
    for _, start, stop in attributes(raw, 0, len(raw)):
        fields = attribute_map(raw, start, stop)
        yield _string(fields.get(_EXPR_NAME)), fields.get(_EXPR_DATA, b"")


def is_xt_comment(name: str, data: bytes) -> bool:
    """Whether an expression is a ``comment`` match of xtables, where iptables-nft has comments."""
    return name == "match" and _string(attribute_map(data).get(_XT_NAME)) == "comment"


def xt_comment(rule: Rule) -> str | None:
    """The text of an xtables ``comment`` match."""
    for name, data in expressions(rule.expressions):
        if is_xt_comment(name, data):
            info = attribute_map(data).get(_XT_INFO, b"")
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
        if name == "cmp" and loaded and fields.get(_CMP_OP) == _CMP_EQUAL:
            return attribute_map(fields[_CMP_DATA])[_DATA_VALUE][0]
        if name == "meta":
            loaded = fields.get(_META_KEY) == _L4PROTO
        elif name == "payload":
            at = _HEADER_PROTOCOL.get(rule.family)
            where = (fields.get(_PAYLOAD_BASE), fields.get(_PAYLOAD_OFFSET))
            loaded = at is not None and where == (_NETWORK_HEADER, _BE32.pack(at))
            loaded = loaded and fields.get(_PAYLOAD_LENGTH) == _BE32.pack(1)
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
        if name == "target" and _string(attribute_map(data).get(_XT_NAME)) in _XT_TRANSLATING:
            return True
    return False


@legible
def parse_elements(body: bytes, found: list[Element]) -> None:
    """Append the elements of a GETSETELEM answer to ``found``. Raises Garbled.

    Written out instead of through :func:`attributes`, since thousands are read for every plan:
    an element is ``{KEY {VALUE}} [{DATA {VALUE or VERDICT}}] … [USERDATA]``, in this order.
    """
    for kind, start, end in attributes(body, 4, len(body)):
        if kind != _LIST_ELEMENTS:
            continue
        at = start
        while at < end:
            length, _, key_length, key_kind, value_length, _ = _SIX.unpack_from(body, at)
            stop = at + length
            if length < 12 or stop > end or key_kind & 0x3FFF != _ELEM_KEY or value_length < 5:
                raise Garbled("a set element in a form that is not known")
            key = body[at + 12 : at + 8 + value_length]
            data, comment, flows = b"", None, 0
            inner = at + 4 + ((key_length + 3) & ~3)
            while inner < stop:
                size, what = _TWO.unpack_from(body, inner)
                if size < 4:
                    raise Garbled("a set element with an empty attribute")
                what &= 0x3FFF
                if what == _ELEM_DATA:
                    data = body[inner + 8 : inner + 4 + _TWO.unpack_from(body, inner + 4)[0]]
                elif what == _ELEM_EXPR:
                    flows = _flows(body, inner + 4, inner + size)
                elif what == _ELEM_USERDATA:
                    if body[inner + 4] == 0 and body[inner + 5] == size - 6:  # a comment only
                        comment = body[inner + 6 : inner + size - 1].decode(errors="replace")
                    else:
                        comment = comment_of(body[inner + 4 : inner + size])
                inner += (size + 3) & ~3
            found.append(Element(key, data, comment, flows))
            at += (length + 3) & ~3


def _flows(body: bytes, start: int, stop: int) -> int:
    """The number of an element's ``ct count over``; 0 for other statements."""
    fields = attribute_map(body, start, stop)
    if _string(fields.get(_EXPR_NAME)) != "connlimit":
        return 0
    return int.from_bytes(attribute_map(fields[_EXPR_DATA]).get(_CONNLIMIT_COUNT, b""), "big")


# ---------------------------------------------------------------- the socket


class Nftables(Channel):
    """An nfnetlink socket for nf_tables, in the network namespace of the thread that opens it."""

    def __init__(self) -> None:
        """Open it; OSError (EPROTONOSUPPORT) where the kernel has no nfnetlink."""
        super().__init__(NETLINK_NETFILTER)
        # without the capability the kernel says EPERM to what follows, a better place to say so
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)

    def _packet(self, number: int, flags: int, seq: int, family: int, body: bytes) -> bytes:
        return message((SUBSYSTEM << 8) | number, flags, seq, _GENMSG.pack(family, 0, 0) + body)

    def generation(self) -> int:
        """The id that changes with every change of nf_tables in this namespace.

        OSError EPROTONOSUPPORT where nfnetlink has no nf_tables: it says EINVAL or EOPNOTSUPP
        then (nfnetlink_rcv_msg), which elsewhere means other things.
        """
        try:
            body = self.get((SUBSYSTEM << 8) | GETGEN, _GENMSG.pack(0, 0, 0))
        except OSError as problem:
            if problem.errno in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise KernelError(errno.EPROTONOSUPPORT, str(problem.strerror)) from problem
            raise
        return _generation_in(body)

    def batch(self, commands: Sequence[Command], generation: int | None = None) -> None:
        """One kernel transaction: all of ``commands``, or BatchRefused and none of them."""
        if not commands:
            return
        begin = self.next_seq()
        opening = _GENMSG.pack(0, 0, SUBSYSTEM)
        if generation is not None:
            opening += attribute(_BATCH_GENID, _BE32.pack(generation))
        parts = [message(_BATCH_BEGIN, REQUEST, begin, opening)]
        index: dict[int, int] = {}
        last = len(commands) - 1
        for i, (number, flags, family, body) in enumerate(commands):
            seq = self.next_seq()
            index[seq] = i
            # errors come for any message, an acknowledgement is wanted for the last one only
            wanted = REQUEST | flags | (ACK if i == last else 0)
            parts.append(self._packet(number, wanted, seq, FAMILIES[family], body))
        parts.append(message(_BATCH_END, REQUEST, self.next_seq(), _GENMSG.pack(0, 0, SUBSYSTEM)))
        self._socket.send(b"".join(parts))
        self._settle(begin, index, last)

    def _settle(self, begin: int, index: dict[int, int], last: int) -> None:
        """Read answers until the batch's fate is known.

        A refusal of the whole batch is answered at its first message, before those at the others.
        """
        failure: BatchRefused | None = None
        while True:
            for kind, flags, seq, body in self._messages(lambda s: s == begin or s in index):
                if kind != _ERROR:
                    continue
                problem = kernel_error(body, flags)
                at = index.get(seq, -1)
                if problem is not None and failure is None:
                    failure = BatchRefused(problem.errno or 0, str(problem.strerror), at)
                if at == last or (at == -1 and problem is not None):
                    if failure is not None:
                        raise failure
                    return

    def lookup(self, pieces: Sequence[Piece]) -> list[Element | None]:
        """What stands at the keys of ``pieces``, None where nothing does (or no such set)."""
        found: list[Element | None] = []
        for start in range(0, len(pieces), _PIPELINE):
            found += self._lookup_some(pieces[start : start + _PIPELINE])
        return found

    def _lookup_some(self, pieces: Sequence[Piece]) -> list[Element | None]:
        parts, slots = [], {}
        for i, piece in enumerate(pieces):
            seq = self.next_seq()
            slots[seq] = i
            body = _list_body(piece, _value(_ELEM_KEY, piece.key, False))
            parts.append(self._packet(GETSETELEM, REQUEST, seq, FAMILIES[piece.family], body))
        self._socket.send(b"".join(parts))
        answers: list[Element | None] = [None] * len(pieces)
        failure: KernelError | None = None
        while slots:
            for kind, flags, seq, body in self._messages(lambda s: s in slots):
                slot = slots.pop(seq)
                if kind == _ERROR:
                    problem = kernel_error(body, flags)
                    if problem is not None and problem.errno != errno.ENOENT:
                        failure = failure or problem
                    continue
                some: list[Element] = []
                parse_elements(body, some)
                answers[slot] = some[0] if some else None
        if failure is not None:
            raise failure
        return answers

    def _all(self, number: int, family: str, body: bytes = b"") -> list[bytes]:
        head = _GENMSG.pack(FAMILIES.get(family, 0), 0, 0)
        return self.dump((SUBSYSTEM << 8) | number, head + body)

    def dump_all(self, number: int) -> list[bytes]:
        """The raw messages of a GET of all families' objects of a kind."""
        return self._all(number, "")

    def tables(self) -> list[Table]:
        """All tables of all families."""
        return [parse_table(body) for body in self._all(GETTABLE, "")]

    def rules(self, family: str = "", table: str = "") -> list[Rule]:
        """The rules of one table, or all."""
        body = text(_RULE_TABLE, table) if table else b""
        found = [parse_rule(raw) for raw in self._all(GETRULE, family, body)]
        return [rule for rule in found if not table or rule.table == table]

    def sets(self) -> list[Named]:
        """All sets of all tables, anonymous ones too."""
        return [parse_named(body) for body in self._all(GETSET, "")]

    def chains(self) -> list[Named]:
        """All chains of all tables."""
        return [parse_named(body, _CHAIN_NAME) for body in self._all(GETCHAIN, "")]

    def chain_comments(self, name: str) -> list[Table]:
        """Family, table and comment of every chain of this name."""
        bodies = self._all(GETCHAIN, "")
        return [
            _chain_comment(body) for body in bodies if parse_named(body, _CHAIN_NAME)[2] == name
        ]

    def objects(self) -> list[Named]:
        """All stateful objects and flowtables of all tables."""
        found = [parse_named(body) for body in self._all(GETOBJ, "")]
        try:
            found += [parse_named(body) for body in self._all(GETFLOWTABLE, "")]
        except OSError as problem:
            if problem.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
        return found

    def dump_elements(self, family: str, table: str, name: str) -> list[bytes]:
        """The raw messages of a set's elements, for :func:`parse_elements`."""
        return self._all(GETSETELEM, family, text(_LIST_TABLE, table) + text(_LIST_SET, name))


@legible
def _generation_in(body: bytes) -> int:
    number: int = _BE32.unpack(attribute_map(body, 4)[1])[0]
    return number


def all_elements(bodies: Iterable[bytes]) -> list[Element]:
    """The elements in raw messages."""
    found: list[Element] = []
    for body in bodies:
        parse_elements(body, found)
    return found
