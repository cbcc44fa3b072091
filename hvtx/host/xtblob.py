"""Legacy tables as the kernel holds them: entries as bytes, and how a chain ends."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from hvtx.errors import Contended, HostRefused, NotPermitted
from hvtx.host.netlink import Garbled, legible
from hvtx.host.retry import retry_transient
from hvtx.host.xtentry import LAYOUTS, OFFSETS, TARGET, Layout
from hvtx.host.xtlock import lock_path
from hvtx.host.xtnames import OR_NFTABLES, TOOLS, listed
from hvtx.model.typed import Any, NamedTuple

LOOKS = 5  # somebody else may change a table between two looks at it
_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_INFO = struct.Struct("=32sI5I5III")  # struct ipt_getinfo
_GET_INFO, _GET_ENTRIES = 64, 65
_HEAD = struct.calcsize("@32sI0Q")  # struct ipt_get_entries up to its entries
_COMMENT = b"comment\0"
_ACCEPT, _RETURN = -2, -5
_VERDICTS = {-1: b"DROP", _ACCEPT: b"ACCEPT", -4: b"QUEUE", _RETURN: b"RETURN"}


class Blob(NamedTuple):
    """A table as the kernel holds it: built-in chains as ``(name, offset)``, entries as bytes."""

    entries: int
    starts: tuple[tuple[str, int], ...]
    data: bytes


class Marked(NamedTuple):
    """An entry whose comment begins with the sought prefix.

    ``data`` has its counters zeroed and its verdict by name, as libiptc takes it; two entries
    with equal ``data`` are the same rule.
    """

    chain: str
    mark: str
    data: bytes


def _ask(family: int, option: int, request: bytes) -> bytes:
    """A getsockopt whose buffer carries a question; OSError from the kernel."""
    import ctypes

    layout = LAYOUTS[family]
    library = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(request, len(request))
    size = ctypes.c_uint32(len(request))
    with socket.socket(layout.domain, socket.SOCK_RAW, socket.IPPROTO_RAW) as channel:
        if library.getsockopt(
            channel.fileno(), layout.level, option, ctypes.byref(buffer), ctypes.byref(size)
        ):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    return buffer.raw


def info_of(family: int, table: str) -> tuple[Any, ...]:
    """What the kernel says of a table: its size, and where its built-in chains begin and end."""
    return _INFO.unpack(_ask(family, _GET_INFO, table.encode().ljust(_INFO.size, b"\0")))


def count(family: int, table: str) -> int:
    """How many entries the kernel holds: one per rule and policy, two per chain, one at the end."""
    return int(info_of(family, table)[12])


def read(family: int, table: str) -> Blob | None:
    """A table's entries in one piece, or None if the kernel does not list the table.

    Raises NotPermitted, HostRefused.
    """
    if table not in listed(family):
        return None

    def once() -> Blob:
        info = info_of(family, table)
        request = table.encode().ljust(32, b"\0") + struct.pack("=I", info[13])
        answer = _ask(family, _GET_ENTRIES, request.ljust(_HEAD, b"\0") + bytes(info[13]))
        starts = [(name, info[2 + n]) for n, name in enumerate(_HOOKS) if info[1] >> n & 1]
        return Blob(info[12], tuple(starts), answer[_HEAD:])

    try:
        return retry_transient(once)
    except OSError as problem:
        raise refusal(family, table, problem, "cannot-observe") from problem


def _walk(layout: Layout, blob: Blob) -> Iterator[tuple[int, int, int]]:
    """Of each entry where it begins, has its target, and ends. Raises Garbled.

    So for a table that has not as many entries as the kernel said: what is missing was not read.
    """
    at, left, data = 0, blob.entries, blob.data
    while at < len(data):
        if at + layout.size > len(data):
            raise Garbled("a table ends within an entry")
        target, following = OFFSETS.unpack_from(data, at + layout.offsets)
        if not layout.size <= target <= following - TARGET or at + following > len(data):
            raise Garbled("an entry of a table does not fit in it")
        yield at, at + target, at + following
        at, left = at + following, left - 1
    if left:
        raise Garbled(f"a table of {blob.entries} entries has {blob.entries - left}")


def has_any(blob: Blob, marks: Iterable[str]) -> bool:
    """Whether the bytes of one of ``marks`` are anywhere in a table (pure)."""
    return any(mark.encode(errors="surrogateescape") in blob.data for mark in marks)


@legible
def marked(
    family: int, blob: Blob, prefix: str, wanted: frozenset[str] | None = None
) -> list[Marked]:
    """The entries with a comment that begins with ``prefix``, in order (pure). Raises Garbled.

    Of those only the ones whose whole comment is ``wanted``, if that is given: of some VMs among
    many, whose entries nobody looks at, nothing is made.
    """
    layout, needle = LAYOUTS[family], prefix.encode()
    starts = {offset: name for name, offset in blob.starts}
    heads: dict[int, bytes] = {}
    found: list[tuple[str, int, int, int, bytes]] = []
    chain, data = "", blob.data
    hit = data.find(needle)
    for at, target, end in _walk(layout, blob):
        chain = starts.get(at, chain)
        if data.startswith(b"ERROR\0", target + 2):
            name = data[target + TARGET : end].partition(b"\0")[0]
            chain, heads[end] = name.decode(errors="surrogateescape"), name
        while 0 <= hit < end:
            if hit >= 30 and data.startswith(_COMMENT, hit - 30) and hit < target:
                found.append((chain, at, target - at, end, data[hit:end].partition(b"\0")[0]))
                hit = data.find(needle, end)
            else:
                hit = data.find(needle, hit + 1)
    return [
        Marked(name, mark, _portable(layout, data[start:end], target, heads))
        for name, start, target, end, text in found
        for mark in [text.decode(errors="surrogateescape")]  # as iptables-save prints no text
        if wanted is None or mark in wanted
    ]


@legible
def entries(family: int, blob: Blob) -> dict[str, list[bytes]]:
    """Every rule of a table by its chain, in order, as :class:`Marked` has its ``data`` (pure).

    Raises Garbled.

    Without what is no rule: the heads of chains, their last entries (a policy, or the return at the
    end of a chain of users), and the table's end.
    """
    layout, data = LAYOUTS[family], blob.data
    starts = {offset: name for name, offset in blob.starts}
    heads: dict[int, bytes] = {}
    spans: dict[str, list[tuple[int, int, int]]] = {}
    chain = ""
    for at, target, end in _walk(layout, blob):
        chain = starts.get(at, chain)
        if data.startswith(b"ERROR\0", target + 2):
            name = data[target + TARGET : end].partition(b"\0")[0]
            chain, heads[end] = name.decode(errors="surrogateescape"), name
            spans[chain] = []
        else:
            spans.setdefault(chain, []).append((at, target - at, end))
    return {
        name: [_portable(layout, data[at:end], target, heads) for at, target, end in found[:-1]]
        for name, found in spans.items()
        if found
    }


class End(NamedTuple):
    """How a built-in chain ends: its policy (DROP, ACCEPT), its last rule, all of its rules."""

    policy: str
    last: bytes  # empty where it has no rule
    rules: bytes


def forward_end(family: int) -> End:
    """How the chain FORWARD ends. A table that the kernel does not list accepts, and is not made.

    Raises NotPermitted, HostRefused.
    """
    blob = read(family, "filter")
    return End("ACCEPT", b"", b"") if blob is None else end_of(family, blob, "FORWARD")


@legible
def end_of(family: int, blob: Blob, chain: str) -> End:
    """How a built-in chain of a table ends (pure). Raises Garbled."""
    layout, data = LAYOUTS[family], blob.data
    starts = dict(blob.starts)
    if chain not in starts:
        raise Garbled(f"a table without {chain}")
    at = start = starts[chain]
    later = [offset for offset in starts.values() if offset > at]
    end = min(later, default=len(data))
    last = b""
    while True:
        if at + layout.size > len(data):
            raise Garbled("a table ends within an entry")
        target, following = OFFSETS.unpack_from(data, at + layout.offsets)
        if not layout.size <= target <= following - TARGET or at + following > len(data):
            raise Garbled("an entry of a table does not fit in it")
        entry = data[at : at + following]
        at += following
        if at >= end or data.startswith(b"ERROR\0", at + _target_name(layout, data, at)):
            break
        last = entry
    verdict = _verdict(entry, target)
    policy = _VERDICTS.get(verdict, b"").decode() or str(verdict)
    return End(policy, last, data[start : at - len(entry)])


def _target_name(layout: Layout, data: bytes, at: int) -> int:
    """Where in an entry its target's name begins."""
    return int(OFFSETS.unpack_from(data, at + layout.offsets)[0]) + 2


def in_use(family: int) -> bool:
    """Whether a legacy table of the family has a rule, or a policy that is not ACCEPT.

    Raises NotPermitted, HostRefused.
    """
    for table in sorted(listed(family)):
        blob = read(family, table)
        if blob is not None and any(_decides(family, blob)):
            return True
    return False


def _decides(family: int, blob: Blob) -> Iterator[bool]:
    """Of each chain whether it has a rule, or a policy that is not ACCEPT (pure).

    Raises Garbled.
    """
    layout = LAYOUTS[family]
    yield from map(bool, entries(family, blob).values())
    for end in _ends(layout, blob):
        target = OFFSETS.unpack_from(end, layout.offsets)[0]
        yield _verdict(end, target) not in (_ACCEPT, _RETURN)


def _ends(layout: Layout, blob: Blob) -> Iterator[bytes]:
    """The last entry of each chain: its policy, or the return at the end of a chain of users."""
    starts = {offset for _, offset in blob.starts}
    data, last = blob.data, b""
    for at, target, end in _walk(layout, blob):
        head = data.startswith(b"ERROR\0", target + 2)
        if last and (head or at in starts):
            yield last
        last = b"" if head else data[at:end]


@legible
def _verdict(entry: bytes, target: int) -> int:
    """The number in a standard target."""
    number: int = struct.unpack_from("=i", entry, target + TARGET)[0]
    return number


def _portable(layout: Layout, entry: bytes, target: int, heads: dict[int, bytes]) -> bytes:
    """An entry free of what changes by itself: counters, and verdicts given as offsets."""
    head = entry[: layout.match].ljust(layout.offsets, b"\0")
    offsets = entry[layout.offsets : layout.offsets + 4]
    head = (head + offsets).ljust(layout.size, b"\0")
    size, name = entry[target : target + 2], entry[target + 2 : target + 31]
    rest = entry[target + 31 :]
    if not name.strip(b"\0"):  # a standard target: its verdict is a number
        verdict = _verdict(entry, target)
        label = _VERDICTS.get(verdict) or heads.get(verdict, b"")
        name, rest = label.ljust(29, b"\0"), bytes(len(rest))
    return head + entry[layout.size : target] + size + name + rest


def refusal(
    family: int, table: str, problem: OSError, code: str = "host-refused"
) -> HostRefused | NotPermitted:
    """The error to raise for what the kernel said about a table."""
    name = f"the {TOOLS[family]} table {table}"
    if problem.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            f"no access to {name} without CAP_NET_ADMIN and CAP_NET_RAW", hint="run hvtx as root"
        )
    if problem.errno == errno.EAGAIN:
        return Contended(
            f"{name} kept changing", hint=f"some program writes rules without taking {lock_path()}"
        )
    if problem.errno in (errno.ENOPROTOOPT, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        return HostRefused(
            f"this kernel does not have {name}",
            hint="use --firewall nftables, or load the modules ip_tables and iptable_nat",
            code=code,
        )
    if problem.errno == errno.ENOENT:
        return HostRefused(
            f"this kernel lacks a match or a target of a rule for {name}",
            hint="load the modules xt_addrtype, xt_comment, xt_conntrack, xt_nat and xt_MASQUERADE,"
            f" {OR_NFTABLES}",
            code=code,
        )
    return HostRefused(f"{name}: {problem.strerror}", hint="`dmesg` may say more", code=code)
