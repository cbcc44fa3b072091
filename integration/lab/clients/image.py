"""The root file system of a host with container runtimes that call CNI plugins.

It is a directory in ``.cache/clients``: made once (two minutes, 0.7 GB), then the lower layer of every
host that a test makes. As a program it makes what is missing::

    sudo python -m integration.lab.clients.image
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from integration.lab.boot import image as boot

CACHE = boot.TOP / ".cache" / "clients"
SUITE = "bookworm"  # containerd 1.6, podman 4.3 with its CNI backend, the plugins 1.1
PACKAGES = (
    "containerd", "runc", "podman", "conmon", "containernetworking-plugins",
    "iproute2", "iptables", "nftables", "procps", "util-linux", "busybox-static",
    "python3", "python3-venv", "ca-certificates",
)  # fmt: skip
PLUGINS = "/usr/lib/cni"  # where Debian's package has them


def recipe() -> str:
    """A word that changes with whatever the image is made of."""
    parts = [SUITE, *PACKAGES, *boot.dependencies(), *_hooks()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def path() -> Path:
    """Where the image is, or will be."""
    return CACHE / f"root-{SUITE}-{recipe()}"


def _hooks() -> list[str]:
    """What mmdebstrap's shell does in the root ``$1`` once the packages are in (pure)."""
    # what of the hooks of a host that boots is about its units finds none here, and does no harm
    return [
        *boot._hooks(boot.dependencies()),
        'rm -rf "$1"/etc/cni/net.d/* "$1"/etc/resolv.conf; echo clients >"$1"/etc/hostname',
    ]


def root() -> Path:
    """The image; made if it is not there. Unavailable: what it needs is not to be had here."""
    place = path()
    if place.exists():
        return place
    if shutil.which("mmdebstrap") is None:
        raise boot.Unavailable("mmdebstrap is missing: apt-get install mmdebstrap")
    CACHE.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix="part-", dir=CACHE))
    argv = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(PACKAGES)}"]
    argv += ['--aptopt=Acquire::Retries "3"', '--aptopt=APT::Sandbox::User "root"']
    argv += [f"--customize-hook={hook}" for hook in _hooks()]
    if os.path.exists(boot.KEYS):
        argv += [f"--keyring={boot.KEYS}"]
    try:
        boot.run(*argv, SUITE, str(part), seconds=1800, cwd="/")
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    part.chmod(0o755)
    for old in CACHE.glob(f"root-{SUITE}-*"):
        shutil.rmtree(old, ignore_errors=True)
    part.rename(place)
    return place


def main() -> int:
    """Make what is missing and say where it is."""
    try:
        sys.stdout.write(f"root file system with container runtimes: {root()}\n")
    except boot.Unavailable as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
