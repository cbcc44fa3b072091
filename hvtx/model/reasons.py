"""The meaning of each reason of a plan, and why gc does no more.

Apart from :mod:`hvtx.model.plan`, which every hot command loads; only documents speak these.
"""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.model.plan import DELETING, Action
from hvtx.model.reason import Reason

MEANING: Mapping[Reason, str] = {
    Reason.VM_DEAD: "committed, mark verified, its VM's process is proven dead",
    Reason.INTENT_ABANDONED: "intended, mark verified, the operation no longer runs, no VM uses it",
    Reason.RELEASE_INTERRUPTED: "releasing, mark verified, the operation no longer runs",
    Reason.RELEASED_LEFTOVER: "on record as released, yet there, with the very same mark",
    Reason.STALE_RESTORED: "a rule of an earlier life that a save and restore brought back",
    Reason.REPLACED: "releasing: a change of its VM or network took it, and was interrupted",
    Reason.DUPLICATE_COPY: "surplus identical copies of a marked rule; one stays",
    Reason.FLOWS_REMAIN: "tracked connections past its rules are not proven to have ended",
    Reason.IN_USE_BEFORE_COMMIT: "intended by an interrupted start, its VM lives: it is committed",
    Reason.CHANGE_INTERRUPTED: "intended by an interrupted change of a VM or network: it is made",
    Reason.ALREADY_GONE: "on record, proven absent",
    Reason.REBOOTED: "on record for an earlier life of this host",
    Reason.VM_ALIVE: "the VM's process is alive",
    Reason.LIVENESS_UNKNOWN: "it can be proven neither alive nor dead",
    Reason.RESERVED: "belongs to a VM or network on record that has not died",
    Reason.OPERATION_RUNNING: "a live process is working on it",
    Reason.IN_USE: "some process holds the device open, whatever the record says",
    Reason.FOREIGN: "no mark of hvtx",
    Reason.FOREIGN_DEPENDENTS: "ours and collectable, but strangers put something on top",
    Reason.OTHER_INSTALLATION: "marked by another hvtx store",
    Reason.UNRECORDED: "marked by this installation, but neither on record nor a tombstone",
    Reason.MARK_MISMATCH: "something with the recorded name is there without the recorded mark",
    Reason.MARK_UNREADABLE: "a mark of ours in a form this program does not know",
    Reason.MARK_STRIPPED: "a rule of the recorded shape without its mark",
    Reason.DUPLICATE_MARK: "the mark stands on a second object",
    Reason.EDITED_COPY: "the mark stands on a changed copy",
    Reason.LOST: "on record, gone, and its VM is alive: see its message for the fix",
    Reason.OBSERVE_FAILED: "the host could not be read",
    Reason.CONTENDED: "the host changed too fast to act safely",
}

_DELETES = "gc --apply verifies all of this again, then removes it"
_CLOSES = "there is nothing to remove: gc --apply only closes the record"

# Why no more is done, and what would have to be so for more to be done.
EXPLANATION: Mapping[Reason, str] = {
    **dict.fromkeys(DELETING, _DELETES),
    Reason.FLOWS_REMAIN: "gc --apply ends what still flows, and tries again until all has ended",
    Reason.IN_USE_BEFORE_COMMIT: "it is in use: gc --apply only completes the record",
    Reason.CHANGE_INTERRUPTED: "gc --apply carries the change through, and completes the record",
    Reason.ALREADY_GONE: _CLOSES,
    Reason.REBOOTED: _CLOSES,
    Reason.VM_ALIVE: "gc removes nothing of a running VM; `hvtx vm stop` releases it",
    Reason.LIVENESS_UNKNOWN: (
        "if it cannot be proven dead, it is treated as alive; `hvtx vm attach` names its process"
    ),
    Reason.RESERVED: "it goes with its VM or network: `hvtx vm rm`, `hvtx network rm`",
    Reason.OPERATION_RUNNING: "gc leaves it to that operation; `hvtx intents` shows it",
    Reason.IN_USE: "removing it would cut off the process that has it open; end that process first",
    Reason.FOREIGN: (
        "without hvtx's mark nothing proves that it may be removed; its owner can remove it"
    ),
    Reason.FOREIGN_DEPENDENTS: (
        "foreign resources on it would be removed with it; once they are gone, gc removes it"
    ),
    Reason.OTHER_INSTALLATION: "only the store that marked it may remove it: run its own hvtx",
    Reason.UNRECORDED: (
        "an older copy of the store may be in use, which knows less than the host;"
        " if nothing needs it: `hvtx gc --apply --unrecorded`"
    ),
    Reason.MARK_MISMATCH: (
        "without the recorded mark nothing proves that it is what was recorded;"
        " once it is gone, gc closes the record"
    ),
    Reason.MARK_UNREADABLE: "a newer hvtx may have made it: use that one",
    Reason.MARK_STRIPPED: (
        "without its mark it may be anybody's; once it is gone, gc closes the record"
    ),
    Reason.DUPLICATE_MARK: "a mark proves one object only, and this is a different one",
    Reason.EDITED_COPY: "somebody changed it, so it is no longer what was recorded",
    Reason.LOST: "there is nothing to remove; its message says what brings it back",
    Reason.OBSERVE_FAILED: "a failed query proves neither presence nor absence",
    Reason.CONTENDED: "run gc again when no other program changes the host",
}

# The same of attachments, which have the network namespace of a container in place of a process.
_OF_ATTACHMENTS: Mapping[Reason, str] = {
    Reason.VM_ALIVE: (
        "gc removes nothing of a container that lives; its runtime's DEL releases it, or `hvtx vm"
        " rm {vm} --force`"
    ),
    Reason.LIVENESS_UNKNOWN: (
        "if its namespace cannot be proven gone, it is treated as alive; `hvtx vm rm {vm} --force`"
        " releases it"
    ),
}


def explanation_of(reason: Reason, attachment: str | None = None) -> str:
    """Why no more is done; ``attachment`` is the VM that stands for one, if it is about one."""
    if attachment is not None and reason in _OF_ATTACHMENTS:
        return _OF_ATTACHMENTS[reason].format(vm=attachment)
    return EXPLANATION[reason]


def action_of(reason: Reason) -> Action:
    """The action that a reason belongs to (``unrecorded`` deletes only where it was asked for)."""
    if reason in DELETING:
        return Action.DELETE
    if reason in (Reason.IN_USE_BEFORE_COMMIT, Reason.CHANGE_INTERRUPTED):
        return Action.COMMIT
    if reason in (Reason.ALREADY_GONE, Reason.REBOOTED):
        return Action.FORGET
    return Action.SKIP
