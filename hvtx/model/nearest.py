"""The word that somebody probably meant: for hints, never for a decision."""

from __future__ import annotations

from collections.abc import Iterable

_LIKENESS = 0.6  # of difflib's ratio: "wbe" is "web" (0.67), "db" is not


def nearest(
    word: str, known: Iterable[str], likeness: float = _LIKENESS, *, any_case: bool = True
) -> str | None:
    """The known word that is most like ``word``, if one is as much like it (pure)."""
    from difflib import get_close_matches

    folded = {one.casefold() if any_case else one: one for one in known}  # `QEMU` is `qemu`
    sought = word.casefold() if any_case else word
    found = get_close_matches(sought, list(folded), n=1, cutoff=likeness)
    return folded[found[0]] if found else None


def meant(word: str, known: Iterable[str], otherwise: str) -> str:
    """A hint: ``did you mean 'web'? …`` where a known word is like it, then ``otherwise``."""
    found = nearest(word, known)
    return otherwise if found is None else f"did you mean {found!r}? {otherwise}"
