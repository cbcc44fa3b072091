"""Calls of ``systemctl``."""

from __future__ import annotations

import os

from hvtx.engine.units import (
    RECOVER,
)
from hvtx.errors import HostRefused
from hvtx.host import program

BOOTED = "/run/systemd/system"  # there where systemd is the init, sd_booted(3)
CALL_SECONDS = 60.0
_ENABLED = ("enabled", "enabled-runtime", "static", "alias", "indirect", "generated")


def systemctl_path() -> str:
    """Where systemctl is; raises HostRefused without it."""
    found = program.find(("systemctl", "/usr/bin/systemctl", "/bin/systemctl"))
    if found is None:
        raise HostRefused(
            "this host has no systemd (systemctl is missing)",
            hint="let its own init call `hvtx recover` at boot; `hvtx systemd print` shows when",
            code="no-systemd",
        )
    return found


def runs_here(root: str) -> bool:
    """Whether systemd runs, and this is its root."""
    return os.path.realpath(root) == "/" and os.path.isdir(BOOTED)


def offline_option(running: bool, root: str) -> tuple[str, ...]:
    """What tells systemctl that it works on a system that is not booted."""
    return () if running else (f"--root={os.path.abspath(root)}",)


def is_enabled(systemctl: str, offline: tuple[str, ...], unit: str) -> bool:
    """Whether a unit is started without being asked for; ``offline`` as of offline_option."""
    ended = program.run((systemctl, *offline, "is-enabled", unit), CALL_SECONDS)
    return program.ended_well(ended.status, shown=ended.output.strip() in _ENABLED)


def call_systemctl(systemctl: str, *arguments: str) -> None:
    """Have systemctl do something; raises HostRefused."""
    try:
        ended = program.run((systemctl, *arguments), CALL_SECONDS)
    except OSError as problem:
        raise HostRefused(
            f"systemctl cannot be run: {problem}",
            hint="the units are written; systemctl daemon-reload makes systemd read them",
        ) from problem
    words = " ".join(ended.output.split())
    if not program.ended_well(ended.status, shown=not words):  # it says why it failed
        words = words or "no reason given"
        raise HostRefused(
            f"systemctl {' '.join(arguments)} failed: {words}",
            hint=f"systemctl status {RECOVER}; then run this command again",
        )
