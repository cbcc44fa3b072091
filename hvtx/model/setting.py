"""The settings by name: of whoever passes them on, none may be left behind.

The table ``[cluster]`` is not among them, since only a file can hold it.
"""

from __future__ import annotations

PATHS = ("state_dir", "run_dir", "config")
NUMBERS = ("lock_timeout", "history_lines")
TEXTS = ("firewall", "egress", "dhcp", "group", "tap_user", "vm_user")
EVERY = (*PATHS, *NUMBERS, *TEXTS)


def cni_key(name: str) -> str:
    """The key of a setting in the configuration of the CNI plugin (pure)."""
    first, *more = name.split("_")
    return first + "".join(word.capitalize() for word in more)
