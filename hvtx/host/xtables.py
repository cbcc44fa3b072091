"""Legacy iptables tables: lock, presence, text, raw entries, and edits that lose nothing.

The kernel knows only "replace the whole table", refused if the number of entries differs from the
writer's copy. So every edit here is: take the lock that iptables takes, read the table afresh,
change, commit once, count, unlock. Reading a table that the network namespace does not have yet
makes it; therefore nothing here reads a table that the kernel does not list, except an edit.

Families are 4 and 6; tables and chains are named as iptables names them. Not for use by two
threads at a time (libiptc keeps in the process what failed last).

Sources: include/uapi/linux/netfilter/x_tables.h, netfilter_ipv4/ip_tables.h,
netfilter_ipv6/ip6_tables.h; libiptc/libiptc.c and iptables/xshared.c of iptables 1.8.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from hvtx.errors import Busy, Contended, HostRefused, NotPermitted
from hvtx.host import capabilities, holder, libiptc, program, xtentry
from hvtx.host.jobs import going_on
from hvtx.host.netlink import Garbled, forbidden, legible
from hvtx.host.retry import persistently
from hvtx.host.xtentry import LAYOUTS, OFFSETS, TARGET, Layout

TOOLS = {4: "iptables", 6: "ip6tables"}
_NAMES = {4: "/proc/thread-self/net/ip_tables_names", 6: "/proc/thread-self/net/ip6_tables_names"}
_LOCK = "/run/xtables.lock"

_LOOKS = 5  # somebody else may change a table between two looks at it
_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_INFO = struct.Struct("=32sI5I5III")  # struct ipt_getinfo
_GET_INFO, _GET_ENTRIES = 64, 65
_HEAD = struct.calcsize("@32sI0Q")  # struct ipt_get_entries up to its entries
_COMMENT = b"comment\0"
_ACCEPT, _RETURN = -2, -5
_VERDICTS = {-1: b"DROP", _ACCEPT: b"ACCEPT", -4: b"QUEUE", _RETURN: b"RETURN"}


# The lock ---------------------------------------------------------------------------------------


def lock_path() -> str:
    """The file that iptables locks (it has one for all network namespaces)."""
    return os.environ.get("XTABLES_LOCKFILE") or _LOCK


@contextlib.contextmanager
def locked(timeout: float) -> Iterator[None]:
    """Hold the lock of iptables; nothing that can block may stand inside.

    Raises Busy when ``timeout`` seconds were not enough, NotPermitted or HostRefused when the
    file cannot be opened.
    """
    path = lock_path()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as problem:
        raise NotPermitted(
            f"cannot open {path} without the capability CAP_DAC_READ_SEARCH",
            hint="run hvtx as root, or with that capability, or set XTABLES_LOCKFILE for all",
        ) from problem
    except OSError as problem:
        raise HostRefused(
            f"cannot open {path}: {problem.strerror}", hint="set XTABLES_LOCKFILE to a usable path"
        ) from problem
    with going_on():  # everybody who runs iptables would wait for a Ctrl-Z in here to end
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _stand_in_line(descriptor, timeout):
                raise _busy(path, timeout) from None
        try:
            yield
        finally:
            os.close(descriptor)


def _busy(path: str, timeout: float) -> Busy:
    found = holder.of_file(path)
    words = f"another program holds {path} for more than {timeout:g} s"
    if found is None:
        return Busy(words, hint=f"see who with `fuser {path}`, or raise --lock-timeout")
    stands = f", which is stopped ({found.state})" if found.stands else ""
    return Busy(
        f"{words}: pid {found.pid} ({found.command}){stands}",
        hint=f"kill -CONT {found.pid} lets it go on" if stands else "--lock-timeout waits longer",
    )


def _stand_in_line(descriptor: int, timeout: float) -> bool:
    """Wait for the lock in the kernel's queue; False (and ``descriptor`` closed) if too long.

    Asking again and again without standing in the queue would starve beside programs that do.
    A thread waits, because a blocking flock cannot be given a time limit.
    """
    import threading

    guard, arrived = threading.Lock(), threading.Event()
    state = {"held": False, "abandoned": False}

    def wait() -> None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with guard:
                state["held"] = not state["abandoned"]
        if not state["held"]:
            os.close(descriptor)
        arrived.set()

    waiter = threading.Thread(target=wait, name="xtables-lock", daemon=True)
    try:
        waiter.start()
    except RuntimeError as problem:
        os.close(descriptor)
        raise HostRefused(
            f"nothing can wait for {lock_path()}: {problem}",
            hint="raise the limit of tasks, or free memory",
        ) from problem
    try:
        arrived.wait(timeout)
    except BaseException:  # interrupted: nobody would ever give the lock back
        with guard:
            state["abandoned"] = True
            if state["held"]:
                os.close(descriptor)
        raise
    with guard:
        state["abandoned"] = not state["held"]
    return state["held"]


# Presence and text ------------------------------------------------------------------------------


def names_path(family: int) -> str:
    """Where the kernel lists the tables of a family, as people know it."""
    return _NAMES[family].replace("thread-self/", "")


def listed(family: int) -> frozenset[str]:
    """The tables that this thread's network namespace has; looking creates none.

    Raises NotPermitted or HostRefused (``cannot-observe``) when the list cannot be read.
    """
    try:
        with open(_NAMES[family], encoding="ascii") as names:
            return frozenset(names.read().split())
    except FileNotFoundError:
        return frozenset()  # this kernel has no legacy tables of the family
    except PermissionError as problem:
        raise NotPermitted(
            f"cannot read {names_path(family)} without the capability CAP_DAC_READ_SEARCH",
            hint="run hvtx as root, or with that capability; `--firewall nftables` does without",
        ) from problem
    except OSError as problem:
        raise _unobserved(f"cannot read {_NAMES[family]}: {problem.strerror}") from problem


def _unobserved(message: str) -> HostRefused:
    return HostRefused(
        message,
        hint="see what `iptables-legacy-save` and `ip6tables-legacy-save` say",
        code="cannot-observe",
    )


class SavedRule(NamedTuple):
    """A rule as ``iptables-save`` prints it.

    ``text`` lacks ``-A CHAIN`` and, where the comment begins with ``hvtx:``, the comment, which
    then is ``mark``.
    """

    table: str
    chain: str
    text: str
    mark: str | None


class Saved(NamedTuple):
    """All tables of a family: ``(table, chain)`` pairs and rules, in the kernel's order."""

    chains: frozenset[tuple[str, str]]
    rules: tuple[SavedRule, ...]


NOTHING = Saved(frozenset(), ())

_MARKED = re.compile(
    r'(?:^| )-m comment --comment (?:"(hvtx:(?:[^"\\]|\\.)*)"|(hvtx:\S*))', re.DOTALL
)
_CHAIN = re.compile(r":(.+) (?:-|[A-Z]+) \[\d+:\d+\]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def saved(family: int) -> Saved:
    """What ``iptables-legacy-save`` prints of the listed tables of ``family``.

    Raises HostRefused (``cannot-observe``) when it fails, is missing, or prints what is not
    understood: an unread rule is not an absent rule.
    """
    tables = listed(family)
    if not tables:
        return NOTHING
    for _ in range(_LOOKS):
        try:
            found = parse(save_text(family))
        except ValueError as problem:
            raise _unobserved(f"{TOOLS[family]}-save printed {problem}") from problem
        if missing := tables - {table for table, _ in found.chains}:
            raise _unobserved(f"{TOOLS[family]}-save left out {', '.join(sorted(missing))}")
        partial = [table for table in sorted(tables) if not _whole(family, table, found)]
        if not partial:
            return found
    raise _unobserved(
        f"{TOOLS[family]}-save printed another number of rules of {', '.join(partial)} than the"
        " kernel has"
    )


def _whole(family: int, table: str, found: Saved) -> bool:
    """Whether as much was printed of a table as the kernel counts in it."""
    chains = [chain for where, chain in found.chains if where == table]
    rules = sum(1 for rule in found.rules if rule.table == table)
    try:
        info = _info(family, table)
        built_in, entries = info[1].bit_count(), info[12]  # one chain a hook
        return bool(entries == rules + built_in + 2 * (len(chains) - built_in) + 1)
    except OSError as problem:
        if forbidden(problem):
            raise NotPermitted(
                "the legacy iptables tables cannot be counted without CAP_NET_ADMIN and"
                " CAP_NET_RAW",
                hint="run hvtx as root, or with these capabilities (docs/privileges.md)",
            ) from problem
        raise _unobserved(f"the table {table} cannot be counted: {problem.strerror}") from problem


def save_text(family: int) -> str:
    """What ``iptables-legacy-save`` prints.

    Raises NotPermitted, HostRefused (``cannot-observe``).
    """
    import subprocess  # only here: most commands never read a legacy table

    call = _save_program(family)
    if call is None:
        raise HostRefused(
            f"this host has legacy {TOOLS[family]} tables but no {TOOLS[family]}-legacy-save to"
            " read them",
            hint="install the package iptables",
            code="cannot-observe",
        )
    name = os.path.basename(call[0])
    try:
        done = subprocess.run(call, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise _unobserved(f"{name}: {problem}") from problem
    if done.returncode != 0 and not capabilities.has("CAP_NET_RAW"):
        raise NotPermitted(
            "the legacy iptables tables cannot be read without the capability CAP_NET_RAW",
            hint="run hvtx as root, or with that capability (docs/privileges.md)",
        )
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()
        raise _unobserved(f"{name} ended with {done.returncode}: {words}")
    return done.stdout.decode(errors="surrogateescape")


def _save_program(family: int) -> tuple[str, ...] | None:
    """How to call what prints the legacy tables of a family, by its path."""
    tool = TOOLS[family]
    for argv in ((f"{tool}-legacy-save",), ("xtables-legacy-multi", f"{tool}-save")):
        found = program.find((argv[0],))
        if found is not None:
            return (found, *argv[1:])
    return None


# Whether it can work here -----------------------------------------------------------------------

_MODULES = {4: "ip_tables", 6: "ip6_tables"}
_ELSE = "or use --firewall nftables"


def lack(families: Iterable[int] = tuple(TOOLS)) -> HostRefused | None:
    """What the iptables backend needs for ``families`` and this host does not have, if anything.

    Nothing is loaded into the kernel, and no table is read.
    """
    for family in sorted(families):
        try:
            libiptc.library(family)
        except HostRefused as problem:
            return problem
        if _save_program(family) is None:
            return HostRefused(
                f"the iptables backend cannot work here: there is no {TOOLS[family]}-legacy-save",
                hint=f"install the package iptables, {_ELSE}",
            )
    if not os.path.exists(_NAMES[4]) and not _has_module(_MODULES[4]):
        return HostRefused(
            "the iptables backend cannot work here: this kernel has no legacy iptables tables,"
            f" and no module {_MODULES[4]} for them",
            hint=f"boot a kernel that has them, or load the module from outside, {_ELSE}",
        )
    return None


def _has_module(name: str) -> bool:
    """Whether this kernel could load a module."""
    directory = f"/lib/modules/{os.uname().release}"
    with contextlib.suppress(OSError), open(f"{directory}/modules.dep", encoding="utf-8") as known:
        return any(line.partition(":")[0].rpartition("/")[2].startswith(f"{name}.ko")
                   for line in known)  # fmt: skip
    return False


def _load_module(family: int) -> None:
    """Have the kernel load the family's tables, as iptables does, where it has none yet.

    It does so by itself for each table, but not for what they have in common. Without success
    nothing is said: the next call to the kernel does.
    """
    if os.path.exists(_NAMES[family]) or not os.path.exists("/proc/modules"):
        return
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/modprobe", encoding="utf-8") as path:
            modprobe = path.read().strip()
        if modprobe:
            program.run((modprobe, "-q", _MODULES[family]), 30)


def parse(text: str) -> Saved:
    """Read the output of ``iptables-save``; ValueError names what was not understood."""
    chains: set[tuple[str, str]] = set()
    rules: list[SavedRule] = []
    table = ""
    for line in _lines(text):
        if line.startswith("-A ") and table:
            chain, _, rest = line[3:].partition(" ")
            if (table, chain) not in chains:
                raise ValueError(f"a rule of an undeclared chain: {line!r}")
            rules.append(_rule(table, chain, rest))
        elif line.startswith(":") and table and (found := _CHAIN.fullmatch(line)):
            chains.add((table, found[1]))
        elif line.startswith("*") and not table:
            table = line[1:]
        elif line == "COMMIT" and table:
            table = ""
        elif line and (table or not line.startswith("#")):
            raise ValueError(f"an unknown line: {line!r}")
    if table:
        raise ValueError(f"no end of table {table}")
    return Saved(frozenset(chains), tuple(rules))


def _lines(text: str) -> Iterator[str]:
    """Lines, with those joined that a quoted newline (in a stranger's comment) splits."""
    pending: list[str] = []  # the pieces of a line so far: each is looked at once
    for line in text.split("\n"):
        quotes = line.count('"')
        if quotes and "\\" in line:
            quotes = _ESCAPED.sub("", line).count('"')
        open_ = bool(pending)
        turned = bool(quotes & 1) and (open_ or not line.startswith("#"))
        pending.append(line)
        if open_ != turned:
            continue  # a quotation mark is open at its end
        yield "\n".join(pending)
        pending = []
    if pending:
        raise ValueError(f"an open quotation mark: {pending[0][:80]!r}")


def _rule(table: str, chain: str, text: str) -> SavedRule:
    found = _MARKED.search(text)
    if found is None:
        return SavedRule(table, chain, text, None)
    mark = _ESCAPED.sub(r"\1", found[1]) if found[1] is not None else found[2]
    return SavedRule(table, chain, (text[: found.start()] + text[found.end() :]).lstrip(" "), mark)


# Raw entries ------------------------------------------------------------------------------------


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


def _info(family: int, table: str) -> tuple[Any, ...]:
    return _INFO.unpack(_ask(family, _GET_INFO, table.encode().ljust(_INFO.size, b"\0")))


def count(family: int, table: str) -> int:
    """How many entries the kernel holds: one per rule and policy, two per chain, one at the end."""
    return int(_info(family, table)[12])


def read(family: int, table: str) -> Blob | None:
    """A table's entries in one piece, or None if the kernel does not list the table.

    Raises NotPermitted, HostRefused.
    """
    if table not in listed(family):
        return None

    def once() -> Blob:
        info = _info(family, table)
        request = table.encode().ljust(32, b"\0") + struct.pack("=I", info[13])
        answer = _ask(family, _GET_ENTRIES, request.ljust(_HEAD, b"\0") + bytes(info[13]))
        starts = [(name, info[2 + n]) for n, name in enumerate(_HOOKS) if info[1] >> n & 1]
        return Blob(info[12], tuple(starts), answer[_HEAD:])

    try:
        return persistently(once)
    except OSError as problem:
        raise _refusal(family, table, problem, "cannot-observe") from problem


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


@legible
def marked(family: int, blob: Blob, prefix: str) -> list[Marked]:
    """The entries with a comment that begins with ``prefix``, in order (pure). Raises Garbled."""
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
        Marked(
            name,
            mark.decode(errors="surrogateescape"),  # as iptables-save prints what is no text
            _portable(layout, data[start:end], target, heads),
        )
        for name, start, target, end, mark in found
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


def _refusal(
    family: int, table: str, problem: OSError, code: str = "host-refused"
) -> HostRefused | NotPermitted:
    """The error to raise for what the kernel said about a table."""
    name = f"the {TOOLS[family]} table {table}"
    if problem.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            f"no access to {name}", hint="it needs root, or CAP_NET_ADMIN and CAP_NET_RAW"
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
            f" {_ELSE}",
            code=code,
        )
    return HostRefused(f"{name}: {problem.strerror}", hint="`dmesg` may say more", code=code)


# Edits ------------------------------------------------------------------------------------------


build = xtentry.build


class Edit:
    """One table between a fresh read and one commit, to be used under :func:`locked`.

    Methods raise OSError with libiptc's errno.
    """

    def __init__(self, family: int, table: str) -> None:
        """Read the table afresh (which makes it, if the namespace has none)."""
        self._family, self._name, self._growth = family, table, 0
        self._before = persistently(lambda: count(family, table))
        self._table = libiptc.Table(family, table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()

    def has(self, chain: str) -> bool:
        """Whether the table has the chain."""
        return self._table.has(chain)

    def make_chain(self, chain: str) -> None:
        """Add an empty chain."""
        self._table.create_chain(chain)
        self._growth += 2

    def drop_chain(self, chain: str) -> None:
        """Remove a chain that is empty and that nothing jumps to."""
        self._table.delete_chain(chain)
        self._growth -= 2

    def empty(self, chain: str) -> bool:
        """Whether the chain has no rule."""
        return self._table.empty(chain)

    def references(self, chain: str) -> int:
        """How many rules jump to a chain of users."""
        return self._table.references(chain)

    def add(self, chain: str, entry: bytes, *, first: bool) -> None:
        """Put an entry at the head or the end of a chain."""
        if first:
            self._table.insert(chain, entry, 0)
        else:
            self._table.append(chain, entry)
        self._growth += 1

    def put_last(self, chain: str, entry: bytes) -> bool:
        """Move the first rule that equals ``entry`` to its chain's end; False if there is none."""
        taken = self.take(chain, entry)
        if taken:
            self.add(chain, entry, first=False)
        return taken

    def note(self, chain: str, entry: bytes, comment: str) -> bool:
        """Put an equal rule with a comment in the place of the first that equals ``entry``."""
        place = self._place(chain, entry)
        if place is None:
            return False
        self._table.replace(chain, xtentry.with_comment(self._family, entry, comment), place)
        return True

    def _place(self, chain: str, entry: bytes) -> int | None:
        """Where in the chain the first rule equal to ``entry`` stands, counted from 0."""
        blob = read(self._family, self._name)
        rules = entries(self._family, blob).get(chain, []) if blob else []
        return rules.index(entry) if entry in rules else None

    def take(self, chain: str, entry: bytes) -> bool:
        """Remove the first rule that equals ``entry``, byte by byte; False if there is none."""
        try:
            self._table.delete(chain, entry)
        except FileNotFoundError:
            return False
        self._growth -= 1
        return True

    def commit(self) -> bool:
        """Give the table to the kernel; False if its number of entries then is not as meant.

        That happens only beside a program that writes without taking the lock.
        """
        self._table.commit()
        return count(self._family, self._name) == self._before + self._growth


def edit(family: int, table: str, timeout: float, change: Any) -> bool:
    """Lock, read, ``change(edit)``, commit; again while the kernel says EAGAIN.

    ``change`` returns whether there is anything to commit. True if all was as meant (see
    :meth:`Edit.commit`). Raises Busy, NotPermitted, HostRefused.
    """
    libiptc.library(family)  # loading takes time: never under the lock
    _load_module(family)

    def once() -> bool:
        with locked(timeout), Edit(family, table) as work:
            return not change(work) or work.commit()

    try:
        return persistently(once)
    except OSError as problem:
        raise _refusal(family, table, problem) from problem


def matching(
    family: int, marks: Iterable[str], prefix: str, *, attempts: int = 6
) -> tuple[Saved, dict[tuple[str, str, str, str], list[bytes]]]:
    """Text and bytes of the same rules.

    The saved text, and by ``(table, chain, mark, text)`` of ``marks`` the entries in order. The
    bytes are read before and after the text and must be equal. Raises
    Contended if they never are.
    """
    wanted = frozenset(marks)
    for attempt in range(attempts):
        if attempt:
            time.sleep(0.002 * 2**attempt)
        before = _marked_in_all(family, wanted, prefix)
        text = saved(family)
        if before == _marked_in_all(family, wanted, prefix):
            paired = pair(text.rules, before, wanted)
            if paired is not None:
                return text, paired
    raise Contended(
        f"the {TOOLS[family]} rules changed while they were read",
        hint="try again when the other program is done",
    )


def _marked_in_all(family: int, wanted: frozenset[str], prefix: str) -> dict[str, list[Marked]]:
    found = {}
    for table in sorted(listed(family)):
        blob = read(family, table)
        if blob is not None and prefix.encode() in blob.data:
            found[table] = [m for m in marked(family, blob, prefix) if m.mark in wanted]
    return {table: entries for table, entries in found.items() if entries}


def pair(
    rules: Sequence[SavedRule], entries: dict[str, list[Marked]], wanted: frozenset[str]
) -> dict[tuple[str, str, str, str], list[bytes]] | None:
    """Join printed rules and entries by their order; None if they do not fit (pure)."""
    # Chains come in one order in the text and in another from the kernel: go chain by chain.
    left: dict[tuple[str, str], list[Marked]] = {}
    for table, found in entries.items():
        for entry in reversed(found):
            left.setdefault((table, entry.chain), []).append(entry)
    paired: dict[tuple[str, str, str, str], list[bytes]] = {}
    for line in rules:
        if line.mark is None or line.mark not in wanted:
            continue
        here = left.get((line.table, line.chain))
        if not here or here[-1].mark != line.mark:
            return None
        key = (line.table, line.chain, line.mark, line.text)
        paired.setdefault(key, []).append(here.pop().data)
    return None if any(left.values()) else paired
