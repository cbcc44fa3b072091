"""Tables of routes that ``ip`` has names for: somebody means to use them, though they are empty."""

from __future__ import annotations

import glob
from contextlib import suppress

from hvtx.errors import HvtxError
from hvtx.host import paths

_PLACES = (
    "/usr/share/iproute2",
    "/usr/lib/iproute2",
    "/etc/iproute2",
)  # of packages, and one's own
_MOST = 1 << 20  # bytes of a file


def named_tables() -> frozenset[int]:
    """Their numbers; of a file that cannot be read none."""
    found: set[int] = set()
    for place in _PLACES:
        for path in (f"{place}/rt_tables", *glob.glob(f"{place}/rt_tables.d/*.conf")):
            with suppress(OSError, HvtxError):
                found |= numbers_in(paths.read_regular(path, _MOST).decode(errors="replace"))
    return frozenset(found)


def numbers_in(text: str) -> set[int]:
    """The numbers in such a file, as iproute2 reads it (pure): decimal, or after 0x."""
    found = set()
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 1:
            with suppress(ValueError):
                found.add(int(words[0], 16 if words[0][:2].lower() == "0x" else 10))
    return found
