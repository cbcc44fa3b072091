"""The input of the deciders (a snapshot of record and host) and their output (a plan).

A plan is a value: it says for every item what to do and why; executing it is another room's work,
and printing it yet another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from hvtx.model.reason import Reason
from hvtx.model.resource import Address, Entry, Link, Resource
from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple
from hvtx.model.vm import Epoch, Liveness, ProcessFacts

if TYPE_CHECKING:
    from hvtx.model.foreign_rule import ForeignRule


class Action(StrEnum):
    """What a plan wants of an item."""

    DELETE = "delete"
    COMMIT = "commit"
    FORGET = "forget"
    SKIP = "skip"


class Ground(StrEnum):
    """What a proposal of the emergency mode to delete rests on; none is proof."""

    NAME = "guess-name"
    SUBNET = "guess-subnet"
    DEVICE = "guess-device"


DELETING = frozenset(
    {
        Reason.VM_DEAD,
        Reason.INTENT_ABANDONED,
        Reason.RELEASE_INTERRUPTED,
        Reason.RELEASED_LEFTOVER,
        Reason.STALE_RESTORED,
        Reason.REPLACED,
        Reason.DUPLICATE_COPY,
        Reason.FLOWS_REMAIN,
    }
)


class VmFacts(NamedTuple):
    """What is known of a VM when a plan is made."""

    name: str
    liveness: Liveness
    evidence: tuple[str, ...]
    provisional: bool  # made by a `vm run` that has not committed


class NetworkFacts(NamedTuple):
    """What is known of a network when a plan is made."""

    name: str
    subnets: tuple[str, ...]
    provisional: bool  # being made, or being removed


class OperationFacts(NamedTuple):
    """An operation that has not ended."""

    verb: str
    vm: str | None
    running: bool  # its lock is held by a process


class Snapshot(NamedTuple):
    """Everything that a plan is made from; nothing else is looked at."""

    installation: str
    life: Epoch
    rows: tuple[Resource, ...]
    tombstones: Mapping[str, Resource]  # by mark, those whose mark was seen
    vms: Mapping[str, VmFacts]  # by id
    networks: Mapping[str, NetworkFacts]  # by id
    operations: Mapping[int, OperationFacts]
    links: tuple[Link, ...]
    addresses: tuple[Address, ...]
    entries: tuple[Entry, ...]
    expected: Mapping[int, tuple[Entry, ...]]  # by row id, of rows and tombstones
    holders: Mapping[str, tuple[str, ...]]  # device name -> "qemu-system-x86 (pid 42)"
    filtered: frozenset[int]  # ifindexes with traffic control of someone's
    files: Mapping[str, str]  # path -> mark, of those that are there
    failures: Mapping[str, str]  # "links", "nftables", "iptables" -> what went wrong
    hidden: bool = False  # some process could not be looked into: it may hold a device
    processes: Mapping[int, ProcessFacts] = {}  # by row: what was seen of each that is on record
    moving: frozenset[int] = frozenset()  # rows that somebody moved while the host was looked at


class Result(StrEnum):
    """What became of an item; the words are those of the interface."""

    DONE = "done"
    SKIPPED = "skipped"  # somebody else works on it, or it may not be touched any more
    FAILED = "failed"


class ItemResult(NamedTuple):
    """What became of an item, and why it was not done."""

    result: Result
    message: str = ""


DONE = ItemResult(Result.DONE)


class Item(NamedTuple):
    """One line of a plan.

    ``row`` is 0 where there is no record; ``entry``, ``link`` or ``rule`` is what was seen.
    """

    action: Action
    reason: Reason | Ground
    kind: str
    key: str
    vm: str | None
    row: int
    state: str | None
    evidence: tuple[str, ...]
    message: str
    mark: str | None = None
    entry: Entry | None = None
    more: tuple[Entry, ...] = ()  # further entries of the same mark, judged alike
    link: Link | None = None
    outcome: Result | None = None
    alone: bool = False  # only these entries go, others of the mark stay
    rule: ForeignRule | None = None  # of others, which the emergency mode guesses at
    restore: str = ""  # the command that makes again what is guessed at

    @classmethod
    def for_row(
        cls, row: Resource, action: Action, reason: Reason, *,
        vm: str | None, evidence: tuple[str, ...], message: str, link: Link | None = None,
    ) -> Item:  # fmt: skip
        """What a plan says of a row; ``vm`` is the name of its VM."""
        # by position: a plan of 5,000 VMs has 30,000 of them
        return cls(
            action, reason, row.kind, row.key, vm, row.id, row.state, evidence, message, row.mark,
            None, (), link,
        )  # fmt: skip

    @classmethod
    def for_object(
        cls, kind: str, key: str, action: Action, reason: Reason | Ground, *,
        evidence: tuple[str, ...], message: str, mark: str | None = None,
        tombstone: Resource | None = None,
    ) -> Item:  # fmt: skip
        """What it says of a thing that was seen and that no live row stands for."""
        row, state = (tombstone.id, tombstone.state) if tombstone is not None else (0, None)
        return cls(
            action=action, reason=reason, kind=kind, key=key, vm=None, row=row, state=state,
            evidence=evidence, message=message, mark=mark,
        )  # fmt: skip

    def identity(self) -> tuple[Any, ...]:
        """What must be equal for two plans to mean the same by this item."""
        words = (self.action.value, self.reason.value, self.kind, self.key)
        return words if isinstance(self.reason, Ground) else (*words, self.row, self.mark)

    def with_result(self, found: ItemResult) -> Item:
        """The item with what became of it."""
        message = f"{self.message}; {found.message}" if found.message else self.message
        return self._replace(outcome=found.result, message=message)


class Plan(NamedTuple):
    """All items, in the order in which they would be done."""

    items: tuple[Item, ...]

    def acting(self) -> list[Item]:
        """The items that change something; a plan without any is empty."""
        return [item for item in self.items if item.action is not Action.SKIP]

    def with_results(self, results: Sequence[ItemResult]) -> Plan:
        """The plan that was carried out: one result for each acting item, in their order."""
        left = iter(results)
        return Plan(
            tuple(
                item if item.action is Action.SKIP else item.with_result(next(left))
                for item in self.items
            )
        )
