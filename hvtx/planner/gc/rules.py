"""The decision table of gc: what is collectable and why; what is not, and why not.

The first rule that fits decides. The reasons come in the order of the interface: marks,
``operation-running``, ``vm-alive``, ``liveness-unknown``, ``reserved``, ``in-use``,
``foreign-dependents``, then the reasons to delete. A deletion needs all three: the row, its very
mark on the object, and an owner proven dead (or an operation that no longer runs).

tests/planner/test_table.py says the same a second time, and compares every cell.
"""

from __future__ import annotations

from hvtx.model.plan import Action
from hvtx.model.reason import Reason
from hvtx.model.resource import FIREWALL_KINDS, Kind, State
from hvtx.planner.gc import wording as say
from hvtx.planner.gc.cases import (
    Alive,
    Flows,
    Held,
    Likeness,
    Owner,
    Record,
    RowEpoch,
    Seen,
    Whose,
    Work,
)
from hvtx.planner.gc.table import decider, rule

_SKIP, _DELETE, _FORGET, _COMMIT = Action.SKIP, Action.DELETE, Action.FORGET, Action.COMMIT
_VM, _NETWORK = {"owner": Owner.VM}, {"owner": Owner.NETWORK}
_LIVE_VM = {"owner": Owner.VM, "vm": Alive.ALIVE}
_INTENDED = {"state": State.INTENDED}
_COMMITTED = {"state": State.COMMITTED}
_EARLIER = {"life": RowEpoch.EARLIER}
_FIREWALL = tuple(sorted(FIREWALL_KINDS))
_NOT_FILES = tuple(sorted(set(Kind) - {Kind.FILE}))
_NOT_DEAD = (Alive.ALIVE, Alive.UNKNOWN, Alive.NOBODY)
_UNKNOWN = (Alive.UNKNOWN, Alive.NOBODY)  # whoever is not on record cannot be proven dead

_MARKS = (
    rule(_SKIP, Reason.OPERATION_RUNNING, say.MOVED, work=Work.MOVED),
    rule(_SKIP, Reason.MARK_MISMATCH, say.STRANGE, problem=Reason.MARK_MISMATCH, **_EARLIER),
    rule(_SKIP, Reason.MARK_STRIPPED, say.STRANGE, problem=Reason.MARK_STRIPPED, **_EARLIER),
    rule(_SKIP, Reason.EDITED_COPY, say.STRANGE, problem=Reason.EDITED_COPY, **_EARLIER),
    rule(_SKIP, Reason.MARK_MISMATCH, say.OTHER_MARK, problem=Reason.MARK_MISMATCH),
    rule(_SKIP, Reason.MARK_STRIPPED, say.NO_MARK, problem=Reason.MARK_STRIPPED),
    rule(_SKIP, Reason.EDITED_COPY, say.EDITED, problem=Reason.EDITED_COPY),
    rule(_SKIP, Reason.OPERATION_RUNNING, say.WORKING, work=Work.RUNNING),
)

# A committed lease stays while its VM is on record, dead or alive, in whichever life it was made.
_LEASE = {"kind": Kind.LEASE, "state": State.COMMITTED}
_LEASES = (
    rule(_SKIP, Reason.VM_ALIVE, say.RUNS, vm=Alive.ALIVE, **_LEASE),
    rule(_SKIP, Reason.LIVENESS_UNKNOWN, say.CANNOT_TELL, vm=_UNKNOWN, **_LEASE),
    rule(_SKIP, Reason.VM_ALIVE, say.SIBLING_HELD, held=Held.SIBLING, **_LEASE),
    rule(
        _DELETE, Reason.VM_DEAD, say.LEASED_BY_DEAD,
        passing=True, vm=Alive.DEAD, held=Held.NO, seen=Seen.PRESENT, **_LEASE,
    ),
    rule(_SKIP, Reason.RESERVED, say.LEASED, **_LEASE),
)  # fmt: skip

# Within one boot a new life proves no VM dead. A run directory on a disk outlives the boot, and is
# judged as one of now.
_EARLIER_LIVES = (
    rule(_SKIP, Reason.VM_ALIVE, say.STARTED_EARLIER, **_LIVE_VM, **_EARLIER),
    rule(_SKIP, Reason.LIVENESS_UNKNOWN, say.STARTED_EARLIER, vm=Alive.UNKNOWN, **_VM, **_EARLIER),
    rule(
        _DELETE, Reason.STALE_RESTORED, say.RESTORED_ROW,
        kind=_FIREWALL, seen=Seen.PRESENT, **_EARLIER,
    ),
    rule(_FORGET, Reason.REBOOTED, say.REBOOTED, seen=(Seen.ABSENT, Seen.UNREAD), **_EARLIER),
    rule(_FORGET, Reason.REBOOTED, say.REBOOTED, kind=_NOT_FILES, **_EARLIER),
)  # fmt: skip

_STANDING = {**_NETWORK, **_COMMITTED}
_NETWORKS = (
    rule(_SKIP, Reason.LOST, say.OF_NETWORK_GONE, seen=Seen.ABSENT, vm=Alive.ALIVE, **_STANDING),
    rule(_SKIP, Reason.RESERVED, say.OF_NETWORK_GONE, seen=Seen.ABSENT, **_STANDING),
    rule(_SKIP, Reason.RESERVED, say.OF_NETWORK, **_STANDING),
    rule(_SKIP, Reason.VM_ALIVE, say.USED, vm=Alive.ALIVE, **_NETWORK),
    rule(_SKIP, Reason.LIVENESS_UNKNOWN, say.PERHAPS_USED, vm=Alive.UNKNOWN, **_NETWORK),
)

# A gate opens only after all was made: what is missing of a VM that runs went since, or was taken.
# Committed it is `lost`, which `repair` puts back; intended, nobody would ever look for it.
_VMS = (
    rule(
        _DELETE, Reason.FLOWS_REMAIN, say.FLOWS_PAST,
        flows=Flows.PAST, seen=Seen.PRESENT, vm=_NOT_DEAD, **_VM, **_COMMITTED,
    ),
    rule(
        _COMMIT, Reason.IN_USE_BEFORE_COMMIT, say.MADE,
        seen=Seen.PRESENT, **_INTENDED, **_LIVE_VM,
    ),
    rule(
        _COMMIT, Reason.IN_USE_BEFORE_COMMIT, say.MADE_AND_GONE,
        seen=Seen.ABSENT, **_INTENDED, **_LIVE_VM,
    ),
    rule(_SKIP, Reason.LOST, say.LOST, seen=Seen.ABSENT, **_LIVE_VM, **_COMMITTED),
    rule(_SKIP, Reason.VM_ALIVE, say.RUNS, **_LIVE_VM),
    rule(_SKIP, Reason.LIVENESS_UNKNOWN, say.CANNOT_TELL, vm=_UNKNOWN, **_VM),
    rule(_SKIP, Reason.VM_ALIVE, say.SIBLING_HELD, held=Held.SIBLING, **_VM),
    rule(_SKIP, Reason.OBSERVE_FAILED, say.SIBLING_UNSEEN, held=Held.UNSEEN, **_VM),
    rule(_SKIP, Reason.FOREIGN_DEPENDENTS, say.PORT_USED, held=Held.USED_PORT, **_VM),
    rule(_SKIP, Reason.MARK_MISMATCH, say.PORT_STRANGE, held=Held.STRANGE_PORT, **_VM),
)  # fmt: skip

# The owner is proven dead, or never was.
_COLLECT = (
    rule(_SKIP, Reason.OBSERVE_FAILED, say.UNREAD, seen=Seen.UNREAD),
    rule(_DELETE, Reason.FLOWS_REMAIN, say.FLOWS_ONLY, seen=Seen.ABSENT, flows=Flows.ONLY),
    rule(_FORGET, Reason.ALREADY_GONE, say.GONE, kind=(Kind.PROCESS, Kind.NETNS), **_VM),
    rule(_FORGET, Reason.ALREADY_GONE, say.GONE, seen=Seen.ABSENT),
    rule(_SKIP, Reason.IN_USE, say.HELD, held=Held.ITSELF),
    rule(_SKIP, Reason.FOREIGN_DEPENDENTS, say.OTHERS_ON_TOP, others=True),
    rule(_DELETE, Reason.INTENT_ABANDONED, say.ABANDONED, **_INTENDED),
    rule(_DELETE, Reason.RELEASE_INTERRUPTED, say.RELEASE_INTERRUPTED, state=State.RELEASING),
    rule(_DELETE, Reason.VM_DEAD, say.DEAD, **_VM),
)

ROW_RULES = (*_MARKS, *_LEASES, *_EARLIER_LIVES, *_NETWORKS, *_VMS, *_COLLECT)

_FOREIGN_MARKS = (
    rule(_SKIP, Reason.OTHER_INSTALLATION, say.OTHER_INSTALLATION, whose=Whose.OTHERS),
    rule(_SKIP, Reason.MARK_UNREADABLE, say.UNREADABLE, whose=Whose.UNREADABLE),
)

LINK_RULES = (
    *_FOREIGN_MARKS,
    rule(_SKIP, Reason.DUPLICATE_MARK, say.LINK_OF_ANOTHER, record=Record.LIVE),
    rule(_SKIP, Reason.UNRECORDED, say.UNRECORDED, record=Record.NOTHING),
    rule(_SKIP, Reason.DUPLICATE_MARK, say.LINK_OF_REMOVED, likeness=Likeness.NONE),
    rule(_SKIP, Reason.IN_USE, say.HELD, held=True),
    rule(_SKIP, Reason.FOREIGN_DEPENDENTS, say.OTHERS_ON_LINK, others=True),
    rule(_DELETE, Reason.RELEASED_LEFTOVER, say.TOMBSTONE),
)

_NEEDED = (Reason.OPERATION_RUNNING, Reason.VM_ALIVE, Reason.LIVENESS_UNKNOWN, Reason.RESERVED)
_LIVE = {"record": Record.LIVE}
ENTRY_RULES = (
    *_FOREIGN_MARKS,
    rule(_SKIP, Reason.UNRECORDED, say.UNRECORDED, record=Record.NOTHING),
    rule(_SKIP, Reason.EDITED_COPY, say.CHANGED_COPY, likeness=Likeness.PLACE),
    rule(_SKIP, Reason.DUPLICATE_MARK, say.MARK_OF_RULE, likeness=Likeness.NONE),
    rule(_SKIP, Reason.OPERATION_RUNNING, say.SURPLUS_WORKING, working=True, **_LIVE),
    rule(_DELETE, Reason.DUPLICATE_COPY, say.SURPLUS, **_LIVE),
    *(rule(_SKIP, reason, say.SERVES, serves=reason) for reason in _NEEDED),
    rule(_DELETE, Reason.STALE_RESTORED, say.RESTORED, life=RowEpoch.EARLIER),
    rule(_DELETE, Reason.RELEASED_LEFTOVER, say.TOMBSTONE),
)

decide_row = decider(ROW_RULES)
decide_link = decider(LINK_RULES)
decide_entry = decider(ENTRY_RULES)
