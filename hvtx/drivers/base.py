"""The interfaces of drivers: a few methods over batches of rows.

Drivers are the only place where the host is changed. They know nothing of the store, of VMs or of
each other. A batch belongs to one operation: a driver makes all of it, or raises and leaves to the
undo (which is computed from the rows, and calls :meth:`Driver.release`) what it had made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from hvtx.errors import HostRefused
from hvtx.model.resource import Entry, Link, Outcome, Resource
from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from hvtx.model.vm import Identity

if TYPE_CHECKING:
    from hvtx.host.link_settings import LinkSettingsSocket
    from hvtx.host.links import Links
    from hvtx.model.firewall import FirewallSpec
    from hvtx.model.foreign_rule import ForeignRule
    from hvtx.model.link_settings import WantedSettings
    from hvtx.model.ruleset import SeenTable

T = TypeVar("T")


def stand_for(row: Resource, things: Sequence[T]) -> Sequence[T]:
    """``things``, which are what is to be in the kernel for a row of the firewall.

    Raises HostRefused where there would be none: the record would promise what nobody can see.
    """
    if not things:
        raise HostRefused(
            f"no kernel object would correspond to {row.kind} {row.key}",
            hint="its network or its guest has no address of that family",
        )
    return things


PASSAGE = "passage"  # what rows are that stand for accepts of ours in the chains of others


def of_passages(rows: Iterable[Resource]) -> tuple[list[Resource], list[Resource]]:
    """The rows that are passages, and the others."""
    every = list(rows)
    own = [row for row in every if row.role == PASSAGE]
    return own, [row for row in every if row.role != PASSAGE]


def not_among(
    there: Iterable[Entry],
    expected: Callable[[Resource], Iterable[Entry]],
    rows: Iterable[Resource],
) -> list[Resource]:
    """The rows of which an expected entry is not ``there``."""
    keys = {entry.marked_key for entry in there}
    return [row for row in rows if not {one.marked_key for one in expected(row)} <= keys]


class Host(NamedTuple):
    """What a driver is told about where it works."""

    installation: str
    run_directory: str  # <run-dir>/<installation>
    state_directory: str
    lock_timeout: float  # seconds
    tap_user: int = 0  # user id of those who may open TAP devices without CAP_NET_ADMIN


class Driver(Protocol):
    """Makes and removes resources of its kinds."""

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Make every resource, marked; return what was read back, by row id.

        Refuses a name that exists. Raises :class:`hvtx.errors.HostRefused` (or another
        HvtxError) with the thing named; then some of the batch may exist, marked.
        """

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove every resource that carries its row's mark; go on past errors.

        Absent is ``gone``. What does not carry the mark, is in use, or has others' things on
        it stays, with the reason. Never raises for a single item.
        """


class LinkDriver(Driver, Protocol):
    """A driver of network devices, which others may change while they stand."""

    def set_traits(self, row: Resource, wanted: WantedSettings, traits: LinkSettingsSocket) -> None:
        """Set a device as it should be, beyond what ``repair`` does. Raises OSError."""


class BridgesDriver(LinkDriver, Protocol):
    """The driver of bridges."""

    def repair(self, row: Resource, *, guarded: bool) -> bool:
        """Give a bridge what others changed of it; False if it is another by now.

        ``guarded``: it is to have its filter. Whether 127.0.0.1 leads to its guests stays as it is.
        Raises OSError, HostRefused, NotPermitted.
        """


class PortDriver(LinkDriver, Protocol):
    """A driver of guests' devices, which are ports of a bridge."""

    def repair(self, row: Resource, *, master: int, guard: Mapping[str, Any] | None) -> bool:
        """Give a device what others changed of it; False if it is another by now.

        ``master`` is the index of its bridge, ``guard`` what its filters hold the guest to. Raises
        OSError.
        """


class PairDriver(PortDriver, Protocol):
    """The driver of containers' ports, which nothing can hold."""

    def standing(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Those whose port is there, or something in its place, each with why; none is changed.

        Where that could not be learnt, ``observe-failed``. Never raises.
        """


class DeviceDriver(PortDriver, Protocol):
    """A driver whose objects can be held, so that nobody takes them before they are removed."""

    @property
    def links(self) -> Links:
        """Its rtnetlink socket, for who asks beside it."""

    def limit(self, resources: Sequence[Resource]) -> None:
        """Hold devices that are the rows' to the limits in them, and to no others.

        Raises OSError, HostRefused where the kernel cannot, NotPermitted.
        """

    def mark(self, planned: Link, mark: str, *, idle: bool) -> Outcome:
        """Give a device of others its mark, if it is still just what was judged. Raises OSError.

        ``idle``: nobody was seen to hold it.
        """

    def restore_macs(self, resources: Sequence[Resource]) -> None:
        """Set MAC addresses again that something else changed right after the devices were made."""

    def attach(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Hold what is the rows'; returns those that somebody else holds (``in-use``)."""

    def detach(self) -> None:
        """Let go of what is still held; it stays."""


class ServiceDriver(Driver, Protocol):
    """A driver of processes, which it makes so that they wait until their identity is on record."""

    ended: dict[int, Identity]  # by row: who served in its place off the record, until `open`

    def open(self, resources: Sequence[Resource]) -> None:
        """Let what was made go on, and wait until it serves. Raises HostRefused."""

    def end_unknown(self, directory: str) -> Outcome:
        """End who serves from a directory that is on no record; where nobody does it is gone."""

    def learns(self, row: Resource) -> bool:
        """Have it act by what is told to it by now; False where it has to be started for that."""


class ExchangingDriver(Driver, Protocol):
    """A driver that can change what stands: what comes takes the place of what goes."""

    def exchange(
        self, gone: Sequence[Resource], made: Sequence[Resource]
    ) -> Mapping[int, dict[str, Any]]:
        """Take what stands for ``gone`` and make what stands for ``made``.

        Of nftables in one batch, of iptables in one commit a table, without a moment between. Of
        firewalld what goes is released, then what comes is made: in between there is neither.

        Returns what was read back of each row of ``made``, by its id. What of it is there, with its
        own mark, stays as it is, and what is gone already is: given again, the same call comes to
        the same end. What has the place of something of ``made`` and carries the mark of one of
        ``gone`` is replaced.

        Raises Conflict, where something is in the way that carries another mark or none (then
        nothing was changed, but what firewalld had released), HostRefused, NotPermitted, Busy,
        Contended.
        """


class FirewallDriver(ExchangingDriver, Protocol):
    """A backend: it can also say what its rows should look like, and what is there."""

    def expected(self, resource: Resource) -> tuple[Entry, ...]:
        """The entries that stand for a row (pure)."""

    def observe(self) -> tuple[Entry, ...]:
        """All entries of this installation, all marked ones, and others' NAT rules."""

    def lacking(self, resources: Sequence[Resource]) -> list[Resource]:
        """Those rows of which an entry is not there as it should be. Raises as :meth:`observe`."""

    def remove(self, entry: Entry) -> Outcome:
        """Remove one object that was seen (a copy, a leftover) if it is still exactly that.

        Of several identical copies one goes. Never raises.
        """

    def remove_copies(self, resource: Resource) -> Outcome:
        """Remove surplus identical copies of a row's entries; one of each stays. Never raises."""

    def repair(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Put back what is missing of rows that should be whole; returns what create returns.

        Raises HvtxError (Conflict where something else took the place).
        """


class OwnElements(Protocol):
    """Elements of our own tables as bytes, which are compared with rows in bulk."""

    def marks(self) -> Collection[str]:
        """The marks that elements carry."""

    def differing(self, rows: Iterable[tuple[FirewallSpec, str]]) -> Iterator[str]:
        """The marks of those rows, by spec and mark, whose elements are not all there, unchanged.

        And of those whose mark others carry as well.
        """

    def holders(self, row: Resource) -> Iterator[str]:
        """The marks of what stands where a row's elements belong, its own included."""

    def entries(
        self, *, but: Collection[str] = (), only: Iterable[str] | None = None
    ) -> list[Entry]:
        """The elements as entries: all but those with these marks, or those with these marks."""


class RuleMarker(Protocol):
    """The driver of firewall rules that others made."""

    def mark(self, rule: ForeignRule, mark: str) -> Outcome:
        """Give a rule its mark, if it is still exactly what was seen. Never raises."""


class CommonDriver(FirewallDriver, Protocol):
    """The backend that every installation has tables of, whatever its networks use."""

    def others(self) -> frozenset[str]:
        """Other installations of hvtx on this host. Raises Contended, NotPermitted."""

    def tables(self) -> frozenset[tuple[str, str]]:
        """Family and name of every table of nf_tables. Raises Contended, NotPermitted."""

    def may_translate(self) -> bool:
        """Whether others may give packets a destination. Raises OSError, HvtxError."""

    def traces(self) -> dict[str, str]:
        """Where each installation's store is, by its table (:mod:`hvtx.host.store_location`)."""

    def counted(self, resources: Sequence[Resource]) -> dict[int, tuple[int, int]]:
        """Packets and bytes in the counters of rows, as far as they are there and have one."""

    def observe_bulk(self) -> tuple[tuple[Entry, ...], OwnElements]:
        """What :meth:`observe` gives, with the elements of our own sets apart, as bytes."""

    def own_tables(self) -> tuple[SeenTable, ...]:
        """Our tables as they are, whole. Raises Contended, NotPermitted."""

    def leave_trace(self) -> None:
        """Say in our own table where our store is now, if there is such a table."""
