"""Whether the blocks on record are this machine's: a copy of its disk has them on record, too.

The store remembers a digest of the machine id beside the first block that it has. Where that is
another machine's now, the store was copied, or the machine id changed: a person says which
(`hvtx cluster register`), and till then nothing is leased from the blocks and no VM with an address
of them is started. VMs that run go on.
"""

from __future__ import annotations

from hvtx.engine.runtime import Runtime
from hvtx.errors import HostRefused, Refused
from hvtx.host import machine
from hvtx.store import blocks as rows


def refuse_elsewhere(runtime: Runtime) -> None:
    """Refuse if the blocks on record are another machine's; nobody is asked.

    Raises Refused, and HostRefused where this machine has no id any more.
    """
    known = runtime.read(rows.machine)
    if known is not None and known != machine.machine():
        raise Refused(
            "store-cloned",
            "the blocks of addresses on record are those of another machine id: this host is a copy"
            " of the one that has them, or got a new id",
            hint="if the other one is gone for good, or never was: hvtx cluster register --yes;"
            " on a copy: --state-dir DIR with a store of its own, or remove its VMs and its store",
        )


def is_unconfirmed(runtime: Runtime) -> bool:
    """Whether a cluster gave blocks, and no machine is on record: an earlier program had them."""
    (identity, _), known = runtime.read(rows.seen), runtime.read(rows.machine)
    return identity is not None and known is None


def here() -> str | None:
    """The machine itself; None where it has no id, which a configuration's blocks do not need."""
    try:
        return machine.machine()
    except HostRefused:
        return None
