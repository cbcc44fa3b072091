"""Whether ufw is turned on: what a reload of firewalld takes from it, it loads again."""

from __future__ import annotations

from hvtx.host import paths

CONFIGURATION = "/etc/ufw/ufw.conf"
_MOST = 1 << 16


def is_enabled() -> bool:
    """Whether its configuration says so, ufw.conf; False where it cannot be read."""
    try:
        text = paths.read_regular(CONFIGURATION, _MOST).decode(errors="replace")
    except OSError:
        return False
    return any(line.strip().lower() == "enabled=yes" for line in text.splitlines())
