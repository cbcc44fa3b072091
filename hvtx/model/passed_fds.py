"""Open descriptors that are passed to a VM process."""

from __future__ import annotations

from hvtx.model.typed import NamedTuple

FIRST_HANDED = 4  # below it are the standard streams, and the pipe that a gate waits at
TAP, TAP_QUEUE, VHOST = "tap", "tap queue", "vhost"


class PassedDescriptors(NamedTuple):
    """One descriptor; the first is :data:`FIRST_HANDED`, the others follow in order."""

    # TAP, TAP_QUEUE (one of several), VHOST, "disk" (to write), "read-only disk", "kernel",
    # "initrd", "program"
    what: str
    path: str  # of the file; the name of the TAP
