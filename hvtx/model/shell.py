"""Words of commands that are shown to people, who may copy them into a shell (pure).

Names of devices, units and files may be anybody's; what a shell would make something else of is in
quotes. (As :func:`shlex.quote`, which takes a module to load.)
"""

from __future__ import annotations

from collections.abc import Iterable

_PLAIN = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-",
)


def word(text: str) -> str:
    """``text`` as one word of a command."""
    if text and _PLAIN.issuperset(text):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"


def words(texts: Iterable[str]) -> str:
    """Several, with blanks between them."""
    return " ".join(map(word, texts))
