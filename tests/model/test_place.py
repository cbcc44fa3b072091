"""Places in a firewall as values, and as text."""

from __future__ import annotations

import pytest

from hvtx.model.place import Place, legacy_place, nft_place, parse_place

CHAIN, TABLE = nft_place("inet", "mine", "forward"), nft_place("inet", "mine")
LEGACY, WHOLE = legacy_place("ip6tables", "nat", "POSTROUTING"), legacy_place("iptables", "nat")
TEXTS = {
    "nft inet mine forward": CHAIN,
    "nft inet mine": TABLE,
    "ip6tables nat POSTROUTING": LEGACY,
    "iptables nat": WHOLE,
}


@pytest.mark.parametrize(("text", "place"), TEXTS.items())
def test_text_and_back(text: str, place: Place) -> None:
    assert (parse_place(text), str(place), f"{place}") == (place, text, text)
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        *("", "nft", "nft inet", "nft inet ", "nft  mine forward", " nft inet mine", "tap hv0"),
        *("iptables", "iptables nat ", "ebtables filter INPUT"),
    ],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no place in a firewall"):
        parse_place(text)


def test_is_table_name_and_whole() -> None:
    every = (CHAIN, TABLE, LEGACY, WHOLE)
    assert [place.is_table for place in every] == [False, True, False, True]
    assert [place.name for place in every] == ["forward", "mine", "POSTROUTING", "nat"]
    assert [place.whole for place in every] == [
        *(TABLE, TABLE),
        *(legacy_place("ip6tables", "nat"), WHOLE),
    ]


def test_a_table_holds_what_is_in_it() -> None:
    assert TABLE.holds(CHAIN)
    assert TABLE.holds(TABLE)
    assert CHAIN.holds(CHAIN)
    assert not CHAIN.holds(TABLE)
    assert not CHAIN.holds(CHAIN._replace(chain="forward2"))
    assert not TABLE.holds(CHAIN._replace(table="mine2"))
    assert not TABLE.holds(CHAIN._replace(family="ip"))
    assert not WHOLE.holds(LEGACY), "of the other tool"


def test_a_name_with_a_blank_is_no_other_place() -> None:
    """The kernel takes any name by netlink; as text it would be the chain of another table."""
    odd = nft_place("inet", "mine forward")
    assert odd != CHAIN
    assert odd.is_table
    assert not TABLE.holds(odd)
    chain = nft_place("inet", "mine", "for ward")
    assert parse_place(str(chain)) == chain
