"""Resources: one thing in the host each, with the row that speaks of it.

A row's ``spec`` says, before the host is touched, everything needed to make the thing and to undo
it; ``observed`` is what was read back when it was made. Both are JSON objects; their shapes are the
TypedDicts below, and ``tap_spec(row)`` and its like give them with these types.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple, NotRequired, StrEnum, TypedDict, cast
from hvtx.model.vm import Identity

if TYPE_CHECKING:
    from hvtx.model.place import Place


class Kind(StrEnum):
    """What a resource is; the names are those of the interface."""

    TAP = "tap"
    VETH = "veth"
    NETNS = "netns"
    BRIDGE = "bridge"
    ADDRESS = "address"
    MASQUERADE = "masquerade"
    PUBLISH = "publish"
    FILTER = "filter"
    LEASE = "lease"
    PROCESS = "process"
    SYSCTL = "sysctl"
    FILE = "file"


FIREWALL_KINDS = frozenset({Kind.MASQUERADE, Kind.PUBLISH, Kind.FILTER})
PORTS = frozenset({Kind.TAP, Kind.VETH})  # devices of guests, ports of a bridge
DEVICES = frozenset({Kind.TAP, Kind.VETH, Kind.BRIDGE})


class State(StrEnum):
    """Where a row stands in the protocol; ``released`` rows are tombstones."""

    INTENDED = "intended"
    COMMITTED = "committed"
    RELEASING = "releasing"
    RELEASED = "released"


class Resource(NamedTuple):
    """One row of the store's ``resource`` table."""

    id: int
    kind: str
    key: str
    state: str
    mark: str
    spec: dict[str, Any]
    observed: dict[str, Any]
    operation: int
    life: int
    vm: str | None
    network: str | None

    @property
    def ifindex(self) -> int:
        """Of the device that it is or stands on, as it was chosen; 0 where there is none."""
        return int(self.spec.get("ifindex") or 0)

    @property
    def backend(self) -> str:
        """``nftables`` or ``iptables`` of a firewall row; empty of others."""
        return str(self.spec.get("backend") or "")

    @property
    def role(self) -> str:
        """What a firewall row stands for (:class:`hvtx.model.firewall.FirewallSpec`)."""
        return str(self.spec.get("what") or "")

    @property
    def bridge(self) -> str:
        """The name of the bridge that it belongs to; empty where none is on record."""
        return str(self.spec.get("bridge") or "")

    @property
    def is_service(self) -> bool:
        """Whether it is a process of a network's: its dnsmasq."""
        return self.kind == Kind.PROCESS and self.vm is None and self.network is not None

    @property
    def is_reservation(self) -> bool:
        """Whether it is a file by which a network's dnsmasq knows an interface."""
        return self.kind == Kind.FILE and not self.spec.keys().isdisjoint(("reservation", "names"))

    @property
    def imported(self) -> bool:
        """Whether others made the thing, and it was taken over as it is."""
        return bool(self.spec.get("imported"))

    @property
    def guest(self) -> tuple[str | None, str | None]:
        """The addresses, of IPv4 and of IPv6, of the guest that it is for, as far as it says so."""
        return self.spec.get("ipv4"), self.spec.get("ipv6")

    @property
    def addresses(self) -> list[str]:
        """Those that a device of ours has by its record, with prefix lengths."""
        return list(self.spec.get("addresses", ()))


# A row as it stands in the table: the fields of Resource, ``spec`` and ``observed`` as text.
RawResource = tuple[int, str, str, str, str, str, str, int, int, str | None, str | None]

FLOWS = "flows"  # in ``observed`` of a firewall row: not all that flows past its rules has ended
EXCHANGE = "exchange"  # in ``observed`` of a row that a change of something living makes or takes
HOLDER = "holder"  # in ``observed`` of a ``publish`` row: the identity of who holds its port


def is_changing(rows: Iterable[Resource]) -> bool:
    """Whether a change of something living has rows among these that are not settled."""
    return any(EXCHANGE in row.observed and row.state != State.COMMITTED for row in rows)


def only_flows_remain(row: Resource) -> bool:
    """Whether a row's rules are gone, and it stands only for flows that may go on without them.

    While it does, its VM stays on record, and so do its addresses and ports: nobody else gets them.
    """
    return row.state == State.RELEASING and FLOWS in row.observed


class _Owned(TypedDict, total=False):
    owner: int  # user id of the VM's process; absent where that is hvtx's own, or not known


class TapSpec(_Owned):
    """A persistent TAP device, a port of ``bridge``."""

    device: str
    ifindex: int  # chosen at intent time, so that the kernel's identity stands in the row
    bridge: str
    master: int  # ifindex of the bridge
    mtu: int
    mac: str  # of the host's side; begins with fe so that it never becomes the bridge's
    queues: NotRequired[int]  # of a device with several; absent: one
    guard: NotRequired[dict[str, Any]]  # of rulesets/port_filter; earlier rows lack it
    limit: NotRequired[dict[str, int]]  # model/limiting; absent where there is no limit
    addresses: NotRequired[list[str]]  # of one that was taken over: those that the kernel gave it


BRIDGE_GROUP = 0x68767478  # IFLA_GROUP of our bridges and veth pairs: "hvtx"


class BridgeSpec(TypedDict):
    """A bridge; ``mac`` and BRIDGE_GROUP are its mark in the creating message (see ADR 0004)."""

    device: str
    ifindex: int
    mac: str
    mtu: int
    addresses: list[str]  # with prefix length: those that the network gives it
    guard: NotRequired[bool]  # what comes from elsewhere has a filter; rows of old have none


class AddressSpec(TypedDict):
    """An address of the host on one of our bridges; ``owner`` is the bridge's mark."""

    device: str
    ifindex: int
    owner: str
    address: str  # with prefix length: "10.77.0.1/24"


FLOWS_EACH = 16384  # tracked connections of a guest, where its row does not say


class ProcessSpec(TypedDict):
    """The VM process; who it is stands in ``observed``, as :class:`ProcessObserved`."""

    hypervisor: str
    directory: str  # run-time directory: sockets and rendered configuration


class ProcessObserved(TypedDict, total=False):
    """:class:`hvtx.model.vm.Identity` as a dict, and with what QEMU was started."""

    boot_id: str
    pid: int
    start: int
    inode: int
    pidns: int
    restarts: int  # of a network's service, in this life of the host; absent where it is none
    logger: int  # of a network's service: the pid of who keeps its log
    accelerator: str  # "kvm" or "tcg"; absent for others than QEMU, and in older records
    accelerator_reason: str
    user: int | str  # whom it runs as: an id of its own, or a name; absent in older records
    vhost: bool  # QEMU: the host's kernel moves the frames; absent in older records


class ReservationSpec(TypedDict):
    """What an interface gets by DHCP, and the name by which its network finds it."""

    name: str  # of the VM
    mac: str
    ipv4: str | None
    ipv6: str | None


class FileSpec(TypedDict):
    """A run-time directory of a VM or a network, or what a dnsmasq is told of an interface."""

    path: str
    reservation: NotRequired[ReservationSpec]


class SysctlSpec(TypedDict):
    """A kernel setting that was turned on, and what it was before."""

    path: str  # below /proc/sys
    value: str
    before: str


class DeviceObserved(TypedDict, total=False):
    """What was read back of a TAP device or a bridge; empty while it is not made."""

    ifindex: int
    mac: str
    guarded: bool  # its filter is there; false where this kernel has none
    summed: bool  # the same of a TAP's filter that looks at checksums


def tap_spec(row: Resource) -> TapSpec:
    """The spec of a row of kind ``tap``; of ``veth``, what it has in common with it."""
    return cast("TapSpec", _spec(row, Kind.TAP, Kind.VETH))


def bridge_spec(row: Resource) -> BridgeSpec:
    """The spec of a row of kind ``bridge``."""
    return cast("BridgeSpec", _spec(row, Kind.BRIDGE))


def device_spec(row: Resource) -> TapSpec | BridgeSpec:
    """The spec of a row of kind ``tap``, ``veth`` or ``bridge``."""
    return cast("TapSpec | BridgeSpec", _spec(row, *DEVICES))


def address_spec(row: Resource) -> AddressSpec:
    """The spec of a row of kind ``address``."""
    return cast("AddressSpec", _spec(row, Kind.ADDRESS))


def process_spec(row: Resource) -> ProcessSpec:
    """The spec of a row of kind ``process``."""
    return cast("ProcessSpec", _spec(row, Kind.PROCESS))


def file_spec(row: Resource) -> FileSpec:
    """The spec of a row of kind ``file``."""
    return cast("FileSpec", _spec(row, Kind.FILE))


def sysctl_spec(row: Resource) -> SysctlSpec:
    """The spec of a row of kind ``sysctl``."""
    return cast("SysctlSpec", _spec(row, Kind.SYSCTL))


def device_observed(row: Resource) -> DeviceObserved:
    """What was read back of a row of kind ``tap``, ``veth`` or ``bridge``."""
    assert row.kind in DEVICES, row.kind
    return cast("DeviceObserved", row.observed)


def process_observed(row: Resource) -> ProcessObserved:
    """Who the process of a row of kind ``process`` is; empty while it is not started."""
    assert row.kind == Kind.PROCESS, row.kind
    return cast("ProcessObserved", row.observed)


def identity_in(seen: ProcessObserved) -> Identity | None:
    """The identity that was recorded; None before the process was started."""
    if "pid" not in seen:
        return None
    return Identity(
        seen["boot_id"], seen["pid"], seen["start"], seen.get("inode", 0), seen.get("pidns", 0)
    )


def holder_observed(row: Resource) -> ProcessObserved:
    """Who holds the port of a row of kind ``publish``; empty where nobody ever did."""
    assert row.kind == Kind.PUBLISH, row.kind
    return cast("ProcessObserved", row.observed.get(HOLDER) or {})


def index_of(row: Resource) -> int:
    """The ifindex of a TAP device or bridge: as it was read back, else as it was chosen."""
    return device_observed(row).get("ifindex") or row.ifindex


def _spec(row: Resource, *kinds: Kind) -> dict[str, Any]:
    assert row.kind in kinds, row.kind
    return row.spec


class Entry(NamedTuple):
    """One firewall object, expected or seen: a table, a rule or a set element.

    ``place`` and ``text`` identify it: two entries with equal ``place`` and ``text`` are copies of
    each other. ``mark`` is its comment if that begins like a mark, else None. ``handle`` is the
    kernel's number for a rule (0 where there is none) and is only a hint.
    """

    backend: str
    place: Place
    text: str
    mark: str | None
    handle: int = 0
    nat: bool = False  # a rule that translates addresses (shown when it is somebody else's)

    @property
    def object_key(self) -> tuple[str, Place, str]:
        """What copies of one object have in common, whatever their marks."""
        return self.backend, self.place, self.text

    @property
    def marked_key(self) -> tuple[Place, str, str | None]:
        """What one backend's objects are told apart by, whatever their handles."""
        return self.place, self.text, self.mark


class Link(NamedTuple):
    """A network device as a link dump shows it."""

    ifindex: int
    name: str
    kind: str  # "tun", "bridge", "veth", "" …
    alias: str | None
    mac: str
    mtu: int
    master: int  # ifindex of the bridge, 0 if none
    lower: int  # IFLA_LINK: ifindex of the device below this one, 0 if none
    group: int
    up: bool
    tun_flags: int  # IFF_TAP | IFF_NO_PI … with which to attach, 0 for others
    queues: int  # held queues of a multi-queue tun device, those switched off too; else 0
    persistent: bool
    qdisc: str = ""
    xdp: bool = False
    altnames: tuple[str, ...] = ()  # what else it is called


def link_called(links: Iterable[Link], name: str) -> Link | None:
    """The device of this name, which may be one of its alternative names; no two share one."""
    return next((link for link in links if name == link.name or name in link.altnames), None)


def filters_on(link: Link, filtered: Collection[int]) -> list[str]:
    """What of others' looks at a link's packets, in words; ``filtered`` as the kernel lists it."""
    found = ["an XDP program"] if link.xdp else []
    return [*found, "traffic control"] if link.ifindex in filtered else found


class Address(NamedTuple):
    """An address of the host as an address dump shows it."""

    ifindex: int
    address: str  # with prefix length
    passing: bool = False  # it has a lifetime (DHCP, router advertisements), or is 169.254/16

    @property
    def by_itself(self) -> bool:
        """Whether the kernel or a manager of networks put it there unasked (docs/adr/0033).

        Link-local ones of IPv6 appear on every device whose addrgenmode is not ``none``; programs
        such as systemd-networkd with a file for all names add those and others.
        """
        return self.passing or (self.address[:3] in _LINK_LOCAL and self.address[4:5] == ":")


_LINK_LOCAL = frozenset({"fe8", "fe9", "fea", "feb"})  # fe80::/10


def put_by_others(ifindex: int, addresses: Iterable[Address], own: Collection[str]) -> list[str]:
    """A device's addresses that somebody gave it by hand; those in ``own`` are known."""
    return [
        a.address
        for a in addresses
        if a.ifindex == ifindex and not a.by_itself and a.address not in own
    ]


class Outcome(NamedTuple):
    """What became of one release: ``gone``, or kept for a reason of the interface."""

    gone: bool
    reason: str = ""
    message: str = ""


GONE = Outcome(True)
