"""Warnings and notes of a command that continues: a line on standard error."""

from __future__ import annotations

import sys


def warning(words: str) -> None:
    """Something that is probably not meant."""
    _say("warning", words)


def note(words: str) -> None:
    """Something that was done beside what was asked for."""
    _say("note", words)


def _say(what: str, words: str) -> None:
    plain = "".join(c if c.isprintable() else "?" for c in words)
    sys.stderr.write(f"{what}: {plain}\n")
