"""A real systemd-networkd for tests: in the test's network namespace, with files of its own.

It runs without systemd and D-Bus, in a mount namespace whose ``/run`` and ``/sys`` are its own. With
``/sys`` read-only it waits for no udev, as in a container. It reads ``.network`` files of
``/run/systemd/network`` of that namespace, reached through ``root``.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from integration.lab.waiting import until

PROGRAM = "/lib/systemd/systemd-networkd"
SECONDS = 20
_SETUP = """
set -e
mount -t tmpfs none /run
[ ! -d /etc/systemd/network ] || mount -t tmpfs none /etc/systemd/network
mount -t sysfs -o ro none /sys
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd/netif
echo lxc >/run/systemd/container
for name in "$@"; do printf '%s' "${name#*=}" >"/run/systemd/network/${name%%=*}"; done
exec /lib/systemd/systemd-networkd
"""


class Networkd:
    """The daemon, with its ``.network`` files; it runs from the beginning until `stop`."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = dict(files)
        self.start()

    def start(self) -> None:
        """Start it."""
        given = [f"{name}={text}" for name, text in self.files.items()]
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SETUP, "sh", *given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_LOG_TARGET": "console"},
        )

    def stop(self) -> None:
        """Stop it, as its service does."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """What `systemctl restart systemd-networkd` does."""
        self.stop()
        self.start()

    @property
    def root(self) -> Path:
        """The root directory as the daemon sees it."""
        return Path(f"/proc/{self.process.pid}/root")

    def state(self, ifindex: int) -> str:
        """What it makes of a link: pending, configuring, configured, unmanaged …; or nothing yet."""
        try:
            text = (self.root / f"run/systemd/netif/links/{ifindex}").read_text()
        except OSError:
            return ""
        found = [line for line in text.splitlines() if line.startswith("ADMIN_STATE=")]
        return found[0].partition("=")[2] if found else ""

    def awaits(self, ifindex: int, *states: str) -> None:
        """Wait until it has a link in one of these states."""
        until(f"networkd's {states} of {ifindex}", lambda: self.state(ifindex) in states, SECONDS)
