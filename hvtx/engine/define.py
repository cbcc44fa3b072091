"""`vm create` and `vm rm`: the record of a VM, its leases and its host ports; no kernel object."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from hvtx.engine import notice, own_addresses
from hvtx.engine.neighbours import refuse_ports
from hvtx.engine.networks import DEFAULT, bridge_row, default_draft, take_network
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation, begin
from hvtx.errors import Conflict, NotFound, UsageError, advised
from hvtx.model.resource import Kind
from hvtx.model.vm import Interface, Network, Publish, Vm
from hvtx.planner import addressing, provision
from hvtx.planner.provision import Want
from hvtx.store import history, leases, records
from hvtx.store.history import Event

HYPERVISORS = ("qemu", "firecracker", "cloud-hypervisor", "command", "external")


class VmWish(NamedTuple):
    """What a person asked for; checked, but not yet known to be free."""

    name: str
    hypervisor: str
    networks: tuple[str, ...]
    ips: tuple[str, ...]
    macs: tuple[str, ...]
    publish: tuple[Publish, ...]
    memory: int
    cpus: int
    kernel: str | None
    initrd: str | None
    append: str | None
    disks: tuple[str, ...]
    command: tuple[str, ...]
    directory: str
    autostart: bool
    leases: tuple[tuple[str | None, str | None], ...] = ()  # IPv4, IPv6 of each interface


def parse_wish(  # noqa: PLR0913 - it mirrors the options of `vm create`
    name: str,
    *,
    hypervisor: str | None = None,
    networks: Sequence[str] = (),
    ips: Sequence[str] = (),
    macs: Sequence[str] = (),
    publish: Sequence[str] = (),
    memory: int = 256,
    cpus: int = 1,
    kernel: str | None = None,
    initrd: str | None = None,
    append: str | None = None,
    disks: Sequence[str] = (),
    command: Sequence[str] = (),
    autostart: bool = False,
) -> VmWish:
    """Check what was written; relative paths are those of the current directory.

    Raises UsageError.
    """
    addressing.parse_name(name, "VM")
    for network in networks:
        addressing.parse_name(network, "network")
    if len(set(networks)) != len(networks):
        raise UsageError(
            "a VM has at most one interface in a network", hint="name each --network once"
        )
    chosen = hypervisor or ("command" if command else "qemu")
    check_combination(
        chosen, command=command, kernel=kernel, initrd=initrd, append=append, disks=disks
    )
    check_size(memory, cpus)
    with advised("write it as 8080:80, 203.0.113.1:53:53/udp or [2001:db8::1]:443:443"):
        ports = tuple(addressing.parse_publish(text) for text in publish)
    for number, port in enumerate(ports):
        if any(port.collides(other) for other in ports[:number]):
            raise UsageError(
                f"host port {port.host_port}/{port.protocol} is published twice",
                hint="give each its own host port, or a host address of its own (not 0.0.0.0)",
            )
    with advised("write it as 10.77.0.5 or fd77::5; without --ip a free one is chosen"):
        addresses = tuple(addressing.parse_address(ip) for ip in ips)
    with advised("write it as 02:11:22:33:44:55; without --mac one is made up"):
        parsed = tuple(addressing.parse_mac(mac) for mac in macs)
    count = max(len(networks), 1)
    fours = sum(":" not in address for address in addresses)
    if len(parsed) > count or fours > count or len(addresses) - fours > count:
        raise UsageError(
            "more --ip or --mac than networks",
            hint="each network takes one MAC, one IPv4 and one IPv6 address; add a --network",
        )
    check_lines((append, kernel, initrd, *disks))
    return VmWish(
        name=name,
        hypervisor=chosen,
        networks=tuple(networks),
        ips=addresses,
        macs=parsed,
        publish=ports,
        memory=memory,
        cpus=cpus,
        kernel=_absolute(kernel),
        initrd=_absolute(initrd),
        append=checked_append(append, count),
        disks=tuple(os.path.abspath(disk) for disk in disks),
        command=checked_command(command, count),
        directory=os.getcwd(),
        autostart=autostart,
    )


def check_size(memory: int, cpus: int) -> None:
    """Refuse what no VM can have; raises UsageError."""
    if not 1 <= memory <= 1 << 24:
        raise UsageError(
            f"--memory {memory} is not between 1 and {1 << 24} MiB",
            hint="it is counted in MiB: 2048 is 2 GiB",
        )
    if not 1 <= cpus <= 4096:
        raise UsageError(
            f"--cpus {cpus} is not between 1 and 4096", hint="nproc tells how many this host has"
        )


def check_lines(texts: Iterable[str | None]) -> None:
    """Refuse a line break in what becomes one argument; raises UsageError."""
    if any(text and "\n" in text for text in texts):
        raise UsageError(
            "an argument of the hypervisor holds a line break",
            hint="put --append on one line; rename a file whose name is broken",
        )


_MISTAKEN = {"ipv4": "ip", "ip4": "ip", "ipv6": "ip6", "gateway4": "gateway"}
_OTHER_NAMES = {
    **_MISTAKEN, "name": "vm", "address": "ip", "address6": "ip6", "device": "tap",
    "ifname": "tap", "gw": "gateway", "mask": "netmask",
}  # fmt: skip
_SLIP = 0.85  # of difflib's ratio: one letter in a word


def checked_append(text: str | None, interfaces: int) -> str | None:
    """A kernel's command line as it is kept; raises UsageError for a ``{word}`` of no meaning."""
    from hvtx.hypervisors.base import placeholders

    known = placeholders(interfaces)
    return (
        None if text is None else _without(text, "--append", known, lambda word: word not in known)
    )


def checked_command(command: Iterable[str], interfaces: int) -> tuple[str, ...]:
    """A command as it is kept; raises UsageError for what is nearly a placeholder.

    Any other braces are the program's own: a script of a shell, of awk or of Python has many.
    """
    from hvtx.hypervisors.base import placeholders

    known = placeholders(interfaces)

    def slip(word: str) -> bool:
        from hvtx.model.nearest import nearest

        base, _, number = word.rpartition("_")
        beyond = base in known and number.isdigit()  # an interface that the VM does not have
        slips = beyond or word in _MISTAKEN or nearest(word, known, _SLIP) is not None
        return slips and word not in known

    return tuple(_without(word, "the command", known, slip) for word in command)


def _without(text: str, where: str, known: Sequence[str], wrong: Callable[[str], bool]) -> str:
    if "{" not in text:
        return text
    from hvtx.hypervisors.base import literal
    from hvtx.model.nearest import nearest

    kept, unknown = literal(text, wrong)
    if unknown is None:
        return kept
    likely = _OTHER_NAMES.get(unknown) or nearest(unknown, known)
    ask = f"did you mean {{{likely}}}? " if likely else ""
    raise UsageError(
        f"{where} has {{{unknown}}}, which stands for nothing",
        hint=f"{ask}known are {' '.join(f'{{{word}}}' for word in known)};"
        f" {{{{{unknown}}}}} is a literal {{{unknown}}}",
    )


def wish_from_log(runtime: Runtime, name: str, operation: int | None = None) -> VmWish:
    """A VM as it was when it was last forgotten (by ``operation``): with its addresses and ports.

    Raises NotFound where the history has none, or where one of its networks is gone.
    """
    record = runtime.read(history.forgotten_vm, name, operation)
    if record is None:
        raise NotFound(
            f"the history has no VM {name!r} that was removed"
            + (f" by operation {operation}" if operation else ""),
            hint="hvtx log --event removed shows what was removed",
        )
    interfaces = record["interfaces"]
    if not interfaces:
        raise NotFound(
            f"VM {name!r} had no network of hvtx's: it had been taken over from another tool",
            hint="hvtx import or hvtx adopt take it over again",
        )
    return VmWish(
        name=name,
        hypervisor=record["hypervisor"],
        networks=tuple(i["network"] for i in interfaces),
        ips=(),
        macs=tuple(i["mac"] for i in interfaces),
        publish=tuple(Publish(**port) for i in interfaces for port in i["publish"]),
        memory=record["memory"],
        cpus=record["cpus"],
        kernel=record["kernel"],
        initrd=record["initrd"],
        append=record["append"],
        disks=tuple(record["disks"]),
        command=tuple(record["command"]),
        directory=record["directory"],
        autostart=record["autostart"],
        leases=tuple((i["ipv4"], i["ipv6"]) for i in interfaces),
    )


def check_combination(
    hypervisor: str,
    *,
    command: Sequence[str],
    kernel: str | None,
    initrd: str | None,
    append: str | None,
    disks: Sequence[str],
) -> None:
    """Refuse what does not go together in a VM; raises UsageError."""
    if hypervisor not in HYPERVISORS:
        raise UsageError(
            f"{hypervisor!r} is no hypervisor", hint=f"one of {', '.join(HYPERVISORS)}"
        )
    if command and hypervisor != "command":
        raise UsageError(
            f"-- COMMAND and --hypervisor {hypervisor} do not go together",
            hint="leave one of them out: a command is the VM process itself",
        )
    if hypervisor == "command" and not (command and command[0]):
        raise UsageError(
            "--hypervisor command needs -- COMMAND…", hint="for instance: -- qemu-system-x86_64 …"
        )
    if hypervisor in ("command", "external") and (kernel or initrd or append or disks):
        raise UsageError(
            f"--kernel, --initrd, --append and --disk mean nothing to {hypervisor}",
            hint="leave them out, or choose --hypervisor qemu",
        )
    if (initrd or append) and not kernel:
        raise UsageError(
            "--initrd and --append need --kernel",
            hint="a guest that boots from its --disk brings its own",
        )
    if hypervisor == "firecracker" and not kernel:
        raise UsageError(
            "--hypervisor firecracker needs --kernel",
            hint="give an uncompressed kernel (vmlinux), or choose --hypervisor qemu",
        )


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


# -- creating --------------------------------------------------------------------------------------


def create_vm(runtime: Runtime, wish: VmWish) -> Vm:
    """Record a VM with its leases and ports.

    Raises Conflict (name, address, MAC or port taken), NotFound (network), UsageError (an address
    that its network cannot give).
    """
    runtime.enter()
    runtime.lock("vm", wish.name)
    check_wish(runtime, wish)
    warn_of_disks(wish.kernel, wish.disks)
    networks = take_networks(runtime, wish)
    _refuse_lost(runtime, networks, wish.ips)
    own = own_addresses.in_subnets(networks)
    with begin(runtime, "create", vm=wish.name) as (sql, operation):
        vm, rows = record_vm(operation, sql, wish, networks, committed=True, taken=own)
    operation.end(
        "done",
        events=[Event("made", f"VM {vm.name}")],
        then=lambda sql: records.set_vm_confirmed(sql, vm.id),
    )
    del rows
    return vm


def _refuse_lost(runtime: Runtime, networks: Sequence[Network], ips: Sequence[str]) -> None:
    """Refuse here and now what the start would: packets for the guest go elsewhere.

    One without a wish gets any address, so it is refused only where the whole subnet is lost.
    """
    from hvtx.engine import ways

    for network in networks:
        row = bridge_row(runtime, network)
        if row is not None:
            ways.refuse_lost_subnet(network, row, ips)


def check_wish(runtime: Runtime, wish: VmWish, *, starts: bool = False) -> set[int]:
    """Refuse what can be refused before anything is written or made, the network `default` too.

    Returns the families in which its ports are published. Whether others translate them is not
    asked for a VM that ``starts`` at once: its start asks.
    """
    if runtime.read(records.find_vm, wish.name) is not None:
        raise Conflict(f"VM {wish.name!r} exists already", hint="hvtx vm ls")
    check_files(wish.kernel, wish.initrd, wish.disks)
    for port in wish.publish:
        holder = runtime.read(leases.port_holder, port)
        if holder:
            raise runtime.read(leases.port_conflict, port, holder)
    with runtime.reading() as sql:
        for mac in wish.macs:
            leases.refuse_taken_mac(sql, mac)
        known = {n: records.get_network(sql, n) for n in wish.networks if n != DEFAULT}
    networks = [
        default_draft(runtime) if name == DEFAULT else known[name]
        for name in wish.networks or (DEFAULT,)
    ]
    _check_addresses(runtime, wish, networks)
    families = {6 if ":" in subnet else 4 for subnet in networks[0].subnets}
    refuse_ports(runtime, wish.publish, () if starts else families)
    return families


def check_files(kernel: str | None, initrd: str | None, disks: Sequence[str]) -> None:
    """Raise NotFound for a file that is not there."""
    for path, what in ((kernel, "kernel"), (initrd, "initrd"), *((d, "disk") for d in disks)):
        if path is not None and not os.path.exists(path):
            raise NotFound(
                f"the {what} {path} does not exist",
                hint="put it there, or give a path that exists (relative ones count from here)",
            )


def warn_of_disks(kernel: str | None, disks: Sequence[str]) -> None:
    """Tell if a VM has nothing but disks to boot from, and cannot boot from any of them."""
    if kernel is None and disks and not any(map(_may_boot, disks)):
        has, it = ("has", "it") if len(disks) == 1 else ("have", "them")
        notice.warning(
            f"{', '.join(disks)} {has} no boot sector: without --kernel nothing boots from {it}"
        )


def _may_boot(path: str) -> bool:
    """Whether a disk image has a boot sector (MBR, or the one that GPT keeps), or may have one."""
    if path.endswith(".qcow2"):
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            first = os.pread(descriptor, 512, 0)
        finally:
            os.close(descriptor)
    except OSError:
        return True
    return first[510:] == b"\x55\xaa" or first.startswith(b"QFI\xfb")


def take_networks(runtime: Runtime, wish: VmWish) -> list[Network]:
    """The VM's networks, locked against removal; `default` is made if it is not there."""
    networks = [take_network(runtime, name) for name in wish.networks or (DEFAULT,)]
    _check_addresses(runtime, wish, networks)  # a network may have got another subnet by now
    return networks


def _check_addresses(runtime: Runtime, wish: VmWish, networks: Sequence[Network]) -> None:
    fours, sixes = _addresses(wish, networks)
    for four, six, network in zip(fours, sixes, networks, strict=True):
        for address in (four, six):
            if address:
                with advised(
                    f"hvtx network show {network.name} tells its subnets; without --ip a free"
                    " address is chosen"
                ):
                    addressing.check_guest_address(address, network)
                runtime.read(leases.refuse_taken_address, address)
    for port in wish.publish:  # they are the first interface's
        addressing.check_published(port, networks[0])
    wanted = [address for address in (*fours, *sixes) if address is not None]
    if wanted:
        own_addresses.refuse(wanted, own_addresses.in_subnets(networks))


def _addresses(
    wish: VmWish, networks: Sequence[Network]
) -> tuple[list[str | None], list[str | None]]:
    """The nth address of a family belongs to the nth network, unless leases say it whole."""
    if wish.leases:
        return [four for four, _ in wish.leases], [six for _, six in wish.leases]
    pad = [None] * len(networks)
    four: list[str | None] = [ip for ip in wish.ips if ":" not in ip]
    six: list[str | None] = [ip for ip in wish.ips if ":" in ip]
    return (four + pad)[: len(networks)], (six + pad)[: len(networks)]


def record_vm(
    operation: Operation,
    sql: Any,
    wish: VmWish,
    networks: Sequence[Network],
    *,
    committed: bool,
    taken: Collection[str] = (),
) -> tuple[Vm, list[Any]]:
    """Insert the VM, its interfaces, leases and ports; returns it and the rows of its leases.

    No address is leased that is among those ``taken``, the host's own, unless it was asked for.
    """
    vm = Vm(
        id=os.urandom(16).hex(),
        name=wish.name,
        hypervisor=wish.hypervisor,
        memory=wish.memory,
        cpus=wish.cpus,
        kernel=wish.kernel,
        initrd=wish.initrd,
        append=wish.append,
        disks=wish.disks,
        command=wish.command,
        directory=wish.directory,
        autostart=wish.autostart,
        interfaces=(),
        number=operation.id,  # which makes no other VM
    )
    records.add_vm(sql, vm, operation.id)
    fours, sixes = _addresses(wish, networks)
    wanted = [
        (
            network,
            wish.macs[n] if n < len(wish.macs) else provision.guest_mac(os.urandom(5)),
            fours[n],
            sixes[n],
            wish.publish if n == 0 else (),
        )
        for n, network in enumerate(networks)
    ]
    interfaces = leases.claim(sql, vm.id, wanted, taken)
    vm = vm._replace(interfaces=interfaces)
    return vm, operation.intend(
        sql,
        want_leases(interfaces),
        vm=vm.id,
        networks=lease_networks(interfaces),
        committed=committed,
    )


def want_leases(interfaces: Sequence[Interface]) -> list[Want]:
    """One lease resource per address."""
    return [
        Want(Kind.LEASE, address, {"address": address, "mac": interface.mac})
        for interface in interfaces
        for address in (interface.ipv4, interface.ipv6)
        if address
    ]


def lease_networks(interfaces: Sequence[Interface]) -> list[str | None]:
    """The network of each lease, in the order of :func:`want_leases`."""
    return [
        interface.network
        for interface in interfaces
        for address in (interface.ipv4, interface.ipv6)
        if address
    ]
