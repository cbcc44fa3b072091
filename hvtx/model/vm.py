"""VMs, networks, lives of the host, and who is alive."""

from __future__ import annotations

from hvtx.errors import NotFound
from hvtx.model.address import family_of, is_of
from hvtx.model.policy import NO_LIMITS, NO_POLICY, Limits, Policy
from hvtx.model.typed import NamedTuple, StrEnum

DEFAULT = "default"  # the network that is made where it is needed


class Liveness(StrEnum):
    """Proven from boot id, pid and start time; never from a pid alone."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


class Identity(NamedTuple):
    """A process that can be told from every other one that ever had its pid."""

    boot_id: str
    pid: int
    start: int  # field 22 of /proc/<pid>/stat: clock ticks since boot, no time namespace's
    inode: int = 0  # of its pidfd where the kernel has pidfs, else 0
    pidns: int = 0  # inode of the pid namespace that the pid is of; 0 in older records


class ProcessFacts(NamedTuple):
    """What was seen of a pid; ``error`` is set when looking failed (which proves nothing)."""

    exists: bool
    start: int = 0
    inode: int = 0
    ended: bool = False  # its pidfd is readable: every thread has exited
    error: str = ""
    code: int = 0  # the errno of that error, where there is one
    elsewhere: bool = False  # that error: it is of another pid (or network) namespace than ours
    another: bool = False  # another network namespace has the id: its cookie is not that on record


LAUNCHED_BY_OTHERS = frozenset({"external", "cni"})  # hypervisors of which hvtx starts none


class Attachment(NamedTuple):
    """Which interface of which container a VM of the hypervisor ``cni`` stands for.

    ``network``, ``container`` and ``ifname`` are told by a runtime with each of its requests
    (:mod:`hvtx.model.attachment`), and are together nobody else's in the store.
    """

    network: str  # the name of the network configuration
    container: str
    ifname: str
    netns: str  # as it was asked for: only words for people, never evidence
    pod: str = ""
    pod_namespace: str = ""
    pod_uid: str = ""

    @property
    def pod_name(self) -> str:
        """The pod with its namespace, as people write it; empty where a runtime told none."""
        return f"{self.pod_namespace}/{self.pod}" if self.pod_namespace else self.pod

    @property
    def words(self) -> str:
        """Which interface of whom it is, for people."""
        pod = f" (pod {self.pod_name})" if self.pod else ""
        return f"{self.ifname} of container {self.container}{pod}"


class Publish(NamedTuple):
    """A published port."""

    protocol: str  # "tcp" or "udp"
    host_ip: str | None
    host_port: int
    guest_port: int

    def collides(self, other: Publish) -> bool:
        """Whether both want the same packets."""
        if (self.protocol, self.host_port) != (other.protocol, other.host_port):
            return False
        return self.host_ip is None or other.host_ip is None or self.host_ip == other.host_ip


class Interface(NamedTuple):
    """A VM's interface in a network, with its leases."""

    position: int  # 0 for the first
    network: str  # network id
    network_name: str
    mac: str
    ipv4: str | None
    ipv6: str | None
    publish: tuple[Publish, ...]
    more: tuple[str, ...] = ()  # further addresses of it, of either family

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of its addresses, the first of IPv4 and of IPv6 before the others."""
        return tuple(a for a in (self.ipv4, self.ipv6, *self.more) if a)

    def address(self, family: int) -> str | None:
        """Its first address of a family, 4 or 6."""
        return self.ipv6 if family == 6 else self.ipv4


class Vm(NamedTuple):
    """A VM on record."""

    id: str
    name: str
    hypervisor: str
    memory: int  # MiB
    cpus: int
    kernel: str | None
    initrd: str | None
    append: str | None
    disks: tuple[str, ...]
    command: tuple[str, ...]
    directory: str  # working directory of a `command` VM
    autostart: bool
    interfaces: tuple[Interface, ...]
    number: int = 0  # of its user id, never another VM's of the store; 0: it has none yet
    queues: int = 1  # of each TAP device
    limits: Limits = NO_LIMITS  # of each interface
    policy: Policy = NO_POLICY  # its own, which goes before its networks'
    user_data: str | None = None  # a file for cloud-init
    ssh_keys: tuple[str, ...] = ()  # lines of authorized_keys, for cloud-init
    user: str | None = None  # whom its process runs as; None: as the setting `vm_user` says
    attachment: Attachment | None = None  # a container's, of the hypervisor ``cni``

    @property
    def ports(self) -> list[Publish]:
        """The host ports that it publishes."""
        return [port for interface in self.interfaces for port in interface.publish]

    @property
    def has_seed(self) -> bool:
        """Whether it is started with a seed, which cloud-init reads (see ``hvtx.model.seed``)."""
        return bool(self.user_data or self.ssh_keys)


def need_something_to_run(vm: Vm) -> None:
    """Raise NotFound for a VM whose start would have nothing to give its hypervisor."""
    own = vm.hypervisor not in ("command", "external", "cni")
    if own and not vm.kernel and not vm.disks:
        raise NotFound(
            f"VM {vm.name} has nothing to run: no kernel, no disk and no command",
            hint="give it --kernel, --disk or -- COMMAND (`hvtx vm set`, if it is on record); or"
            " --hypervisor external, for one that hvtx does not start",
        )


class Network(NamedTuple):
    """A network on record."""

    id: str
    name: str
    bridge: str
    mac: str
    mtu: int
    nat: bool
    isolate: bool
    firewall: str  # "nftables" or "iptables"
    subnets: tuple[str, ...]  # "10.77.0.0/24", at most one of each family
    gateways: tuple[str, ...]  # "10.77.0.1", in the order of subnets
    gateway6: str | None  # link-local address of the bridge where there is an IPv6 subnet
    dhcp: bool = False  # a service of its own answers DHCP and DNS, and advertises the router
    policy: Policy = NO_POLICY  # of its guests that have none of their own
    uplink: str | None = None  # the only device by which its guests leave the host; None: any
    sources: tuple[str, ...] = ()  # whom its guests are outside, at most one a family; NAT only
    passage: bool = True  # others' filters that drop what it needs get an accept rule of ours
    block_size: int | None = None  # guests get addresses of a cluster's blocks of this length

    @property
    def families(self) -> tuple[int, ...]:
        """The families of its subnets, in their order."""
        return tuple(family_of(subnet) for subnet in self.subnets)

    @property
    def ranges(self) -> tuple[tuple[str, str], ...]:
        """Each subnet with its gateway."""
        return tuple(zip(self.subnets, self.gateways, strict=True))

    def range(self, family: int) -> tuple[str, str] | None:
        """The subnet of a family, 4 or 6, with its gateway."""
        return next((pair for pair in self.ranges if is_of(pair[0], family)), None)


BRIDGE_PORTS = 1023  # what Linux gives a bridge: BR_MAX_PORTS of net/bridge, less the port 0


def no_port_left(bridge: str, what: str) -> tuple[str, str]:
    """What is said where a bridge has all its ports: message and hint."""
    hint = (
        "make it in another network, or stop a VM of this one (hvtx vm stop); hvtx gc --plan"
        " shows what crashed VMs still keep"
    )
    return f"bridge {bridge} has no port left for {what}: a bridge has {BRIDGE_PORTS:,}", hint


class Epoch(NamedTuple):
    """One life of the host as the store knows it (the epoch)."""

    id: int  # 0: not yet in the store
    boot_id: str
    netns: int  # SO_NETNS_COOKIE
    recovered: bool


class Operation(NamedTuple):
    """A group of intents that stand or fall together."""

    id: int
    verb: str
    vm: str | None  # name, as the history shows it
    network: str | None
    started: str  # RFC 3339
    writer: Identity
