"""Processes by their numbers: which there are, and what they are called."""

from __future__ import annotations

import os


def numbers() -> list[int]:
    """Those that /proc shows. Raises OSError."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def called(pid: int) -> str:
    """The name of its main thread, at most 15 characters (comm of proc(5)). Raises OSError."""
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as name:
        return name.read().removesuffix("\n")
