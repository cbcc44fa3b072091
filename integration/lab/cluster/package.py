"""The etcd of Debian's package."""

from __future__ import annotations

from pathlib import Path

from integration.lab import packages


def program() -> Path | None:
    """The server; None where its package cannot be had."""
    try:
        return packages.taken_apart(packages.ETCD) / "usr" / "bin" / "etcd"
    except packages.Unavailable:
        return None
