"""nf_tables over nfnetlink: elements by atomic batches, raw dumps, compare-and-swap.

A batch is one kernel transaction. With a generation id in its first message it is refused with
ERESTART if anything in this namespace's nf_tables changed since that id was read, which makes
read, judge, delete safe. Numbers and layouts: include/uapi/linux/netfilter/nf_tables.h and
nfnetlink.h. All integers in attributes are big-endian.
"""

from __future__ import annotations

import _socket as socket
import contextlib
import errno
import struct
from collections.abc import Sequence

from hvtx.host.netlink import (
    ACK,
    REQUEST,
    Channel,
    KernelError,
    attribute,
    attribute_map,
    kernel_error,
    legible,
    message,
    text,
)
from hvtx.host.nfanswers import (
    Element,
    Named,
    Rule,
    Table,
    chain_comment,
    parse_elements,
    parse_named,
    parse_rule,
    parse_table,
)
from hvtx.host.nfmessages import Command, element_named
from hvtx.host.nfnumbers import (
    BE32,
    CHAIN_NAME,
    FAMILIES,
    GENMSG,
    GETCHAIN,
    GETFLOWTABLE,
    GETGEN,
    GETOBJ,
    GETRULE,
    GETSET,
    GETSETELEM,
    GETTABLE,
    LIST_SET,
    LIST_TABLE,
    NETLINK_NETFILTER,
    RULE_TABLE,
    SUBSYSTEM,
)
from hvtx.model.hook import SetElement

_HEAD = struct.Struct("=IHHIIBBH")  # of a message, then GENMSG with no number
_BATCH_BEGIN, _BATCH_END, _BATCH_GENID = 16, 17, 1
_ERROR = 2
_SO_SNDBUFFORCE = 32
_SEND_BUFFER = 64 << 20  # an account, not an allocation: 100,000 elements fit in one batch
_PIPELINE = 64  # answers of that many reads fit into any receive buffer


class BatchRefused(KernelError):
    """A batch that the kernel refused as a whole; nothing of it happened.

    ``index`` is the message at fault, or -1 if it was the batch itself (permission, generation).
    """

    def __init__(self, code: int, words: str, index: int) -> None:
        """Keep which message failed."""
        super().__init__(code, words)
        self.index = index


# ---------------------------------------------------------------- the socket


class Nftables(Channel):
    """An nfnetlink socket for nf_tables, in the network namespace of the thread that opens it."""

    def __init__(self) -> None:
        """Open it; OSError (EPROTONOSUPPORT) where the kernel has no nfnetlink."""
        super().__init__(NETLINK_NETFILTER)
        # without the capability the kernel says EPERM to what follows, a better place to say so
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)

    def generation(self) -> int:
        """The id that changes with every change of nf_tables in this namespace.

        OSError EPROTONOSUPPORT where nfnetlink has no nf_tables: it says EINVAL or EOPNOTSUPP
        then (nfnetlink_rcv_msg), which elsewhere means other things.
        """
        try:
            body = self.get((SUBSYSTEM << 8) | GETGEN, GENMSG.pack(0, 0, 0))
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
        opening = GENMSG.pack(0, 0, SUBSYSTEM)
        if generation is not None:
            opening += attribute(_BATCH_GENID, BE32.pack(generation))
        parts = [message(_BATCH_BEGIN, REQUEST, begin, opening)]
        index: dict[int, int] = {}
        last = len(commands) - 1
        for i, (number, flags, family, body) in enumerate(commands):
            seq = self.next_seq()
            index[seq] = i
            # errors come for any message, an acknowledgement is wanted for the last one only
            wanted = REQUEST | flags | (ACK if i == last else 0)
            size = _HEAD.size + len(body)
            head = (size, SUBSYSTEM << 8 | number, wanted, seq, 0, FAMILIES[family], 0, 0)
            parts += (_HEAD.pack(*head), body)  # there are many of these
        parts.append(message(_BATCH_END, REQUEST, self.next_seq(), GENMSG.pack(0, 0, SUBSYSTEM)))
        self._socket.send(b"".join(parts))
        self._settle(begin, index, last)

    def _settle(self, begin: int, index: dict[int, int], last: int) -> None:
        """Read answers until the batch's fate is known.

        A refusal of the whole batch is answered at its first message, before those at the others.
        """
        failure: BatchRefused | None = None
        index = {begin: -1, **index}
        while True:
            for kind, flags, seq, body in self._answers(index):
                if kind != _ERROR:
                    continue
                problem = kernel_error(body, flags)
                at = index[seq]
                if problem is not None and failure is None:
                    failure = BatchRefused(problem.errno or 0, str(problem.strerror), at)
                if at == last or (at == -1 and problem is not None):
                    if failure is not None:
                        raise failure
                    return

    def lookup(self, pieces: Sequence[SetElement]) -> list[Element | None]:
        """What stands at the keys of ``pieces``, None where nothing does (or no such set).

        Raises OSError.
        """
        found: list[Element | None] = []
        for start in range(0, len(pieces), _PIPELINE):
            found += self._lookup_some(pieces[start : start + _PIPELINE])
        return found

    def _lookup_some(self, pieces: Sequence[SetElement]) -> list[Element | None]:
        parts: list[bytes] = []
        waiting: dict[int, int] = {}  # positions in `pieces`, by number
        for i, piece in enumerate(pieces):
            seq = self.next_seq()
            waiting[seq] = i
            named = element_named(piece)
            size, family = _HEAD.size + len(named), FAMILIES[piece.family]
            head = (size, SUBSYSTEM << 8 | GETSETELEM, REQUEST, seq, 0, family, 0, 0)
            parts += (_HEAD.pack(*head), named)  # as `batch` does: a VM has eleven
        self._socket.send(b"".join(parts))
        answers: list[Element | None] = [None] * len(pieces)
        failure: KernelError | None = None
        while waiting:
            for kind, flags, seq, body in self._answers(waiting):
                position = waiting.pop(seq)
                if kind == _ERROR:
                    problem = kernel_error(body, flags)
                    if position == 0 and problem is not None and problem.errno == errno.EPERM:
                        raise problem  # of all of them: nfnetlink_rcv() answers once then
                    if problem is not None and problem.errno != errno.ENOENT:
                        failure = failure or problem
                    continue
                some: list[Element] = []
                parse_elements(body, some)
                # of ranges, the kernel answers with the one in which the key lies
                same = [one for one in some if not one.interval or one.key == pieces[position].key]
                answers[position] = same[0] if same else None
        if failure is not None:
            raise failure
        return answers

    def _all(self, number: int, family: str, body: bytes = b"") -> list[bytes]:
        head = GENMSG.pack(FAMILIES.get(family, 0), 0, 0)
        return self.dump((SUBSYSTEM << 8) | number, head + body)

    def dump_all(self, number: int) -> list[bytes]:
        """The raw messages of a GET of all families' objects of a kind.

        Without what changes though its object does not (:func:`hvtx.host.nfanswers.plain`), so that
        two lists of the same things are the same bytes.
        """
        return [body[:2] + b"\0\0" + body[4:] for body in self._all(number, "")]

    def tables(self) -> list[Table]:
        """All tables of all families."""
        return [parse_table(body) for body in self._all(GETTABLE, "")]

    def rules(self, family: str = "", table: str = "") -> list[Rule]:
        """The rules of one table, or all."""
        body = text(RULE_TABLE, table) if table else b""
        found = [parse_rule(raw) for raw in self._all(GETRULE, family, body)]
        return [rule for rule in found if not table or rule.table == table]

    def sets(self) -> list[Named]:
        """All sets of all tables, anonymous ones too."""
        return [parse_named(body) for body in self._all(GETSET, "")]

    def chains(self) -> list[Named]:
        """All chains of all tables."""
        return [parse_named(body, CHAIN_NAME) for body in self._all(GETCHAIN, "")]

    def chain_comments(self, name: str) -> list[Table]:
        """Family, table and comment of every chain of this name."""
        bodies = self._all(GETCHAIN, "")
        return [chain_comment(body) for body in bodies if parse_named(body, CHAIN_NAME)[2] == name]

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
        return self._all(GETSETELEM, family, text(LIST_TABLE, table) + text(LIST_SET, name))


@legible
def _generation_in(body: bytes) -> int:
    number: int = BE32.unpack(attribute_map(body, 4)[1])[0]
    return number
