"""Errors of the store outside of its functions, such as a page that cannot be read."""

from __future__ import annotations

from hvtx.store import errors


def explain(problem: Exception) -> Exception | None:
    """What an error of the store's library means to people; None for all others."""
    return errors.explain(problem)
