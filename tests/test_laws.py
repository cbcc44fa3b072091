"""Laws of the source itself: what decides nothing, what is never asked for, what is never compared."""

from __future__ import annotations

import ast
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.host import nftlayout
from hvtx.host.links import Links
from hvtx.host.netlink import Channel, attributes
from hvtx.model.mark import make_mark, parse_mark

ROOT = Path(__file__).resolve().parent.parent / "hvtx"
SOURCES = sorted(ROOT.rglob("*.py"))
# Where the wall clock is read: for people, in the history and in what is asked of it.
CLOCKS = {"store/history.py", "engine/show.py"}
ORDERED = {
    "ifindex",
    "handle",
    "generation",
    "genid",
    "inode",
    "netns",
    "cookie",
    "master",
    "lower",
}


def names_in(node: ast.AST) -> set[str]:
    """The last names of what a node speaks of: `row.handle` is `handle`."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            found.add(part.attr)
        elif isinstance(part, ast.Name):
            found.add(part.id)
    return found


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a kind in the program, with its file and line."""
    for source in SOURCES:
        where = source.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, kind):
                yield where, node


def test_no_decision_reads_the_wall_clock() -> None:
    """An age is no evidence: time.time() and datetime are for what people read."""
    readers = set()
    for where, node in nodes(ast.Attribute):
        assert isinstance(node, ast.Attribute)
        whose = node.value.id if isinstance(node.value, ast.Name) else ""
        if (whose, node.attr) in {("time", "time"), ("time", "time_ns"), ("datetime", "now"),
                                  ("datetime", "today"), ("date", "today")}:  # fmt: skip
            readers.add(where)
        if node.attr in ("st_mtime", "st_ctime", "st_atime", "getmtime", "getctime"):
            readers.add(f"{where}: {node.attr}")
    assert readers <= CLOCKS


def test_numbers_of_the_kernel_are_never_ordered() -> None:
    """Indexes, handles and generations wrap around: they are equal, or they are not."""
    wrong = []
    for where, node in nodes(ast.Compare):
        assert isinstance(node, ast.Compare)
        if any(isinstance(op, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) for op in node.ops):
            sides = [node.left, *node.comparators]
            named = {
                s.attr if isinstance(s, ast.Attribute) else getattr(s, "id", "") for s in sides
            }
            if named & ORDERED:
                wrong.append(f"{where}:{node.lineno} {ast.unparse(node)}")
    assert wrong == []


def test_no_namespace_is_made_that_could_leak() -> None:
    """No scratch namespace, so none that a child or a descriptor could keep."""
    calls = [where for where, node in nodes(ast.Attribute) if node.attr in ("unshare", "setns")]
    assert calls == []


def test_no_event_is_waited_for() -> None:
    """No multicast group is joined: an event that was missed can make nothing stale."""
    text = "\n".join(source.read_text() for source in SOURCES)
    assert not re.search(r"ADD_MEMBERSHIP|RTMGRP|RTNLGRP|\.bind\(\(0, [^0]", text)


def test_what_is_ours_is_never_an_interval() -> None:
    """Elements of intervals may be merged with their neighbours; ours are exact, and stay."""
    for family in nftlayout.FAMILIES:
        passing = [name for where, name in nftlayout.PASSING if where == family]
        lines = nftlayout.declarations(family).splitlines()
        text = "\n".join(line for line in lines if line.split()[1] not in passing)
        assert not re.search(r"interval|auto-merge|timeout|dynamic|size ", text)
    wanted = [where for where, node in nodes(ast.Constant)
              if isinstance(node.value, str) and "auto-merge" in node.value]  # fmt: skip
    assert wanted == []


@pytest.mark.parametrize("row", [1, 10, 2**63 - 1])
def test_a_mark_fits_wherever_it_is_written(row: int) -> None:
    """128 bytes for nft, 255 for iptables and aliases; nothing in it needs a quote."""
    mark = make_mark("abcdefghij", row, bytes(range(10)))
    assert len(mark) <= 64
    assert re.fullmatch(r"[a-z0-9:.]+", mark)
    assert str(parse_mark(mark)) == mark


def test_marks_that_begin_alike_are_not_alike() -> None:
    """Row 1 and row 10, and a mark with something behind it: the whole text counts."""
    one, ten = (make_mark("abcdefghij", row, bytes(10)) for row in (1, 10))
    assert parse_mark(one) != parse_mark(ten)
    for longer in (one + "0", one + " ", one + "\n", " " + one, one[:-1]):
        assert str(parse_mark(longer)) != one


class Recorder:
    """Takes the place of a netlink channel and keeps what would be sent."""

    def __init__(self) -> None:
        """Nothing was sent yet."""
        self.sent: list[bytes] = []

    def next_seq(self) -> int:
        """Any number."""
        return 1

    def transact(self, data: bytes, seqs: object) -> None:
        """Keep it."""
        self.sent.append(data)


def test_a_change_never_renames() -> None:
    """A message with an index and a name renames the device: there is never a name in it."""
    links = object.__new__(Links)
    recorder = Recorder()
    links._channel = recorder  # type: ignore[assignment]
    links.change(7, alias="a", master=3, mac="02:00:00:00:00:01", mtu=1500, up=True, quiet6=True,
                 hairpin=True)  # fmt: skip
    data, at, kinds, creating = recorder.sent[0], 0, set(), 0
    while at < len(data):
        length, _, flags = struct.unpack_from("=IHH", data, at)
        creating |= flags & 0x400
        kinds |= {kind for kind, _, _ in attributes(data, at + 32, at + length)}
        at += (length + 3) & ~3
    assert {4, 10, 20} <= kinds  # MTU, master, alias
    assert 3 not in kinds  # IFLA_IFNAME
    assert not creating  # nor would it make a device


def test_an_answer_is_waited_for_however_long_it_takes() -> None:
    """A kernel that is busy for seconds is waited for: a time limit would make a wrong answer."""
    channel = Channel(socket.NETLINK_ROUTE)
    try:
        assert channel._socket.gettimeout() is None
        limit = channel._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
        assert limit == bytes(16)
    finally:
        channel.close()


def test_with_alone_closes_no_connection() -> None:
    """sqlite3's own `with` ends a transaction; Python 3.13 and later tell of what is left open."""
    texts = {
        source: source.read_text()
        for place in ("hvtx", "tests", "integration", "bench", "scripts")
        for source in (ROOT.parent / place).rglob("*.py")
    }
    assert [
        f"{source}:{node.lineno}"
        for source, text in texts.items()
        if "sqlite3.connect" in text
        for node in ast.walk(ast.parse(text))
        for item in (node.items if isinstance(node, ast.With) else ())
        if ast.unparse(item.context_expr).startswith("sqlite3.connect(")
    ] == []
