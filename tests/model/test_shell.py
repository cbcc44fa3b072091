"""Words of commands: whoever chose them, a shell reads them as they are."""

from __future__ import annotations

import shlex

from hypothesis import given
from hypothesis import strategies as st

from hvtx.model.shell import word, words


@given(st.text(max_size=20))
def test_a_word_is_one_word(text: str) -> None:
    assert shlex.split(f"kill {word(text)}") == ["kill", text]
    assert word(text) == shlex.quote(text)


def test_plain_words_stay_as_they_are() -> None:
    assert words(["eth0", "a b", ""]) == "eth0 'a b' ''"
