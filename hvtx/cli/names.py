"""What the command line is called, and how it prints commands; nothing is loaded for it."""

from __future__ import annotations

from collections.abc import Callable

PROGRAM = "hvtx"
_ways: list[Callable[[str], str]] = []


def print_commands(way: Callable[[str], str] | None) -> None:
    """What is done to texts with commands from now on; None: they are printed as they are."""
    _ways[:] = [] if way is None else [way]


def printed(text: str) -> str:
    """A text, with commands that act on the store that this command line named."""
    return _ways[0](text) if _ways else text
