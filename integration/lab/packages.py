"""Debian's packages, taken apart in `.cache/packages` and not installed; made once, then found.

`python -m integration.lab.packages` gets those of the ordinary run. It is done before the tests: a
test's own network namespace leads nowhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "packages"

ETCD = ("etcd-server",)
CNI_PLUGINS = ("containernetworking-plugins",)
BIRD = ("bird2",)
VTYSH = ("frr",)
CONTAINERD = ("containerd",)
FIREWALLD = (
    "firewalld", "python3-firewall", "python3-nftables", "python3-dbus", "python3-gi",
    "python3-cap-ng",
)  # fmt: skip
ORDINARY = (ETCD, CNI_PLUGINS, BIRD, VTYSH, CONTAINERD, FIREWALLD)


class Unavailable(Exception):
    """What apt said."""


def with_libraries(names: tuple[str, ...]) -> tuple[str, ...]:
    """These packages and the libraries that they need and this host has not, as it calls them.

    (libyang2 of Debian 12 is libyang2t64 in Ubuntu 24.04.)
    """
    found = list(names)
    for name in found:
        told = _said("apt-cache", "depends", name)
        for library in re.findall(r"^ [ |](?:Pre)?Depends: (lib[\w.+-]+)$", told, re.MULTILINE):
            status = _said("dpkg-query", "-W", "-f", "${db:Status-Status}", library)
            if status != "installed" and library not in found:
                found.append(library)
    return tuple(found)


def _said(*argv: str) -> str:
    """The standard output of a program, whatever its exit code; English."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    return done.stdout


def taken_apart(names: tuple[str, ...]) -> Path:
    """The root of some packages, with their libraries. Raises Unavailable."""
    place = CACHE / "-".join(names)
    if place.exists():
        return place
    work = place.with_name(f"{place.name}.{os.getpid()}")
    work.mkdir(parents=True)
    try:
        # The sandbox user of apt may not write below a home directory.
        options = ("-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3")
        got = subprocess.run(
            ["apt-get", "-qq", *options, "download", *with_libraries(names)],
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
