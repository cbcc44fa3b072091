"""Answers of nf_tables about hvtx's own tables: read once, however often a plan lists them."""

from __future__ import annotations

from functools import partial

import pytest

from hvtx.drivers.nftables import ruleset
from hvtx.host import nfanswers, nftseen, nfttext
from hvtx.host.netlink import Garbled, attribute, text
from hvtx.host.nfanswers import Element, parse_elements, parse_named, parse_rule
from hvtx.host.nfmessages import add_element
from hvtx.host.nfnumbers import (
    BE64,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_HANDLE,
    RULE_TABLE,
    RULE_USERDATA,
)
from hvtx.model.hook import SetElement
from tests.fake.calls import counted

_MARK = "hvtx:1:abc:7.xyz"


def _rule(table: str, *, generation: int = 1, mark: str = _MARK, expressions: bytes = b"") -> bytes:
    """A GETRULE answer; the generation stands in its head (struct nfgenmsg)."""
    comment = mark.encode() + b"\0"
    return b"".join(
        [
            bytes((1, 0)) + generation.to_bytes(2, "big"),
            text(RULE_TABLE, table),
            text(RULE_CHAIN, "forward"),
            attribute(RULE_HANDLE, BE64.pack(9)),
            attribute(RULE_EXPRESSIONS, expressions),
            attribute(RULE_USERDATA, bytes((0, len(comment))) + comment),
        ]
    )


def _set(table: str, *, generation: int = 1, name: str = "ports") -> bytes:
    return bytes((7, 0)) + generation.to_bytes(2, "big") + text(1, table) + text(2, name)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The answers that were taken apart."""
    seen: list[bytes] = []
    walk = nfanswers.attribute_map

    def counted(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
        seen.append(data)
        return walk(data, start, end)

    monkeypatch.setattr(nfanswers, "attribute_map", counted)
    return seen


def test_an_own_rule_is_read_once_whatever_the_generation(read: list[bytes]) -> None:
    first = parse_rule(_rule("hvtx-once", generation=1))
    assert (first.family, first.table, first.chain, first.handle, first.comment) == (
        *("inet", "hvtx-once", "forward"), 9, _MARK
    )  # fmt: skip
    assert parse_rule(_rule("hvtx-once", generation=2)) is first
    assert len(read) == 1


def test_an_own_rule_that_is_another_one_is_read_anew(read: list[bytes]) -> None:
    first = parse_rule(_rule("hvtx-other"))
    second = parse_rule(_rule("hvtx-other", expressions=b"\1\2\3\4"))
    third = parse_rule(_rule("hvtx-other", mark="hvtx:1:abc:8.xyz"))
    assert (first.expressions, second.expressions) == (b"", b"\1\2\3\4")
    assert third.comment == "hvtx:1:abc:8.xyz"
    assert len(read) == 3


def test_rules_of_others_are_not_kept(read: list[bytes]) -> None:
    body = _rule("filter", mark="of somebody")
    assert parse_rule(body) == parse_rule(body)
    assert len(read) == 2


def test_an_own_set_is_read_once_whatever_the_generation(read: list[bytes]) -> None:
    first = parse_named(_set("hvtx-once"))
    assert (first.family, first.table, first.name) == ("bridge", "hvtx-once", "ports")
    assert parse_named(_set("hvtx-once", generation=7)) is first
    assert parse_named(_set("hvtx-once", name="macs")).name == "macs"
    assert len(read) == 2


def test_the_entry_of_an_own_rule_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    digest = ruleset.digest
    monkeypatch.setattr(ruleset, "digest", lambda rule: made.append(rule) or digest(rule))
    rules = [parse_rule(_rule("hvtx-entry", generation=n)) for n in range(3)]
    session: object = None  # nothing is asked of it
    entries = [entry for _, entry in ruleset.rule_entries(session, rules)]  # type: ignore[arg-type]
    assert [(e.mark, e.place.chain, e.handle) for e in entries] == [(_MARK, "forward", 9)] * 3
    assert len(made) == 1


def test_an_element_that_is_looked_up_is_read_in_few_calls() -> None:
    """A VM that ends has eleven, each of which is looked up."""
    piece = SetElement("inet", "t", "guests4", b"\x0a\x4d\0\x02" + b"hvbr0".ljust(16, b"\0"))
    body = bytes(4) + add_element(piece, _MARK).body
    for _ in range(100):  # what is made once for all is made
        parse_elements(body, [])
    found: list[Element] = []
    _, calls = counted(partial(parse_elements, body, found))
    assert [(one.key, one.comment) for one in found] == [(piece.key, _MARK)]
    assert calls <= 4, calls


CATCH_ALL = attribute(3, bytes((0, 0, 0, 2)))  # NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_CATCHALL


@pytest.mark.parametrize(
    ("element", "data"),
    [(CATCH_ALL, b""), (attribute(2, attribute(1, b"\n\0\0\1")) + CATCH_ALL, b"\n\0\0\1")],
)
def test_an_element_for_all_that_has_no_other_has_no_key(element: bytes, data: bytes) -> None:
    """`*`, which others may put into a set of ours: kernels have it since 5.13."""
    found: list[Element] = []
    parse_elements(bytes(4) + attribute(3, attribute(1, element)), found)
    assert [(one.key, one.data) for one in found] == [(b"", data)]
    assert nfttext.render("inet", "masq4", b"", data) == ("* -> 0a000001" if data else "*")
    assert nftseen.spelt("inet", "masq4", b"") == "*"


@pytest.mark.parametrize(
    "element",
    [attribute(3, bytes(4)), attribute(2, b"\n\0\0\1"), b"\x08\0\1\0\n\0\0\1"],
    ids=["no key, no flag", "data alone", "a key longer than the element"],
)
def test_an_element_of_another_form_is_garbled(element: bytes) -> None:
    with pytest.raises(Garbled):
        parse_elements(bytes(4) + attribute(3, attribute(1, element)), [])
