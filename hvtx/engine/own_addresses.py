"""Addresses of the host itself: whatever device has one, no guest can have it, too.

The host answers for it, so that a guest with the same address is not reached: a VIP of keepalived,
say, or an address that somebody gave to a bridge. No lock keeps others from that, so it is asked
when an address is leased and once more when its VM starts; `doctor` tells of those that run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing

from hvtx.errors import Conflict, HostRefused
from hvtx.host import inet, routes
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.address import family_of
from hvtx.model.resource import Address
from hvtx.model.shell import word
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network, Vm


class Own(NamedTuple):
    """An address of the host in a subnet of guests."""

    address: str  # without its prefix length
    prefix: str  # as the host has it: "10.77.0.9/32"
    device: str


def in_subnets(networks: Iterable[Network]) -> dict[str, Own]:
    """What the host has in the networks' subnets beside their gateways, by address.

    Raises OSError, and HostRefused where addresses come and go too fast to be listed.
    """
    links = Links()
    try:
        found = own_among(_listed(links), networks)
        names: dict[int, str] = {}
        for one in found:
            if one.ifindex not in names:
                seen = links.get(ifindex=one.ifindex)
                names[one.ifindex] = seen.name if seen is not None else "a device"
    finally:
        links.close()
    told = (Own(one.address.partition("/")[0], one.address, names[one.ifindex]) for one in found)
    return {own.address: own for own in told}


def _listed(links: Links) -> list[Address]:
    try:
        return links.addresses()
    except DumpInterrupted as problem:
        raise _too_fast() from problem


def _too_fast() -> HostRefused:
    return HostRefused(
        "the host's addresses changed too fast to be listed",
        hint="try again when fewer of them come and go",
    )


def own_among(addresses: Iterable[Address], networks: Iterable[Network]) -> list[Address]:
    """Those of the host's ``addresses`` that a guest of ``networks`` could be leased (pure)."""
    known = list(networks)
    subnets = [_range(subnet) for network in known for subnet in network.subnets]
    gateways = {gateway for network in known for gateway in network.gateways}
    found = []
    for one in addresses:
        text = one.address.partition("/")[0]
        if text in gateways:
            continue
        octets = inet.packed(text)
        number = int.from_bytes(octets, "big")
        if any((len(octets), number >> bits) == (size, first) for size, first, bits in subnets):
            found.append(one)
    return found


def _range(subnet: str) -> tuple[int, int, int]:
    """A subnet as numbers: octets of an address, what its addresses share, bits that they do not.

    Not by ipaddress, which takes a start longer to load than all of this.
    """
    text, _, length = subnet.partition("/")
    octets = inet.packed(text)
    bits = 8 * len(octets) - int(length)
    return len(octets), int.from_bytes(octets, "big") >> bits, bits


def refuse(wanted: Iterable[str | None], own: Mapping[str, Own]) -> None:
    """Raise Conflict if one of the addresses that are ``wanted`` is the host's own."""
    for address in wanted:
        if address is not None and address in own:
            device = own[address].device
            raise Conflict(
                f"the address {address} is this host's own: device {device} has it",
                hint="choose another address; `hvtx explain` and `ip addr` show who has one",
            )


def refuse_start(vm: Vm, networks: Collection[Network], local: routes.LocalTable) -> None:
    """Raise Conflict if the host has an address of a VM that is to be started.

    The host's table ``local`` says so of one that it answers for: a look that no guest makes
    longer; ``local`` is one of now. All addresses of all links are listed only to name the device
    that has it. An address of a link that is down, or in a VRF, is not in it, and nobody answers
    for it to guests: `doctor` tells of those too. Raises as :func:`in_subnets`.
    """
    addresses = [address for interface in vm.interfaces for address in interface.addresses]
    if not _answered(addresses, local):
        return
    refuse_vm(vm, in_subnets(networks))


def refuse_vm(vm: Vm, own: Mapping[str, Own]) -> None:
    """Raise Conflict if the host has an address of a VM; its own are known."""
    for interface in vm.interfaces:
        for address in interface.addresses:
            if address in own:
                raise Conflict(
                    f"the address {address} of VM {vm.name!r} is now this host's own: device "
                    f"{own[address].device} has it",
                    hint=f"{fix(own[address])}, or make the VM again with another --ip",
                )


def _answered(addresses: Sequence[str], local: routes.LocalTable) -> bool:
    """Whether the host answers for one of these addresses."""
    try:
        return any(
            inet.packed(address) in [packed for _, packed in local.of(family_of(address))]
            for address in addresses
        )
    except DumpInterrupted as problem:
        raise _too_fast() from problem


def fix(own: Own) -> str:
    """The command that takes an address off the host (pure)."""
    return f"ip addr del {own.prefix} dev {word(own.device)}"


def taken_from(vms: Sequence[Vm], own: Mapping[str, Own]) -> list[tuple[Vm, Own]]:
    """The VMs of which the host has an address (pure)."""
    return [
        (vm, own[address])
        for vm in vms
        for interface in vm.interfaces
        for address in interface.addresses
        if address in own
    ]


class Wrong(NamedTuple):
    """An entry of the host's neighbour table that leads past a guest."""

    vm: Vm
    address: str
    mac: str  # whose the entry says that it is
    device: str


def wrong_neighbours(vms: Sequence[Vm], bridges: Mapping[str, tuple[int, str]]) -> list[Wrong]:
    """Entries that somebody made for guests' addresses, with others' MAC addresses.

    ``bridges`` are index and name of each network's bridge, by its id. Raises OSError.
    """
    links = Links()
    try:
        entered = {(index, address): mac for index, address, mac in links.fixed_neighbours()}
    finally:
        links.close()
    found = []
    for vm in vms:
        for interface in vm.interfaces:
            index, device = bridges.get(interface.network, (0, ""))
            for address in interface.addresses:
                mac = entered.get((index, address))
                if mac is not None and mac != interface.mac:
                    found.append(Wrong(vm, address, mac, device))
    return found


class Astray(NamedTuple):
    """An entry of a bridge's table that leads frames for a guest elsewhere.

    ``port`` is the device that it is entered at: a port, or (``own``) the bridge itself.
    """

    vm: Vm
    mac: str
    port: str
    local: bool  # to the host
    own: bool = False

    @property
    def fix(self) -> str:
        """The command that takes the entry: the kernel knows a ``master`` of ports alone."""
        return f"bridge fdb del {self.mac} dev {word(self.port)} {'self' if self.own else 'master'}"


def led_astray(
    vms: Sequence[Vm],
    bridges: Mapping[str, tuple[int, str]],
    ports: Mapping[tuple[str | None, str | None], int],
) -> list[Astray]:
    """Entries of bridges' tables by which a guest gets nothing that is sent to it.

    ``bridge fdb add`` without a word more makes a local one, at whatever port. ``ports`` are the
    indexes of VMs' devices by VM and network, both by id. Raises OSError.
    """
    guests = {
        (bridges[interface.network][0], interface.mac): (vm, ports.get((vm.id, interface.network)))
        for vm in vms
        for interface in vm.interfaces
        if interface.network in bridges
    }
    with closing(Links()) as links:
        found = []
        for bridge, port, mac, local in links.fixed_in_bridges():
            vm, own = guests.get((bridge, mac), (None, None))
            if vm is not None and (local or (own is not None and own != port)):
                at = links.get(ifindex=port)
                name = at.name if at is not None else f"if{port}"
                found.append(Astray(vm, mac, name, local, own=port == bridge))
    return found
