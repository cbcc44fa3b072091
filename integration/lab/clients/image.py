"""The root file system of a host with container runtimes that call CNI plugins.

It is a directory in ``.cache/clients``: made once (two minutes, 0.7 GB), then the lower layer of every
host that a test makes. As a program it makes what is missing::

    sudo python -m integration.lab.clients.image
"""

from __future__ import annotations

import sys

from integration.lab.boot import image as boot
from integration.lab.boot.bootstrap import KeptRoot

CACHE = boot.TOP / ".cache" / "clients"
SUITE = "bookworm"  # containerd 1.6, podman 4.3 with its CNI backend, the plugins 1.1
PACKAGES = (
    "containerd", "runc", "podman", "conmon", "containernetworking-plugins",
    "iproute2", "iptables", "nftables", "procps", "util-linux", "busybox-static",
    "python3", "python3-venv", "ca-certificates",
)  # fmt: skip
PLUGINS = "/usr/lib/cni"  # where Debian's package has them


def _hooks() -> list[str]:
    """What mmdebstrap's shell does in the root ``$1`` once the packages are in (pure)."""
    # what of the hooks of a host that boots is about its units finds none here, and does no harm
    return [
        *boot.hooks(boot.dependencies()),
        'rm -rf "$1"/etc/cni/net.d/* "$1"/etc/resolv.conf; echo clients >"$1"/etc/hostname',
    ]


ROOT = KeptRoot(CACHE, "root", SUITE, PACKAGES, _hooks(), boot.dependencies())


if __name__ == "__main__":
    sys.exit(ROOT.main("root file system with container runtimes"))
