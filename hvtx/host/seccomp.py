"""Detection of QEMU's seccomp support without running it."""

from __future__ import annotations

import mmap

# `qemu -help`: no obsolete call, no change of ids, no program started, no limits changed
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_LIBRARY = b"libseccomp.so."


def sandbox_of(binary: str) -> str | None:
    """The value of ``-sandbox`` for this QEMU; None where it was built without the library.

    One without it refuses the option and ends; of a script, or a QEMU that is linked statically,
    nothing is known, and it is started without.
    """
    try:
        with open(binary, "rb") as file:
            if file.read(4) != b"\x7fELF":
                return None
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as image:
                return SANDBOX if image.find(_LIBRARY) >= 0 else None
    except (OSError, ValueError):
        return None
