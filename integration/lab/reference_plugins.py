"""The CNI project's own plugins, of Debian's package, for chains in which hvtx is one of several."""

from __future__ import annotations

import os
from pathlib import Path

from integration.lab import packages

INSTALLED = Path("/usr/lib/cni")


def directory() -> Path:
    """Where `loopback`, `portmap` and the others are. Raises packages.Unavailable."""
    if os.access(INSTALLED / "portmap", os.X_OK):
        return INSTALLED
    return packages.taken_apart(packages.CNI_PLUGINS) / "usr" / "lib" / "cni"
