"""What people are told about a decision of gc: a sentence, and what is shown beside it."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """A sentence with fields in braces, and what it rests on beside what was seen of the object.

    ``evidence`` names it: "vm" (why the VM counts as alive or dead), "holders" (who has the device
    open), "hidden" (of a TAP: not every process could be asked what it has open).
    """

    text: str
    evidence: tuple[str, ...] = ()


_VM, _HOLDERS, _ALL = ("vm",), ("holders",), ("vm", "hidden")

# Marks and operations
MOVED = Words("an operation changed it while it was looked at")
WORKING = Words("an operation is working on it")
STRANGE = Words("recorded for an earlier life of this host, yet something of that name is there")
OTHER_MARK = Words("something is there in its place, without the recorded mark{mends}")
NO_MARK = Words("a rule of its shape is there, without its mark{mends}")
EDITED = Words("it carries its mark, and is not as it was taken over{mends}")

# VMs
RUNS = Words("its VM runs", _VM)
CANNOT_TELL = Words("its VM can be proven neither alive nor dead", _VM)
SIBLING_HELD = Words("its VM's device is held open, so all of the VM is kept", _VM)
SIBLING_UNSEEN = Words("it could not be seen whether its VM's device is held open", _VM)
STARTED_EARLIER = Words(
    "its VM was started in an earlier life of this host and is not proven dead", _VM
)
LEASED = Words("stays leased while VM {vm!r} is on record")
MADE_WHOLE = Words(
    "made whole by an interrupted start, and its VM runs: only the record is completed", _VM
)
LOST = Words("{gone}", _VM)
FLOWS_PAST = Words(
    "what was sent to its port before it was published may not all have ended, and goes past it",
    _VM,
)

# Networks
OF_NETWORK = Words("belongs to {owner}")
OF_NETWORK_GONE = Words("belongs to {owner} and is gone: `hvtx repair` puts it back")
USED = Words("a VM that runs uses it")
PERHAPS_USED = Words("a VM uses it that can be proven neither alive nor dead")

# Earlier lives of the host
RESTORED_ROW = Words("of an earlier life of this host; someone's save and restore brought it back")
REBOOTED = Words("on record for an earlier life of this host: only the record is closed")

# The owner is proven dead, or never was
UNREAD = Words("the host could not be read", _VM)
FLOWS_ONLY = Words(
    "its rules are gone, and what flows by them to its VM's addresses has not all ended", _VM
)
GONE = Words("on record and proven absent: only the record is closed", _VM)
HELD = Words("{key} is held open by {holders}", _HOLDERS)
OTHERS_ON_TOP = Words("others put something on it: {others}", _ALL)
ABANDONED = Words("made by an operation that was interrupted", _ALL)
RELEASE_INTERRUPTED = Words("its removal was interrupted", _ALL)
DEAD = Words("its VM is dead", _ALL)

# What carries a mark and is no row's object
OTHER_INSTALLATION = Words("marked by another installation of hvtx ({installation})")
UNREADABLE = Words("its mark has a form this program does not know")
UNRECORDED = Words("marked by this installation, but not on record: `hvtx explain` it")
LINK_OF_ANOTHER = Words("carries the mark of another object of ours")
LINK_OF_REMOVED = Words("carries the mark of an object that was removed")
OTHERS_ON_LINK = Words("others put something on it: {others}")
TOMBSTONE = Words("on record as removed, yet there with the very same mark")
CHANGED_COPY = Words("a changed copy of a rule of ours")
MARK_OF_RULE = Words("carries the mark of a rule of ours")
SURPLUS_WORKING = Words("a surplus copy, but an operation is working on it")
SURPLUS = Words("a surplus copy; one stays while its record does")
SERVES = Words("of an earlier start, and restored into the place of what is needed now")
RESTORED = Words("of an earlier life of this host; someone's restore brought it back")
