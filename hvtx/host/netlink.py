"""Netlink, as little of it as the hot path needs: messages, acknowledgements, honest dumps.

An error from the kernel is an ``OSError`` with its errno. A dump that the kernel flags as
interrupted (``NLM_F_DUMP_INTR``) is never handed out as whole: it raises
:class:`DumpInterrupted`, because it may lack entries that were there all the time.

Shapes: attributes are ``(length u16, type u16, payload, padding to 4)``, messages
``(length u32, type u16, flags u16, seq u32, port u32)``; include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import _socket as socket
import contextlib
import errno
import functools
import os
import struct
from collections.abc import Callable, Container, Iterator, Sequence

from hvtx.model.typed import ParamSpec, TypeVar

REQUEST, ACK, DUMP, REPLACE, EXCL, CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
APPEND = 0x800
ECHO = 0x8
DUMP_INTR = 0x10
NESTED = 0x8000
TYPE_MASK = 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_CAPPED, _ACK_TLVS = 0x100, 0x200
_SO_RCVBUFFORCE = 33
_SOL_NETLINK, _EXT_ACK, _CAP_ACK, _GET_STRICT = 270, 11, 10, 12
_BUFFER = 1 << 18
_TRUNCATED = socket.MSG_TRUNC
_MOST_ERRNO = 4095  # MAX_ERRNO, include/linux/err.h

P = ParamSpec("P")
T = TypeVar("T")


class DumpInterrupted(Exception):
    """The kernel changed while it was being listed; the list proves nothing."""

    def __str__(self) -> str:
        """What is told of it in a message."""
        return "the list was cut short"


class KernelError(OSError):
    """An errno from the kernel with its own words, if it had any.

    It is told from others by its errno only: Python makes FileNotFoundError and the like of plain
    ``OSError(errno)``, never of a class of its own.
    """


class Garbled(OSError, ValueError):
    """Bytes that are not what they should be: nothing can be concluded from them."""

    def __init__(self, words: str) -> None:
        """Say in words what is wrong; the errno is EBADMSG."""
        super().__init__(errno.EBADMSG, words)


def legible(read: Callable[P, T]) -> Callable[P, T]:
    """A reader of bytes; raises Garbled where they end too early, are no text, or too great."""

    @functools.wraps(read)
    def reading(*args: P.args, **more: P.kwargs) -> T:
        try:
            return read(*args, **more)
        except (struct.error, IndexError, KeyError, UnicodeDecodeError, OverflowError) as problem:
            raise Garbled(f"an answer of the kernel cannot be read: {problem}") from problem

    return reading


def forbidden(problem: OSError) -> bool:
    """Whether the kernel said that this process may not."""
    return problem.errno in (errno.EPERM, errno.EACCES)


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length & 3)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A host-order 32 bit attribute."""
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Walk attributes in ``data[start:end]``: ``(type, start of payload, end of payload)``.

    Raises Garbled for one that does not fit.
    """
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            raise Garbled("a netlink attribute runs past its message")
        yield kind & TYPE_MASK, start + 4, start + length
        start += (length + 3) & ~3


def attribute_map(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """All attributes of a span by type; the last one wins. Raises Garbled."""
    stop = len(data) if end is None else end
    found: dict[int, bytes] = {}
    head, last = _ATTRIBUTE.unpack_from, stop - 4
    while start <= last:  # as `attributes` walks, in one loop: a start reads some thirty
        length, kind = head(data, start)
        if length < 4 or (end := start + length) > stop:
            raise Garbled("a netlink attribute runs past its message")
        found[kind & TYPE_MASK] = data[start + 4 : end]
        start += (length + 3) & ~3
    return found


def message(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    """One message with its header."""
    return _HEADER.pack(16 + len(body), kind, flags, seq, 0) + body


class Channel:
    """A netlink socket of one family; not for use by two threads at a time."""

    def __init__(self, family: int) -> None:
        """Open it in the calling thread's network namespace."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family
        )
        for option, value in ((_SO_RCVBUFFORCE, 16 << 20), (socket.SO_SNDBUF, 4 << 20)):
            # a reader without CAP_NET_ADMIN works with the default size
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, value)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        if family == 0:
            self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT, 1)
        self._socket.bind((0, 0))
        self._seq = 1

    def close(self) -> None:
        """Close the socket (after nftables deletions this waits for RCU, some 14 ms)."""
        self._socket.close()

    def next_seq(self) -> int:
        """A fresh sequence number."""
        self._seq = (self._seq + 1) & 0x7FFFFFFF or 1
        return self._seq

    def _receive(self) -> bytes:
        data, _, flags, address = self._socket.recvmsg(_BUFFER)
        if flags & _TRUNCATED:
            raise OSError(90, "a netlink answer was cut off")
        return data if address[0] == 0 else b""

    def _answers(self, waiting: Container[int]) -> Iterator[tuple[int, int, int, bytes]]:
        """Those of one datagram to requests that are ``waiting``: type, flags, number, body.

        ``waiting`` are the numbers of requests, which may become fewer meanwhile. Raises OSError,
        Garbled.
        """
        data = self._receive()
        at, size = 0, len(data)
        while at + 16 <= size:
            length, kind, flags, seq, _ = _HEADER.unpack_from(data, at)
            if length < 16 or at + length > size:
                raise Garbled("a netlink message runs past its datagram")
            if seq in waiting:
                yield kind, flags, seq, data[at + 16 : at + length]
            at += (length + 3) & ~3

    def transact(self, data: bytes, seqs: Sequence[int]) -> None:
        """Send messages that ask for acknowledgement; raise the first error once all have come.

        A batch of nftables counts as done only if no message failed: in an aborted batch the good
        ones are acknowledged all the same.
        """
        self._socket.send(data)
        open_ = set(seqs)
        failure: KernelError | None = None
        while open_:
            for kind, flags, seq, body in self._answers(open_):
                if kind == _ERROR:
                    failure = failure or kernel_error(body, flags)
                    open_.discard(seq)
        if failure is not None:
            raise failure

    def refusals(self, wanted: Sequence[tuple[int, int, bytes]]) -> dict[int, KernelError]:
        """Send messages (type, flags, body) in one call; what was refused of them, by position.

        The last alone asks for an acknowledgement: the kernel answers in order, and tells errors
        unasked. Other answers are dropped. Where they are more than the socket takes at once
        (net.core.wmem_max may be small), they go out in several calls. Raises OSError.
        """
        if not wanted:
            return {}
        try:
            seqs = self._send_all(wanted)
        except OSError as problem:
            half = len(wanted) // 2
            if problem.errno != errno.EMSGSIZE or not half:
                raise
            found = self.refusals(wanted[:half])
            rest = self.refusals(wanted[half:])
            return found | {half + n: failure for n, failure in rest.items()}
        return self._refused(seqs)

    def _send_all(self, wanted: Sequence[tuple[int, int, bytes]]) -> dict[int, int]:
        """Send them; positions by number. OSError, EMSGSIZE where they are too long: none goes."""
        seqs = {self.next_seq(): n for n in range(len(wanted))}
        last = len(wanted) - 1
        self._socket.send(
            b"".join(
                message(kind, flags | REQUEST | (ACK if n == last else 0), seq, body)
                for (seq, n), (kind, flags, body) in zip(seqs.items(), wanted, strict=True)
            )
        )
        return seqs

    def _refused(self, seqs: dict[int, int]) -> dict[int, KernelError]:
        """The errors of messages, by position, once the last of them is answered."""
        found: dict[int, KernelError] = {}
        last = len(seqs) - 1
        while last >= 0:
            for kind, flags, seq, body in self._answers(seqs):
                if kind != _ERROR:
                    continue
                failure = kernel_error(body, flags)
                if failure is not None:
                    found[seqs[seq]] = failure
                if seqs[seq] == last:
                    last = -1
        return found

    def request(self, kind: int, flags: int, body: bytes) -> None:
        """One message, acknowledged."""
        seq = self.next_seq()
        self.transact(message(kind, flags | REQUEST | ACK, seq, body), (seq,))

    def get(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """The answer to a GET of one object (its body); ``OSError`` if there is none."""
        seq = self.next_seq()
        self._socket.send(message(kind, REQUEST | flags, seq, body))
        while True:
            # written out instead of through `_answers`: a start asks for twenty
            data = self._receive()
            at, size = 0, len(data)
            while at + 16 <= size:
                length, answer, fl, own, _ = _HEADER.unpack_from(data, at)
                stop = at + length
                if length < 16 or stop > size:
                    raise Garbled("a netlink message runs past its datagram")
                payload, at = data[at + 16 : stop], at + ((length + 3) & ~3)
                if own != seq:
                    continue
                if answer != _ERROR:
                    return payload
                failure = kernel_error(payload, fl)
                if failure is not None:
                    raise failure

    def echo(self, kind: int, body: bytes) -> bytes | None:
        """The body of what the kernel echoes of a request; None where it does so of nothing.

        Some GETs answer in this way alone, those of queues among them (net/sched/sch_api.c,
        qdisc_notify), and not at all for what the kernel put there by itself. Raises OSError.
        """
        seq = self.next_seq()
        self._socket.send(message(kind, REQUEST | ACK | ECHO, seq, body))
        found = None
        while True:
            for answer, flags, _, payload in self._answers((seq,)):
                if answer != _ERROR:
                    found = payload
                    continue
                failure = kernel_error(payload, flags)
                if failure is not None:
                    raise failure
                return found

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """All objects of a kind (message bodies).

        Raises DumpInterrupted when the kernel says that the list is not whole.
        """
        seq = self.next_seq()
        self._socket.send(message(kind, REQUEST | DUMP, seq, body))
        found: list[bytes] = []
        interrupted, head = False, _HEADER.unpack_from
        while True:
            # written out instead of through `_answers`: a plan reads tens of thousands
            data = self._receive()
            at, size = 0, len(data)
            last = size - 16
            while at <= last:
                length, answer, flags, own, _ = head(data, at)
                if length < 16 or (stop := at + length) > size:
                    raise Garbled("a netlink message runs past its datagram")
                payload, at = data[at + 16 : stop], (stop + 3) & ~3
                if own != seq:
                    continue
                if flags & DUMP_INTR:
                    interrupted = True
                if answer > 4:  # _OVERRUN: what is no message of control
                    found.append(payload)
                elif _ended(answer, flags, payload):
                    if interrupted:
                        raise DumpInterrupted
                    return found
                elif answer not in (_DONE, _ERROR):
                    found.append(payload)


def _ended(answer: int, flags: int, payload: bytes) -> bool:
    """Whether a message of control ends a dump; raises what it says is wrong."""
    if answer == _OVERRUN:
        raise DumpInterrupted
    if answer == _DONE and not payload:
        return True
    if answer in (_DONE, _ERROR):
        failure = kernel_error(payload, 0 if answer == _DONE else flags)
        if failure is not None:
            raise failure
    return answer == _DONE


@legible
def kernel_error(body: bytes, flags: int) -> KernelError | None:
    """What an NLMSG_ERROR body says; None for an acknowledgement. Raises Garbled."""
    code: int = -struct.unpack_from("=i", body)[0]
    if code == 0:
        return None
    if not 0 < code <= _MOST_ERRNO:
        raise Garbled(f"the kernel answered with {code}, which is no error")
    words = os.strerror(code)
    if flags & _ACK_TLVS:
        inner = struct.unpack_from("=I", body, 4)[0]
        start = 20 if flags & _CAPPED else 4 + ((inner + 3) & ~3)
        try:
            said = attribute_map(body, start).get(1)
        except ValueError:
            said = None
        if said:
            words += ": " + said.rstrip(b"\0").decode(errors="replace")
    return KernelError(code, words)
