"""Values of adoption: claims, facts and findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.resource import Link, link_called
from hvtx.model.typed import NamedTuple, StrEnum
from hvtx.model.vm import Liveness, ProcessFacts

TOOL = "my-hypervisor"
OPERATOR = "the operator"


class Why(StrEnum):
    """Why something of a ``state.json`` is not taken over."""

    NO_OWNERSHIP = "no-ownership"  # an older file: it says nothing of the network
    UNREADABLE = "unreadable"
    NOT_BELIEVED = "not-believed"
    GONE = "already-gone"
    NOT_A_TAP = "not-a-tap"
    OTHER_BRIDGE = "other-bridge"
    HAS_ALIAS = "has-alias"
    HELD_BY_OTHERS = "held-by-others"
    ON_RECORD = "on-record"
    CLAIMED_TWICE = "claimed-twice"
    NOT_UNDERSTOOD = "not-understood"
    NOT_UNIQUE = "not-unique"
    MARKED = "marked"
    NOT_ITS_OWN = "not-its-own"
    NAME_TAKEN = "name-taken"
    VM_NOT_TAKEN = "vm-not-taken"
    NOT_LOOKED_AT = "liveness-unknown"  # its process could not be inspected
    OBSERVE_FAILED = "observe-failed"  # what is there could not be read, so nothing is gone


class Claim(NamedTuple):
    """What one ``state.json`` says."""

    path: str
    id: str
    name: str
    status: str | None
    pid: int | None
    device: str | None
    bridge: str | None
    ip: str | None
    rules: tuple[str, ...]
    owns: bool  # whether it says anything of the network
    spelling: Mapping[str, str]  # field -> where it stood
    by: str = TOOL  # whose word it is
    called: str = ""  # the device as it was named, if that was an alternative name

    @property
    def by_operator(self) -> bool:
        """Whether a person answers for it."""
        return self.by == OPERATOR


def by_own_names(claims: Iterable[Claim], links: Sequence[Link]) -> list[Claim]:
    """The claims with their devices' own names, by which they are held, recorded and compared."""
    found = []
    for claim in claims:
        link = link_called(links, claim.device) if claim.device else None
        other = link is not None and link.name != claim.device
        found.append(
            claim._replace(device=link.name, called=claim.device or "") if link and other else claim
        )
    return found


class AdoptFacts(NamedTuple):
    """The host and the record, as far as claims need them."""

    links: Sequence[Link]
    holders: Mapping[str, tuple[int, ...]]  # device -> pids
    rules: Sequence[ForeignRule]
    processes: Mapping[int, ProcessFacts]
    recorded: Mapping[str, str]  # device on record -> VM id of hvtx, or ""
    names: Mapping[str, str]  # VM name on record -> its id


class Finding(NamedTuple):
    """One thing of a VM: proven (then ``link`` or ``rule`` is set), or why not."""

    kind: str  # of hvtx's resources, "rule" where it is not proven
    key: str
    proven: bool
    reason: str
    message: str
    evidence: tuple[str, ...] = ()
    link: Link | None = None
    rule: ForeignRule | None = None
    idle: bool = False  # of a device: nobody was seen to hold it


class Verdict(NamedTuple):
    """What is proven of one claim; ``reason`` is empty if the VM can be taken over."""

    claim: Claim
    vm_id: str
    vm_name: str
    liveness: Liveness
    process: str  # why that liveness, in words
    reason: str
    message: str
    findings: tuple[Finding, ...]
