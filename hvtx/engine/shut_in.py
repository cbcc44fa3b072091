"""Whether this run is shut in by the sandbox of its unit, so that systemd is to start VMs."""

from __future__ import annotations

import os

AUTOSTART = "HVTX_AUTOSTART"
BY_SYSTEMD = "systemd-run"


def starts_vms() -> bool:
    """Whether systemd is to start what lives on: VMs, and networks' dnsmasq."""
    return os.environ.get(AUTOSTART) == BY_SYSTEMD
