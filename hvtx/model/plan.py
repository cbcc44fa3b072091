"""The input of the deciders (a snapshot of record and host) and their output (a plan).

A plan is a value: it says for every item what to do and why; executing it is another room's work,
and printing it yet another's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hvtx.model.mark import owner_mark
from hvtx.model.reason import Reason
from hvtx.model.resource import Address, Entry, Link, Resource
from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple, StrEnum, overload
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
    passing: bool = False  # its record goes with it: it stands for an attachment


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


class Settled(NamedTuple):
    """Rows of VMs that run, all of whose things are there just as recorded; each is left alone.

    They are judged at once and stand in no other part of a snapshot, but for their devices.
    """

    vms: Mapping[str, Sequence[SettledRow]]  # by id
    marks: frozenset[str]
    links: Mapping[int, Link]  # of TAPs, by their rows
    networks: frozenset[str]  # in which they have TAPs
    backends: frozenset[tuple[str, str]]  # networks of firewall rows, with the backend

    @property
    def taps(self) -> frozenset[int]:
        """The indexes of their TAPs."""
        return frozenset(link.ifindex for link in self.links.values())


SettledRow = tuple[int, str, str, str]  # id, kind, key, mark
NOTHING_SETTLED = Settled({}, frozenset(), {}, frozenset(), frozenset())


class UnrecordedFile(NamedTuple):
    """A run-time directory or a seed with a mark that is not on record."""

    mark: str
    users: tuple[str, ...]  # processes that are at it, in words
    hidden: bool  # some process could not be looked into


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
    settled: Settled = NOTHING_SETTLED  # rows that are not among ``rows``
    unrecorded: Mapping[str, UnrecordedFile] = {}  # by path


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
            action, reason, row.kind, row.key, vm, row.id, row.state, evidence, message,
            owner_mark(row), None, (), link,
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


class LeftAlone(NamedTuple):
    """A VM of which nothing needs judging: a plan says the same of each of its rows."""

    vm: str  # name
    evidence: tuple[str, ...]  # of its being alive
    rows: Sequence[SettledRow]


class Items(Sequence[Item]):
    """The items of a plan in their order; those of VMs that are left alone are made when asked for.

    A plan of 5,000 VMs has 30,000 of them, and most are only counted or printed.
    """

    def __init__(
        self,
        judged: Sequence[Item],
        alone: Sequence[LeftAlone],
        items_of: Callable[[LeftAlone], Iterable[Item]],
        place: Callable[[Item], tuple[Any, ...]],
    ) -> None:
        """``judged`` and ``alone`` (by name) are sorted; ``place``: by what items are.

        ``items_of`` makes those of a VM, in their order.
        """
        self.judged = judged
        self.alone = alone
        self.of = items_of
        self._place = place

    def parts(self) -> Iterator[Item | LeftAlone]:
        """All of it in order, VMs that are left alone as a whole where nothing is in between."""
        waiting = iter(self.judged)
        item = next(waiting, None)
        for vm in self.alone:
            while item is not None and (item.vm or "") < vm.vm:
                yield item
                item = next(waiting, None)
            if item is None or item.vm != vm.vm:
                yield vm
                continue
            mixed = [*self.of(vm)]
            while item is not None and item.vm == vm.vm:
                mixed.append(item)
                item = next(waiting, None)
            yield from sorted(mixed, key=self._place)
        if item is not None:
            yield item
        yield from waiting

    def replaced(self, judged: Sequence[Item]) -> Items:
        """The same with other items in the place of those that were judged."""
        return Items(judged, self.alone, self.of, self._place)

    def __iter__(self) -> Iterator[Item]:
        """Each item."""
        for part in self.parts():
            if isinstance(part, Item):
                yield part
            else:
                yield from self.of(part)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.judged) + sum(len(vm.rows) for vm in self.alone)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """One of them, or some; all are made for it."""
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        """Whether the same items are in the same order."""
        return isinstance(other, Items | tuple) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        """As that of the items together."""
        return hash(tuple(self))


class Plan(NamedTuple):
    """All items, in the order in which they would be done."""

    items: Sequence[Item]

    def judged(self) -> Sequence[Item]:
        """The items but those of VMs that are left alone as a whole."""
        return self.items.judged if isinstance(self.items, Items) else self.items

    def acting(self) -> list[Item]:
        """The items that change something; a plan without any is empty."""
        return [item for item in self.judged() if item.action is not Action.SKIP]

    def counts(self) -> Counter[tuple[str, str]]:
        """How many items there are of each action and reason."""
        judged = self.judged()
        found = Counter((item.action.value, item.reason.value) for item in judged)
        if alone := len(self.items) - len(judged):
            found[Action.SKIP.value, Reason.VM_ALIVE.value] += alone
        return found

    def with_results(self, results: Sequence[ItemResult]) -> Plan:
        """The plan that was carried out: one result for each acting item, in their order."""
        left = iter(results)
        return self.with_judged(
            tuple(
                item if item.action is Action.SKIP else item.with_result(next(left))
                for item in self.judged()
            )
        )

    def with_judged(self, judged: Sequence[Item]) -> Plan:
        """The same with other items in the place of those that :meth:`judged` gives."""
        return Plan(self.items.replaced(judged) if isinstance(self.items, Items) else judged)
