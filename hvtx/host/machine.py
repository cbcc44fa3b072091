"""Which machine this is, and what it is called."""

from __future__ import annotations

import hashlib
import os

from hvtx.errors import HostRefused

MACHINE_ID = "/etc/machine-id"  # machine-id(5): unique, of one installation of a system


def machine() -> str:
    """A digest of the machine id, which is not to be shown around (machine-id(5)).

    Raises HostRefused where there is none: a copy of this host could not be told from it.
    """
    try:
        with open(MACHINE_ID, encoding="ascii") as file:
            text = file.read().strip()
    except (OSError, ValueError):
        text = ""
    if len(text) != 32:
        raise HostRefused(
            f"this host has no machine id in {MACHINE_ID}, so that a copy of it would pass for it",
            hint="systemd-machine-id-setup",
        )
    return hashlib.sha256(b"hvtx cluster " + text.encode()).hexdigest()[:32]


def host_name() -> str:
    """The host's name."""
    return os.uname().nodename
