"""The word that was probably meant."""

from __future__ import annotations

import pytest

from hvtx.model.nearest import meant, nearest


@pytest.mark.parametrize(
    ("word", "likely"), [("wbe", "web"), ("webb", "web"), ("mial", "mail"), ("zzz", None)]
)
def test_a_word_that_is_much_like_another(word: str, likely: str | None) -> None:
    """Letters that changed places or are one too many; nothing for what is like none."""
    assert nearest(word, ["mail", "web", "db"]) == likely


def test_a_hint_asks_first_and_then_says_the_rest() -> None:
    """Without a likely word only the rest."""
    assert meant("wbe", ["web"], "`hvtx vm ls` lists them") == (
        "did you mean 'web'? `hvtx vm ls` lists them"
    )
    assert meant("x", ["web"], "`hvtx vm ls` lists them") == "`hvtx vm ls` lists them"
