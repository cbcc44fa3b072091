"""Debian's packages, taken apart in `.cache/packages` and not installed; made once, then found.

`python -m integration.lab.packages` gets those of the ordinary run. It is done before the tests: a
test's own network namespace leads nowhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "packages"

ETCD = ("etcd-server",)
CNI_PLUGINS = ("containernetworking-plugins",)
BIRD = ("bird2", "libssh-gcrypt-4")
VTYSH = ("frr", "libyang2")
CONTAINERD = ("containerd",)
FIREWALLD = (
    "firewalld", "python3-firewall", "python3-nftables", "python3-dbus", "python3-gi",
    "python3-cap-ng",
)  # fmt: skip
ORDINARY = (ETCD, CNI_PLUGINS, BIRD, VTYSH, CONTAINERD, FIREWALLD)


class Unavailable(Exception):
    """What apt said."""


def taken_apart(names: tuple[str, ...]) -> Path:
    """The root of some packages. Raises Unavailable."""
    place = CACHE / "-".join(names)
    if place.exists():
        return place
    work = place.with_name(f"{place.name}.{os.getpid()}")
    work.mkdir(parents=True)
    try:
        # The sandbox user of apt may not write below a home directory.
        options = ("-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3")
        got = subprocess.run(
            ["apt-get", "-qq", *options, "download", *names],
            cwd=work, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if got.returncode:
            raise Unavailable(f"apt-get download {' '.join(names)}: {got.stderr.strip()[:200]}")
        for archive in work.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, work / "root"], check=True)
        if not place.exists():  # another test was quicker
            (work / "root").rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place


def main() -> None:
    """Get what the ordinary run needs; what cannot be had is told, and its tests are skipped."""
    for names in ORDINARY:
        try:
            taken_apart(names)
        except (Unavailable, OSError, subprocess.SubprocessError) as problem:
            sys.stderr.write(f"note: {problem}\n")


if __name__ == "__main__":
    main()
