"""The state of a guest as its hypervisor reports it; not the liveness of the process."""

from __future__ import annotations

from hvtx.model.typed import StrEnum


class Guest(StrEnum):
    """The words of the interface (``guest`` in the JSON of a VM)."""

    RUNNING = "running"
    PAUSED = "paused"  # its processors stand still and could go on
    INTERNAL_ERROR = "internal-error"  # the hypervisor cannot run it any further
    PANICKED = "panicked"
    SHUTDOWN = "shutdown"  # switched off, while its hypervisor stays
    IO_ERROR = "io-error"  # stopped at a disk that could not be read or written
    UNKNOWN = "unknown"  # nobody can be asked, or nobody answered in time


CANNOT_GO_ON = frozenset({Guest.INTERNAL_ERROR, Guest.PANICKED, Guest.SHUTDOWN, Guest.IO_ERROR})
"""A guest that is found so right after its start was never up."""

CANNOT_ANSWER = CANNOT_GO_ON | {Guest.PAUSED}
"""No processor of such a guest runs, so it cannot react to a power button."""

NOTES = {
    Guest.PAUSED: "the guest is paused: it does not run until somebody continues it",
    Guest.INTERNAL_ERROR: "the hypervisor stopped the guest by an internal error: `hvtx vm logs`"
    " tells more; it runs again after a stop and a start",
    Guest.PANICKED: "the guest's kernel panicked: `hvtx vm logs` tells more; it runs again after a"
    " stop and a start",
    Guest.SHUTDOWN: "the guest has switched itself off: `hvtx vm stop` releases what it held",
    Guest.IO_ERROR: "the guest is stopped at a disk that could not be read or written: look at the"
    " disk and at the free space around it",
}
"""What a person is told of a guest that does not run."""
