"""Elements that are taken apart at once: the same as one by one, whatever their forms."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtx.host import nfbulk
from hvtx.host.netlink import Garbled, attribute
from hvtx.host.nfanswers import all_elements
from hvtx.host.nfbulk import comment_in, read_bulk, tail_of
from hvtx.host.nfmessages import add_element
from hvtx.host.nfnumbers import LIST_ELEMENTS
from hvtx.model.hook import SetElement


@st.composite
def bodies(draw: st.DrawFn) -> list[bytes]:
    """Messages of one set: most elements alike, with marks of different lengths, some not."""
    size, data = draw(st.sampled_from([4, 16, 20, 24])), draw(st.sampled_from([b"", b"\n\1\2\3"]))
    raw = []
    for n in range(draw(st.integers(1, 12))):
        odd = draw(st.integers(0, 9)) == 0
        piece = SetElement(
            "inet", "hvtx-x", "set", n.to_bytes(size, "big"), data,
            flows=draw(st.sampled_from([0, 0, 0, 3])), interval=False,
        )  # fmt: skip
        comment = (
            draw(st.sampled_from(["", "of others", "é"])) if odd else f"hvtx:1:x:{10 ** (n % 5)}"
        )
        raw.append(elements_in(add_element(piece, comment).body))
    found = []
    while raw:
        some = draw(st.integers(1, len(raw)))
        found.append(bytes(4) + attribute(LIST_ELEMENTS, b"".join(raw[:some])))
        del raw[:some]
    return found


def elements_in(body: bytes) -> bytes:
    """The raw element of a message that has one."""
    from hvtx.host.netlink import attributes

    for kind, start, end in attributes(body, 0, len(body)):
        if kind == LIST_ELEMENTS:
            return body[start:end]
    raise AssertionError(body)


@settings(max_examples=200, deadline=None)
@given(bodies())
def test_the_same_elements_as_one_by_one(raw: list[bytes]) -> None:
    found = read_bulk(raw)
    columns = zip(*found, strict=True)
    at_once = sorted((key, data, comment_in(tail) or "") for key, data, tail in columns)
    assert at_once == sorted((key, data, c or "") for key, data, c, *_ in all_elements(raw))


def test_what_is_alike_is_not_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [SetElement("inet", "t", "s", n.to_bytes(4, "big")) for n in range(9)]
    raw = b"".join(
        elements_in(add_element(p, f"hvtx:1:x:{10**n}").body) for n, p in enumerate(pieces)
    )
    monkeypatch.setattr(nfbulk, "parse_elements", None)
    found = read_bulk([bytes(4) + attribute(LIST_ELEMENTS, raw)])
    assert sorted(found.keys) == [p.key for p in pieces]
    assert set(found.tails) == {tail_of(b"hvtx:1:x:%d" % 10**n) for n in range(9)}


@pytest.mark.parametrize("broken", [b"\x50\0\1\x80", b"\3\0\1\x80" + bytes(8), b"\0\0\0\0"])
def test_an_element_that_ends_too_early_is_garbled(broken: bytes) -> None:
    with pytest.raises(Garbled):
        read_bulk([bytes(4) + attribute(LIST_ELEMENTS, broken)])


@pytest.mark.parametrize(
    "comment", [b"", b"x", b"hvtx:1:aaaaaaaaaa:1.bbbbbbbbbbbbbbbb", b"y" * 120]
)
def test_a_comment_is_read_from_its_tail(comment: bytes) -> None:
    assert comment_in(tail_of(comment)) == comment.decode()
    assert comment_in(b"") is None
