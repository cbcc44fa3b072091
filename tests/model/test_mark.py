"""The ownership tag: short, unique per incarnation, and read back only in its very form."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.model.mark import (
    INSTALLATION_LENGTH,
    NONCE_LENGTH,
    Mark,
    UnreadableMark,
    base32,
    make_mark,
    owner_mark,
    parse_mark,
)
from hvtx.model.resource import Kind
from tests.planner.scene import Scene

INSTALLATION = base32(b"12345678", INSTALLATION_LENGTH)
marks = st.builds(
    make_mark,
    st.binary(min_size=8, max_size=8).map(lambda data: base32(data, INSTALLATION_LENGTH)),
    st.integers(1, 1 << 62),
    st.binary(min_size=10, max_size=10),
)


@given(marks)
def test_a_mark_fits_everywhere(mark: str) -> None:
    """Aliases hold 255 bytes, iptables comments 255, nft comments 128; no byte needs quoting."""
    assert len(mark.encode()) <= 64
    assert re.fullmatch(r"[a-z0-9:.]+", mark)


@given(marks)
def test_a_mark_is_read_back_as_it_was_written(mark: str) -> None:
    """Whole, character by character."""
    parsed = parse_mark(mark)
    assert isinstance(parsed, Mark)
    assert str(parsed) == mark
    assert parsed.installation == mark.split(":")[2]


def test_every_incarnation_has_eighty_bits_of_its_own() -> None:
    """Each bit of the randomness shows in the mark."""
    base = make_mark(INSTALLATION, 7, bytes(10))
    others = {make_mark(INSTALLATION, 7, (1 << bit).to_bytes(10, "big")) for bit in range(80)}
    assert len(others | {base}) == 81
    assert NONCE_LENGTH * 5 == 80


def test_rows_tell_marks_apart_even_with_the_same_randomness() -> None:
    """A repeated random source (a cloned machine) does not repeat a mark."""
    assert make_mark(INSTALLATION, 7, bytes(10)) != make_mark(INSTALLATION, 8, bytes(10))


@pytest.mark.parametrize(
    "text", [None, "", "uplink", " hvtx:1:x", "HVTX:1:a:b", "hvtx", "xhvtx:1:"]
)
def test_other_peoples_texts_are_no_marks(text: str | None) -> None:
    """Not of this family at all."""
    assert parse_mark(text) is None


GOOD = make_mark(INSTALLATION, 17, b"0123456789")


@pytest.mark.parametrize(
    "text",
    [
        "hvtx:",
        "hvtx:1:",
        "hvtx:2:" + GOOD[7:],
        "hvtx:01:" + GOOD[7:],
        GOOD[:-1],
        GOOD + "a",
        GOOD + "\n",
        GOOD + " ",
        GOOD + "\0",
        GOOD.upper().replace("HVTX", "hvtx"),
        GOOD.replace(".", ":"),
        GOOD.replace("17.", "-17."),
        GOOD.replace("17.", "."),
        GOOD.replace("17.", "١٧."),
        GOOD.replace("17.", "9" * 20 + "."),
        GOOD.replace(INSTALLATION, INSTALLATION[:-1]),
        GOOD.replace(INSTALLATION, INSTALLATION[:-1] + "1"),
        "hvtx:1:" + "a" * 1000,
        "hvtx:\x1b[31m",
    ],
)
def test_a_mark_in_another_form_is_unreadable(text: str) -> None:
    """It begins like one of ours: kept and shown, never judged."""
    parsed = parse_mark(text)
    assert isinstance(parsed, UnreadableMark)
    assert parsed.text == text


@pytest.mark.parametrize(
    ("text", "installation"),
    [
        ("hvtx:1:elsewhere:17", "elsewhere"),
        (f"hvtx:1:{INSTALLATION}:17", INSTALLATION),
        ("hvtx:1:elsewhere:", None),
        ("hvtx:1::17", None),
        ("hvtx:2:elsewhere:17", None),
        ("hvtx:1:else where:17", None),
    ],
)
def test_whose_an_unreadable_mark_is(text: str, installation: str | None) -> None:
    """As far as can be read, in the version that this program knows."""
    assert parse_mark(text) == UnreadableMark(text, installation)


@given(st.text(max_size=100))
def test_no_text_breaks_the_reader(text: str) -> None:
    """And only the very form is a mark."""
    parsed = parse_mark("hvtx:" + text)
    assert isinstance(parsed, Mark | UnreadableMark)
    if isinstance(parsed, Mark):
        assert str(parsed) == "hvtx:" + text


def test_an_address_is_told_with_its_bridges_until_marks_are_left_out() -> None:
    bridge, address = Scene().bridge_with_address()
    assert address.mark != bridge.mark
    assert owner_mark(address) == owner_mark(bridge) == bridge.mark
    assert owner_mark(address._replace(mark="", spec={})) == ""  # of a published view


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind != Kind.ADDRESS])
def test_of_all_else_it_is_the_rows_own(kind: Kind) -> None:
    row = Scene().row(kind)
    assert owner_mark(row) == row.mark
