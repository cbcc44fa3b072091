"""Versions of the CNI specification that hvtx answers, and how they are ordered."""

from __future__ import annotations

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]


def at_least(version: str, least: str) -> bool:
    """Whether a version that hvtx answers is ``least`` or newer. Raises ValueError for others."""
    return VERSIONS.index(version) >= VERSIONS.index(least)
