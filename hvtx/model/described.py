"""The values that a plan of a described set is made of and made to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

from hvtx.model.policy import Policy
from hvtx.model.typed import Any, NamedTuple, StrEnum
from hvtx.model.vm import Network, Publish, Vm


class WantedNetwork(NamedTuple):
    """A network as it is described; None: any."""

    name: str
    subnets: tuple[str, ...]
    bridge: str | None
    mtu: int
    nat: bool
    isolate: bool
    uplink: str | None
    sources: tuple[str, ...]
    passage: bool
    policy: Policy
    dhcp: bool | None
    where: str = ""  # its place in a file, for people
    block_size: int | None = None


class WantedVm(NamedTuple):
    """A VM as it is described, with what is asked for of its interfaces."""

    vm: Vm  # without id and interfaces
    networks: tuple[str, ...]  # by name, one for each interface
    ips: tuple[str, ...]
    macs: tuple[str, ...]
    ports: tuple[tuple[Publish, ...], ...]  # of each interface
    start: bool
    where: str = ""  # its place in a file, for people

    @property
    def name(self) -> str:
        """The VM's."""
        return self.vm.name

    def published(self) -> list[tuple[str, Publish]]:
        """Each port with the network of its interface."""
        pairs = zip(self.networks, self.ports, strict=True)
        return [(network, port) for network, ports in pairs for port in ports]


def digest(wanted: WantedNetwork | WantedVm) -> str:
    """A short name of what is described, wherever it stands."""
    return blake2b(repr(wanted._replace(where="")).encode(), digest_size=16).hexdigest()


class KnownVm(NamedTuple):
    """A VM on record, and whether it is up, or may be."""

    vm: Vm
    up: bool
    left: bool = False  # something of it is in the host, as of one that crashed


class Known(NamedTuple):
    """What is on record, by name; without what an interrupted command left half made."""

    networks: Mapping[str, Network]
    vms: Mapping[str, KnownVm]
    default: Network | None = None  # as it would be made, where it is not on record
    unserved: frozenset[str] = frozenset()  # networks that would be made without a DNS of their own

    def in_network(self, name: str) -> list[str]:
        """The VMs in a network."""
        return [
            known.vm.name
            for known in self.vms.values()
            if any(interface.network_name == name for interface in known.vm.interfaces)
        ]

    def up_in(self, name: str) -> list[str]:
        """Those that are up, or may be."""
        return [vm for vm in self.in_network(name) if self.vms[vm].up]


class Action(StrEnum):
    """What a step does."""

    CREATE = "create"
    CHANGE = "change"
    STOP = "stop"
    REMOVE = "remove"
    START = "start"
    REFUSE = "refuse"  # it would take more than was allowed: nothing of the plan is done
    SKIP = "skip"  # it is as described


class Reason(StrEnum):
    """Why."""

    ABSENT = "absent"
    DIFFERS = "differs"
    DOWN = "down"
    RESTART = "restart"  # what differs is what a VM is started with
    REPLACE = "replace"  # what differs is given when a thing is created
    NEEDS_RESTART = "needs-restart"
    NEEDS_REPLACE = "needs-replace"
    IN_USE = "in-use"  # VMs are in the network
    AS_DESCRIBED = "as-described"


NETWORK, VM = "network", "vm"


class Difference(NamedTuple):
    """What is otherwise, by the name of its option; values as JSON has them."""

    option: str
    old: Any
    new: Any


class Step(NamedTuple):
    """One step, or what is left as it is."""

    action: Action
    reason: Reason
    kind: str  # NETWORK or VM
    name: str
    message: str
    differences: tuple[Difference, ...] = ()
    hint: str | None = None
    wanted: WantedNetwork | WantedVm | None = None
    known: Network | Vm | None = None

    def identity(self) -> list[Any]:
        """What a person reviewed, as JSON has it."""
        wanted = self.wanted if self.action is Action.CREATE else None
        return [
            self.action.value,
            self.reason.value,
            self.kind,
            self.name,
            [list(each) for each in self.differences],
            None if wanted is None else digest(wanted),
        ]


class Allowed(NamedTuple):
    """What a person agreed to beforehand."""

    restart: bool = False
    replace: bool = False


class Described(NamedTuple):
    """A set, as it is to be."""

    networks: Sequence[WantedNetwork]
    vms: Sequence[WantedVm]
