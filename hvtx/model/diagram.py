"""The diagram of a host: networks with their VMs, foreign devices beside them. Plain values."""

from __future__ import annotations

from hvtx.model.typed import NamedTuple, StrEnum


class Health(StrEnum):
    """How a thing stands; each has a colour and a shape of its own."""

    LIVE = "live"  # in use, or as it should be
    DEAD = "dead"  # its VM is proven dead, or it was never finished
    UNKNOWN = "unknown"  # neither can be proven
    OFF = "off"  # a VM that is not running: only its leases are on record
    FOREIGN = "foreign"  # not ours


class VmNode(NamedTuple):
    """A VM in one network."""

    name: str
    health: Health
    device: str | None  # its TAP in this network
    addresses: tuple[str, ...]
    ports: tuple[str, ...]  # "8080/tcp"
    rules: int  # firewall rows of the VM
    words: str  # what is to be said of it, one sentence


class NetworkNode(NamedTuple):
    """A network of ours: a bridge with VMs."""

    name: str
    bridge: str
    health: Health
    subnets: tuple[str, ...]
    rules: int  # firewall rows of the network itself
    vms: tuple[VmNode, ...]  # those that somebody should look at first


class ForeignNode(NamedTuple):
    """Somebody else's bridge with its ports, or a single device of somebody else's."""

    name: str
    kind: str  # bridge, tap, device
    words: str  # "looks like Docker's", "its alias is …"
    ports: tuple[str, ...] = ()


class Diagram(NamedTuple):
    """A whole host."""

    networks: tuple[NetworkNode, ...]
    loose: tuple[VmNode, ...]  # VMs in no network of ours
    foreign_objects: tuple[ForeignNode, ...]  # bridges, TAP devices, other installations' devices
    rules: tuple[str, ...]  # others' NAT rules that the plan names
    others: tuple[str, ...]  # names of all other devices
