"""Values that somebody else wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtx.cni import reading
from hvtx.cni.errors import CONFIGURATION, CniError

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
READERS: dict[str, tuple[Callable[[Any], Any], type | tuple[type, ...]]] = {
    "text": (lambda value: reading.text(value, "here"), str),
    "flag": (lambda value: reading.flag(value, "here", default=True), bool),
    "whole": (lambda value: reading.whole(value, "here", 0, 10), int),
    "items": (lambda value: reading.items(value, "here", 2), (list, tuple)),
    "table": (lambda value: reading.table(value, "here"), dict),
    "without_case": (lambda value: reading.without_case(value, "here"), dict),
    "texts": (lambda value: reading.texts(value, "here", 2), tuple),
}


@pytest.mark.parametrize("name", READERS)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=anything)
def test_a_value_is_of_its_type_or_refused(name: str, value: Any) -> None:
    read, kind = READERS[name]
    try:
        assert isinstance(read(value), kind)
    except CniError as problem:
        assert problem.code == CONFIGURATION
        assert problem.msg.startswith("here")
        assert problem.details


def test_null_is_the_same_as_absent() -> None:
    assert [read(None) for read, _ in READERS.values()] == ["", True, 0, (), {}, {}, ()]


def test_texts_are_told_once_and_empty_ones_not() -> None:
    assert reading.texts(["b", "", "a", "b", None], "here") == ("b", "a")


def test_a_long_value_is_cut_short() -> None:
    assert len(reading.shown("x" * 1000)) < 70
    with pytest.raises(CniError):
        reading.text("x" * 5000, "here")


@pytest.mark.parametrize("text", ["a\x1b", "a\n", "\ud800", "\x00"])
def test_what_a_terminal_would_obey_is_no_text(text: str) -> None:
    with pytest.raises(CniError, match="here") as caught:
        reading.text(text, "here")
    assert caught.value.msg.isprintable()
