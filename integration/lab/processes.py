"""Processes as the kernel shows them in ``/proc/PID/stat``."""

from __future__ import annotations

from pathlib import Path


def letter(pid: int) -> str:
    """The state of a process, as proc_pid_stat(5) names it; empty where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]  # a name may have brackets of its own


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for yet does not."""
    return letter(pid) not in ("", "Z", "X")
