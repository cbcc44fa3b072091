"""The CNI project's own plugins, of Debian's package, for chains in which hvtx is one of several."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

from integration import lab

PACKAGE = "containernetworking-plugins"
INSTALLED = Path("/usr/lib/cni")
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "cni-plugins"


@cache
def directory() -> Path:
    """Where `loopback`, `portmap` and the others are; downloaded and unpacked if they are not here.

    Nothing is installed. Raises AssertionError where apt has no such package.
    """
    if os.access(INSTALLED / "portmap", os.X_OK):
        return INSTALLED
    place = CACHE / "usr" / "lib" / "cni"
    if not place.exists():
        part = CACHE.with_name(f"{CACHE.name}.{os.getpid()}")
        part.mkdir(parents=True)
        try:
            # The sandbox user of apt may not write below a home directory.
            options = ("-o APT::Sandbox::User=root", "-o Acquire::Retries=3")
            lab.run("sh", "-c", f"cd {part} && apt-get -q {' '.join(options)} download {PACKAGE}")
            (package,) = part.glob("*.deb")
            lab.run("dpkg-deb", "-x", str(package), str(part))
            package.unlink()
            if not CACHE.exists():  # another test was quicker
                part.rename(CACHE)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return place
