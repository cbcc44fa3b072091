"""Debian's packages, taken apart in `.cache/packages` and not installed; made once, then found.

`python -m integration.lab.packages` gets those of the ordinary run, before its tests. Who runs a test
by itself gets what it needs from a fixture of its module: a test's own network namespace leads
nowhere. Several may want the same at once: one gets it, and the others wait.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
UFW = ("ufw",)
PIPX = (
    "pipx", "python3-argcomplete", "python3-packaging", "python3-userpath", "python3-click",
    "python3-platformdirs",
)  # fmt: skip
ZSH = ("zsh", "zsh-common")
FISH = ("fish", "fish-common")
ORDINARY = (ETCD, CNI_PLUGINS, BIRD, VTYSH, CONTAINERD, FIREWALLD, UFW, PIPX, ZSH, FISH)


class Unavailable(Exception):
    """What apt said."""


def _namespace() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


_OUTSIDE = _namespace()


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
    if not place.exists():
        assert _namespace() == _OUTSIDE, (
            "nothing can be downloaded in a test's own namespace: ask in a fixture of its module"
        )
        with _alone():
            _take_apart(names, place)
    return place


@contextmanager
def _alone() -> Iterator[None]:
    """While nobody else gets packages into this cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _take_apart(names: tuple[str, ...], place: Path) -> None:
    if place.exists():  # who was here before has made it
        return
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
        (work / "root").rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    """Get what the ordinary run needs; what cannot be had is told, and its tests are skipped."""
    for names in ORDINARY:
        try:
            taken_apart(names)
        except (Unavailable, OSError, subprocess.SubprocessError) as problem:
            sys.stderr.write(f"note: {problem}\n")


if __name__ == "__main__":
    main()
