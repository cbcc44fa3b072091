"""The cases of gc's decision table: few fields with few values each."""

from __future__ import annotations

from hvtx.model.reason import Reason
from hvtx.model.typed import NamedTuple, StrEnum


class Owner(StrEnum):
    """Whose a row is."""

    VM = "vm"
    NETWORK = "network"  # or the installation's, which all its networks share


class RowEpoch(StrEnum):
    """Whether a row was made in this life of the host (boot, and network namespace)."""

    NOW = "now"
    EARLIER = "earlier"


class Seen(StrEnum):
    """Whether the row's object is on the host, with its very mark."""

    PRESENT = "present"
    ABSENT = "absent"
    UNREAD = "unread"  # the host could not be read, or something else is in its place


class Work(StrEnum):
    """What running operations do with it."""

    NONE = "none"
    RUNNING = "running"  # one that made or removes it, or that works on its VM
    MOVED = "moved"  # its row was changed while the host was read


class Alive(StrEnum):
    """The VM that owns the row; for a network's row: the VMs that use it, the liveliest first."""

    ALIVE = "alive"
    UNKNOWN = "unknown"  # it can be proven neither alive nor dead
    DEAD = "dead"
    NOBODY = "nobody"  # no such VM is on record; of a network: no VM uses it


class Held(StrEnum):
    """Who has a TAP device of the VM open, or why its container's port has to stay."""

    NO = "no"
    ITSELF = "itself"  # the row is that TAP's
    SIBLING = "sibling"  # the row is another of that VM's
    UNSEEN = "unseen"  # it could not be inspected
    USED_PORT = "used port"  # the row guards a container's port, on which others' things stand
    STRANGE_PORT = "strange port"  # the same, and the port does not carry its mark


class Flows(StrEnum):
    """What is left of tracked connections by the rules of a firewall row."""

    NONE = "none"
    PAST = "past"  # from before the port was published, going past its rules
    ONLY = "only"  # the rules are gone, connections by them are not


class RowCase(NamedTuple):
    """What is known of a row when it is judged."""

    owner: Owner
    kind: str
    state: str
    life: RowEpoch
    seen: Seen
    problem: Reason | None
    work: Work
    vm: Alive
    held: Held
    flows: Flows
    others: bool  # somebody else put something on it
    passing: bool = False  # a lease of a VM whose record goes with it


class Whose(StrEnum):
    """Whose mark an object carries."""

    OURS = "ours"
    OTHERS = "others"  # another installation's
    UNREADABLE = "unreadable"  # of a form that this program does not know


class Record(StrEnum):
    """What is on record under an object's mark."""

    NOTHING = "nothing"
    LIVE = "live"  # a row whose object is another, or a copy of this
    REMOVED = "removed"  # a tombstone: its object was removed


class Likeness(StrEnum):
    """How an object is to the one that is on record under its mark."""

    SAME = "same"
    PLACE = "place"  # it stands in the same chain or set, and is another
    NONE = "none"


class LinkCase(NamedTuple):
    """A device with a mark that is no row's."""

    whose: Whose
    record: Record
    likeness: Likeness
    held: bool
    others: bool


class EntryCase(NamedTuple):
    """A firewall object with a mark that is no row's, or is there once too often."""

    whose: Whose
    record: Record
    likeness: Likeness
    life: RowEpoch
    working: bool
    serves: Reason | None  # why the owner of what belongs in its place needs it
