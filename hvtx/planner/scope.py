"""The scope of a verb: the records of a VM or of networks at one moment. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hvtx.errors import Conflict
from hvtx.model.resource import Kind, Resource, State, only_flows_remain
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Epoch, Liveness, Network, Vm
from hvtx.planner.states import VmState


class NetworkScope(NamedTuple):
    """Networks with the rows that they stand on: one VM's, or all that there are.

    ``every`` and ``provisional`` are known where all were read, and where one of these has the
    iptables backend; what follows only where all were.
    """

    life: int  # the life of the host (its id) that is now
    networks: Mapping[str, Network]  # by id
    rows: Sequence[Resource]  # live: of these networks themselves and of the installation
    every: Sequence[Network] = ()  # all networks; then ``rows`` are those of all, too
    provisional: Mapping[str, int] = {}  # networks that an operation is making or removing; which
    unended: bool = False  # in the whole store: an operation, or what one is making
    earlier: bool = False  # whether the store knows another life of the host than this one

    def bridge(self, network: str) -> Resource | None:
        """The committed row of a network's bridge (the network by id) in this life of the host."""
        return next((row for row in self._standing(Kind.BRIDGE) if row.network == network), None)

    def bridges(self) -> dict[str, Resource]:
        """The same of every network that has one, by the network's id."""
        found: dict[str, Resource] = {}
        for row in self._standing(Kind.BRIDGE):
            if row.network is not None:
                found.setdefault(row.network, row)
        return found

    def missing(self) -> list[Network]:
        """The networks without a bridge in this life of the host."""
        there = self.bridges()
        return [network for network in self.networks.values() if network.id not in there]

    def bases(self) -> list[Resource]:
        """The firewall rows of the installation in this life of the host."""
        return [row for row in self._standing(Kind.FILTER) if row.network is None]

    def services(self) -> list[Resource]:
        """The processes of networks in this life of the host."""
        return [row for row in self._standing(Kind.PROCESS) if row.is_service]

    def settings(self) -> list[Resource]:
        """The settings of the kernel that are on record in this life of the host."""
        return [row for row in self._standing(Kind.SYSCTL) if row.network is None]

    def half_done(self) -> list[Resource]:
        """The rows that some operation is making or removing, or was when it was interrupted."""
        return [row for row in self.rows if row.state != State.COMMITTED]

    def of_earlier_lives(self, networks: Iterable[Network]) -> list[Resource]:
        """The rows of these networks and of the installation that a reboot made void."""
        own: Collection[str | None] = {None, *(network.id for network in networks)}
        return [row for row in self.rows if row.life != self.life and row.network in own]

    def of(self, network: Network) -> NetworkScope:
        """The scope with this network alone."""
        return self._replace(networks={network.id: network})

    def with_network(self, network: Network, rows: Iterable[Resource]) -> NetworkScope:
        """The scope after an operation that made a network, with these rows."""
        scope = self._replace(
            networks={**self.networks, network.id: network}, every=[*self.every, network]
        )
        return scope.with_rows(rows)

    def with_rows(self, rows: Iterable[Resource]) -> NetworkScope:
        """The scope after an operation that committed these rows."""
        return self._replace(rows=[*self.rows, *rows])

    def _standing(self, kind: Kind) -> list[Resource]:
        here = (kind, State.COMMITTED, self.life)
        return [row for row in self.rows if (row.kind, row.state, row.life) == here]


class VmScope(NamedTuple):
    """A VM with its rows and networks, and its state as its process was seen right after."""

    life: Epoch
    vm: Vm
    rows: Sequence[Resource]  # its live ones, leases too
    networks: Mapping[str, Network]  # by id
    provisional: bool  # there only as long as the operation that is making it
    state: VmState
    liveness: Liveness
    unended: Collection[str] = ()  # verbs of its operations on record that have not ended

    @property
    def leases(self) -> list[Resource]:
        """The rows that outlive a stop."""
        return [row for row in self.rows if row.kind == Kind.LEASE]

    @property
    def waiting(self) -> list[Resource]:
        """The rows that only wait for flows to end."""
        return [row for row in self.rows if only_flows_remain(row)]


def refuse_attachment(vm: Vm) -> None:
    """Raise Conflict for an attachment, which is not started, stopped or changed as a VM is."""
    if vm.attachment is not None:
        raise of_runtime(vm.name)


def of_runtime(name: str) -> Conflict:
    """Why an attachment is not started, stopped or changed as a VM is."""
    return Conflict(
        f"VM {name!r} stands for an interface of a container, which only its runtime changes",
        hint=f"let its runtime do it (CNI ADD, DEL); hvtx vm rm {name} --force releases it",
    )
