"""Debian's etcd, taken apart in `.cache/etcd`; made once, then found."""

from __future__ import annotations

import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[3] / ".cache" / "etcd"
PACKAGE = "etcd-server"


def program() -> Path | None:
    """The server; None where its package cannot be had."""
    found = CACHE / "root" / "usr" / "bin" / "etcd"
    if not found.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["apt-get", "download", PACKAGE], cwd=CACHE, check=False,
                          capture_output=True, timeout=120).returncode:  # fmt: skip
            return None
        package = max(CACHE.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg", "-x", package, CACHE / "root"], check=True)
    return found
