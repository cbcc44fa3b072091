"""Tables on a terminal: what does not fit stands below its row, whole."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hvtx.cli import render, vm_text
from hvtx.model.reason import Reason
from tests.structure.source import TOP

HEADERS = ("kind", "key", "state", "mark")
MARK = "hvtx:1:xqjjdgp5qu:12.iuyvjoa6yseqsjvq"
PATH = "/run/hvtx/xqjjdgp5qu/vms/e54ea84d4fe7411c9515a063aeede5a4"
ROWS = [("tap", "hvsctq2hcc5mh7", "committed", MARK), ("file", PATH, "committed", None)]


@pytest.mark.parametrize(
    ("columns", "moved"), [(200, []), (80, ["mark"]), (60, ["key", "mark"]), (10, ["key", "mark"])]
)
def test_columns_leave_a_table_that_is_too_wide(columns: int, moved: list[str]) -> None:
    """In the order in which they are named, and only as many as must."""
    cells = [[render.plain(cell) for cell in row] for row in ROWS]
    kept, left = render.fitting(HEADERS, cells, ("mark", "key"), columns)
    assert [HEADERS[n] for n in left] == moved
    assert sorted([*kept, *left]) == [0, 1, 2, 3]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_a_word_is_whole_at_any_width(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Marks and paths can be copied; the terminal's size is told by COLUMNS here."""
    monkeypatch.setattr(render, "fancy", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    render.table(HEADERS, ROWS, empty="", below=("mark", "key"))
    words = capsys.readouterr().out.split()
    assert MARK in words
    assert PATH in words


def test_in_a_pipe_nothing_moves(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs find a row on a line."""
    render.table(HEADERS, ROWS, empty="", below=("mark", "key"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["KIND", "tap", "file"]


def test_a_time_for_people_has_seconds() -> None:
    """JSON keeps the fraction."""
    assert render.moment("2026-11-28T08:04:38.712116Z") == "2026-11-28T08:04:38Z"
    assert render.moment("2026-11-28T08:04:38Z") == "2026-11-28T08:04:38Z"


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_what_is_said_beside_is_folded_on_a_terminal_only(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the width of the terminal that standard error is, whatever standard output is."""
    line = f"note: the rules of others cannot be read, so nothing of {PATH} is in the plan"
    assert render.folded(line) == line
    monkeypatch.setattr(render.sys, "stderr", Terminal())
    monkeypatch.setattr(render.os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    lines = render.folded(line).split("\n")
    assert " ".join(lines).split() == line.split()
    assert all(len(each) < max(columns, 40) for each in lines if PATH not in each)
    assert {each[:2] for each in lines[1:]} == {"  "}


class Terminal(io.StringIO):
    """Standard error where somebody sits."""

    def isatty(self) -> bool:
        return True


ANSWER = """
import sys
from hvtx.cli import render
from hvtx.host import output
output.write_out(sys.argv[1], b"the file")
with render.beside(None, sys.argv[1]):
    render.say("the answer")
"""


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_an_answer_is_not_mixed_into_a_file_that_is_standard_output(
    path: str, tmp_path: Path
) -> None:
    """A pipe, or a file that the shell made: what arrives there is the file, byte for byte."""
    call = [sys.executable, "-c", ANSWER, path]
    done = subprocess.run(call, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"the file", b"the answer\n")
    with (tmp_path / "out").open("wb") as file:
        done = subprocess.run(call, stdout=file, stderr=subprocess.PIPE, check=True)
    assert ((tmp_path / "out").read_bytes(), done.stderr) == (b"the file", b"the answer\n")


def test_an_answer_beside_another_file_stays_where_it_is(tmp_path: Path) -> None:
    call = [sys.executable, "-c", ANSWER, str(tmp_path / "out")]
    done = subprocess.run(call, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"the answer\n", b"")
    call = [sys.executable, "-c", ANSWER, "/dev/null"]
    done = subprocess.run(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    assert done.stderr == b""


# The widest that each column may have.
_NAME, _IPV6 = "n" * 63, "fd77:1234:5678:9abc:def0:1234:5678:9abc"
WIDEST = {
    **dict.fromkeys(("name", "vm", "network", "of"), _NAME),
    **dict.fromkeys(("address", "via"), _IPV6),
    **dict.fromkeys(("key", "object", "resource"), PATH),
    **dict.fromkeys(("host",), f"node-17.{'r' * 44}.example.org"),
    **dict.fromkeys(("id", "op", "row"), "9223372036854775807"),
    **dict.fromkeys(("time", "since"), "2026-11-28T08:04:38Z"),
    **dict.fromkeys(("nat", "dhcp"), "yes"),
    **dict.fromkeys(("message", "why", "vms", "ports"), "several words " * 20),
    "addresses": " ".join([_IPV6] * 4),
    "subnets": "10.123.123.0/24 fd77:1234:5678:9abc::/64",
    "block": "fd77:1234:5678:9abc:def0:1234:5678:9a00/120",
    "bridge": "hvbr12345678901", "firewall": "nftables", "installation": "xqjjdgp5qu", "mark": MARK,
    "state": "interrupted", "used": "65536", "kind": "masquerade", "verb": "network-create",
    "event": "released", "reason": max(Reason, key=len), "pid": "4194304", "guest": "shut down",
    "outcome": f"would be imported ({max(Reason, key=len)})", "hypervisor": "cloud-hypervisor",
}  # fmt: skip


def test_every_table_is_found() -> None:
    assert len(list(_tables())) >= 9


def _tables() -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    """Where each table is made, its headers, and what may leave it."""
    for path in sorted((TOP / "hvtx" / "cli").rglob("*.py")):
        tree = ast.parse(path.read_text())
        made = {
            node.targets[0].id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) not in ("render.table", "table"):
                continue
            below = [word.value for word in call.keywords if word.arg == "below"]
            found = [
                vm_text.HEADERS if ast.unparse(one) == "HEADERS" else ast.literal_eval(
                    made[one.id] if isinstance(one, ast.Name) else one
                )
                for one in (call.args[0], *below)
            ]  # fmt: skip
            yield f"{path.name}:{call.lineno}", found[0], found[1] if below else ()


@pytest.mark.parametrize(("where", "headers", "below"), list(_tables()))
def test_every_table_can_be_as_narrow_as_a_terminal(
    where: str,
    headers: Sequence[str],
    below: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of 80 columns, with names and addresses as long as they may be."""
    monkeypatch.setattr(render, "fancy", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    render.table(headers, [[WIDEST[one] for one in headers]], empty="", below=below)
    for line in capsys.readouterr().out.splitlines():
        assert len(line) <= 80 or len(line.split()) <= 2, f"{where}: {line}"
