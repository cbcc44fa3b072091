"""The wording of gc's decisions: a sentence, and the evidence beside it."""

from __future__ import annotations

from hvtx.model.typed import NamedTuple


class Words(NamedTuple):
    """A sentence with fields in braces, and what it rests on beside what was seen of the object.

    ``evidence`` names it: "vm" (why the VM counts as alive or dead), "holders" (who has the device
    open), "hidden" (of a TAP: not every process could be asked what it has open).
    """

    text: str
    evidence: tuple[str, ...] = ()


_VM, _HOLDERS, _ALL = ("vm",), ("holders",), ("vm", "hidden")

# Marks and operations
MOVED = Words("an operation changed it while it was inspected")
WORKING = Words("an operation is working on it")
STRANGE = Words("recorded for an earlier life of this host, yet an object of that name exists")
OTHER_MARK = Words("an object without the recorded mark is in its place{fixes}")
NO_MARK = Words("a rule like it exists, without its mark{fixes}")
EDITED = Words("it carries its mark, but somebody changed it{fixes}")

# VMs
RUNS = Words("its VM runs", _VM)
CANNOT_TELL = Words("cannot tell whether its VM is running", _VM)
SIBLING_HELD = Words("its VM's TAP is open in another process; keeping everything of this VM", _VM)
SIBLING_UNSEEN = Words("cannot tell whether its VM's device is in use", _VM)
PORT_USED = Words("stays with its container's port, which foreign resources use", _VM)
PORT_STRANGE = Words("stays with its container's port, which does not carry its mark", _VM)
STARTED_EARLIER = Words(
    "its VM was started in an earlier life of this host and is not proven dead", _VM
)
LEASED = Words("stays leased while VM {vm!r} is on record")
MADE = Words("created by an interrupted start and in use: marking the record committed", _VM)
MADE_AND_GONE = Words("created by an interrupted start: marking the record committed; {gone}", _VM)
LOST = Words("{gone}", _VM)
FLOWS_PAST = Words(
    "flows to its port from before it was published may not all have ended, and bypass it",
    _VM,
)

# Networks
OF_NETWORK = Words("belongs to {owner}")
OF_NETWORK_GONE = Words("belongs to {owner} and is gone: `hvtx repair` puts it back")
USED = Words("a running VM uses it")
PERHAPS_USED = Words("used by a VM of which hvtx cannot tell whether it is running")

# Earlier lives of the host
RESTORED_ROW = Words("of an earlier life of this host; someone's save and restore brought it back")
REBOOTED = Words("on record for an earlier life of this host: closing the record")

# The owner is proven dead, or never was
UNREAD = Words("the host could not be read", _VM)
FLOWS_ONLY = Words(
    "its rules are gone, but connections to its VM's addresses have not all ended", _VM
)
GONE = Words("on record and proven absent: closing the record", _VM)
HELD = Words("{key} is held open by {holders}", _HOLDERS)
OTHERS_ON_TOP = Words("foreign resources use it: {others}", _ALL)
ABANDONED = Words("made by an operation that was interrupted", _ALL)
RELEASE_INTERRUPTED = Words("its removal was interrupted", _ALL)
DEAD = Words("its VM is dead", _ALL)
LEASED_BY_DEAD = Words("its container is gone, and its record goes with it", _ALL)

# What carries a mark and is no row's object
OTHER_INSTALLATION = Words("marked by another installation of hvtx ({installation})")
UNREADABLE = Words("its mark has a form this program does not know")
UNRECORDED = Words("marked by this installation, but not on record: `hvtx explain` it")
LINK_OF_ANOTHER = Words("carries the mark of another object of ours")
LINK_OF_REMOVED = Words("carries the mark of an object that was removed")
OTHERS_ON_LINK = Words("foreign resources use it: {others}")
TOMBSTONE = Words("on record as removed, yet it exists with the same mark")
CHANGED_COPY = Words("a changed copy of a rule of ours")
MARK_OF_RULE = Words("carries the mark of a rule of ours")
SURPLUS_WORKING = Words("a surplus copy, but an operation is working on it")
SURPLUS = Words("a surplus copy; one stays while its record does")
SERVES = Words("of an earlier start, and restored into the place of what is needed now")
RESTORED = Words("of an earlier life of this host; someone's restore brought it back")
