"""Elements of sets as people read them."""

from __future__ import annotations

from functools import partial

import pytest

from hvtx.host import nfttext
from hvtx.host.nfttext import render, rendered
from tests.fake.calls import counted

MANY = [(bytes((10, 77, n >> 8, n & 0xFF)), b"", None) for n in range(1000)]


@pytest.mark.parametrize(("family", "name"), [*nfttext._RENDER, ("ip", "theirs")])
@pytest.mark.parametrize(("data", "text"), [(b"", "*"), (b"\n\0\0\1", "* -> 0a000001")])
def test_the_catch_all_element_keeps_its_value_in_every_set(
    family: str, name: str, data: bytes, text: str
) -> None:
    assert render(family, name, b"", data) == text
    assert rendered(family, name, [(b"", data, "a mark")]) == [text]


def test_elements_are_written_in_their_order_with_the_catch_all_among_them() -> None:
    elements = [*MANY[1:3], (b"", b"", None), MANY[4]]
    assert rendered("inet", "masq4", elements) == ["10.77.0.1", "10.77.0.2", "*", "10.77.0.4"]


def test_a_key_that_fits_no_set_of_ours_is_written_in_hexadecimal_alone() -> None:
    """A table of others may have a set with a name of ours and keys of its own."""
    elements = [MANY[1], (b"\n\x4d\1", b"", None), (b"", b"\1", None)]
    assert rendered("inet", "masq4", elements) == ["10.77.0.1", "0a4d01", "* -> 01"]
    assert [render("inet", "masq4", k, d) for k, d, _ in elements] == rendered(
        "inet", "masq4", elements
    )


def test_an_element_more_is_one_call_more() -> None:
    """Plans read them by the thousand."""
    texts, calls = counted(partial(rendered, "inet", "masq4", MANY))
    _, without = counted(partial(rendered, "inet", "masq4", []))
    assert (texts[-1], calls - without) == ("10.77.3.231", len(MANY))
