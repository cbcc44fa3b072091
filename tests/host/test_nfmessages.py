"""Messages about elements: the parts that all elements of a set share are put together once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.host import nfmessages
from hvtx.host.nfmessages import delete_element, element_named, key_of, list_body
from hvtx.model.hook import SetElement


@given(st.binary(min_size=1, max_size=40), st.sampled_from(["ports", "macs"]), st.booleans())
def test_an_element_is_named_as_if_it_were_put_together_by_itself(
    key: bytes, name: str, interval: bool
) -> None:
    key = key * 2 if interval else key
    piece = SetElement("inet", "hvtx-x", name, key, interval=interval)
    assert element_named(piece) == list_body(piece, key_of(piece))
    assert delete_element(piece).body == element_named(piece)


def test_what_elements_share_is_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    nested = nfmessages.nested
    monkeypatch.setattr(
        nfmessages, "nested", lambda kind, *p: made.append(kind) or nested(kind, *p)
    )
    nfmessages._before_key.cache_clear()
    for number in range(100):
        element_named(SetElement("inet", "hvtx-x", "ports", number.to_bytes(4, "big")))
    assert len(made) == 2  # the list and the element: for the first of the set
