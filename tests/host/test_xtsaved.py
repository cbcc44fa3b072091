"""Lines of ``iptables-save``: the short way of reading one gives what the whole one gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.errors import HostRefused
from hvtx.host import program, xtsaved
from hvtx.host.xtsaved import SavedRule

MARK = "hvtx:1:abcdefghij:3.abcdefghijklmnop"
LINES = [
    f'-s 10.0.0.2/32 -i br0 -m comment --comment "{MARK}" -j ACCEPT',
    f'-m comment --comment "{MARK}" -j ACCEPT',
    f'-s 10.0.0.2/32 -m comment --comment "{MARK}"',
    f"-s 10.0.0.2/32 -m comment --comment {MARK} -j ACCEPT",
    "-s 10.0.0.2/32 -j ACCEPT",
    '-m comment --comment "somebody\'s" -j DROP',
    f'-m comment --comment "somebody\'s" -m comment --comment "{MARK}" -j DROP',
    f'-m comment --comment "a -m comment --comment {MARK} b" -j DROP',
    f'-m comment --comment "hvtx:1:a \\"{MARK}" -j DROP',
    f'-x-m comment --comment "{MARK}" -j DROP',
    '-m comment --comment "hvtx:open',
    "",
]


def _whole(text: str) -> SavedRule:
    found = xtsaved._MARKED.search(text)
    if found is None:
        return SavedRule("t", "c", text, None)
    mark = xtsaved._ESCAPED.sub(r"\1", found[1]) if found[1] is not None else found[2]
    return SavedRule("t", "c", (text[: found.start()] + text[found.end() :]).lstrip(" "), mark)


@pytest.mark.parametrize("line", LINES)
def test_both_ways_give_the_same(line: str) -> None:
    assert xtsaved._rule("t", "c", line) == _whole(line)


def test_most_lines_go_the_short_way() -> None:
    taken = [xtsaved._plain("t", "c", line) is not None for line in LINES]
    assert taken[:5] == [True, True, True, False, True]


_PIECES = st.sampled_from(
    ["-m comment --comment ", '"', "hvtx:1:", MARK, " ", "-j DROP", "\\", "--comment ", "x", "\n"]
)


@given(st.lists(_PIECES, max_size=9).map("".join))
def test_so_it_is_for_what_nobody_writes(line: str) -> None:
    assert xtsaved._rule("t", "c", line) == _whole(line)


def test_a_line_with_an_open_quotation_mark_is_joined_with_the_next() -> None:
    text = (
        '*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m comment --comment "a\nb" -j DROP\nCOMMIT\n'
    )
    (rule,) = xtsaved.parse(text).rules
    assert rule.text == '-m comment --comment "a\nb" -j DROP'
    assert xtsaved.parse(text).counts == {"filter": 1}


@pytest.mark.parametrize(
    ("output", "errors", "whole"),
    [
        (b"*nat\nCOMMIT\n# Completed on Mon\n", b"", True),
        (b"*nat\nCOMMIT\n# Completed on Mon\n", b"cannot initialise\n", False),
        (b"*nat\nCOMMIT\n# Completed on Mon\n*filter\n:INPUT", b"", False),
        (b"", b"", False),
    ],
)
def test_what_was_saved_is_whole_if_it_ends_so_where_nobody_knows_how_the_program_ended(
    monkeypatch: pytest.MonkeyPatch, output: bytes, errors: bytes, whole: bool
) -> None:
    ended = program.Captured(program.UNTOLD, output, errors)
    monkeypatch.setattr(program, "find", lambda names: f"/usr/sbin/{names[0]}")
    monkeypatch.setattr(program, "capture", lambda argv, seconds: ended)
    monkeypatch.setattr("hvtx.host.capabilities.has", lambda name: True)
    if whole:
        assert xtsaved.save_text(4) == output.decode()
        return
    with pytest.raises(HostRefused, match="iptables-legacy-save ended, and nobody knows how"):
        xtsaved.save_text(4)
