"""What a network and a VM are given once, when they are created: another value is refused. Pure.

A value that they have already is no change, so that who says the whole of a thing is not refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.errors import Conflict, UsageError, advised
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network, Vm
from hvtx.planner import addressing
from hvtx.planner.assigning import assigned

MTU_LEAST, MTU_MOST = 576, 65521  # of a TAP device: 65535 less an Ethernet header


class OfNetwork(NamedTuple):
    """What was written of it; None, or nothing, leaves it as it is."""

    subnets: Sequence[str] = ()
    bridge: str | None = None
    mtu: int | None = None
    nat: bool | None = None


class OfVm(NamedTuple):
    """The same of a VM."""

    networks: Sequence[str] = ()
    ips: Sequence[str] = ()
    macs: Sequence[str] = ()


def parse_network(given: OfNetwork) -> OfNetwork:
    """It, checked by itself. Raises UsageError."""
    with advised("write it as 10.77.0.0/24 or fd77::/64"):
        subnets = tuple(addressing.parse_subnet(subnet) for subnet in given.subnets)
    if given.bridge is not None:
        addressing.parse_device(given.bridge)
    if given.mtu is not None and not MTU_LEAST <= given.mtu <= MTU_MOST:
        raise UsageError(
            f"--mtu {given.mtu} is not between {MTU_LEAST} and {MTU_MOST}",
            hint="1500 is Ethernet's; IPv6 needs 1280 at least",
        )
    return given._replace(subnets=subnets)


def parse_vm(given: OfVm) -> OfVm:
    """The same of a VM."""
    for name in given.networks:
        addressing.parse_name(name, "network")
    with advised("write it as 10.77.0.5 or fd77::5"):
        ips = tuple(addressing.parse_address(ip, of="--ip") for ip in given.ips)
    with advised("write it as 02:11:22:33:44:55"):
        macs = tuple(addressing.parse_mac(mac, of="--mac") for mac in given.macs)
    return given._replace(ips=ips, macs=macs)


def refuse_network(network: Network, given: OfNetwork) -> None:
    """Raise Conflict for what is to be otherwise of a network."""
    asked, has, why = "", "", ""
    if given.subnets and set(given.subnets) != set(network.subnets):
        asked = " ".join(f"--subnet {subnet}" for subnet in given.subnets)
        has = f"{'subnets' if len(network.subnets) > 1 else 'subnet'} {', '.join(network.subnets)}"
        why = "the addresses of its guests are leased from it"
    elif given.bridge not in (None, network.bridge):
        asked, has = f"--bridge {given.bridge}", f"bridge {network.bridge}"
        why = "devices of its VMs are ports of that bridge, and rules name it"
    elif given.mtu not in (None, network.mtu):
        asked, has = f"--mtu {given.mtu}", f"MTU {network.mtu}"
        why = "its bridge and the devices of its VMs are made with it"
    elif given.nat not in (None, network.nat):
        asked, has = "--nat" if given.nat else "--no-nat", "NAT" if network.nat else "no NAT"
        why = "rules of each of its VMs follow from it"
    if not asked:
        return
    name = network.name
    subnet = "" if given.subnets else "--subnet CIDR "
    raise Conflict(
        f"network {name!r} has {has} for as long as it is on record: {why}",
        hint=f"make another: hvtx network create NAME {subnet}{asked}; or, once no VM is in it,"
        f" hvtx network rm {name} and create it anew",
    )


def refuse_vm(vm: Vm, given: OfVm, networks: Mapping[str, Network]) -> None:
    """Raise Conflict for what is to be otherwise of a VM; ``networks`` are its own, by id.

    Raises UsageError for an address that its networks could not have.
    """
    own = [interface.network_name for interface in vm.interfaces]
    if given.networks and list(given.networks) != own:
        has = f"is in {'networks' if len(own) > 1 else 'network'} {', '.join(own) or 'none'}"
        asked = _options("network", given.networks)
        raise _kept(vm, has, "its devices and addresses are of them", asked)
    has_ips = [address for each in vm.interfaces for address in each.addresses]
    places = [networks[interface.network] for interface in vm.interfaces]
    asked_ips = assigned(given.ips, places) if places else []
    for asked_of, place in zip(asked_ips, places, strict=True):
        for address in asked_of.addresses:
            addressing.check_guest_address(address, place)
    if not set(given.ips) <= set(has_ips):
        has = _has("address", has_ips)
        raise _kept(vm, has, "addresses are leased when a VM is created", _options("ip", given.ips))
    macs = [interface.mac for interface in vm.interfaces]
    if list(given.macs) != macs[: len(given.macs)]:
        has = _has("MAC address", macs)
        raise _kept(vm, has, "its guest knows the card by it", _options("mac", given.macs))


def _has(what: str, values: Sequence[str]) -> str:
    if not values:
        return f"has no {what}"
    return f"has the {what}{'es' if len(values) > 1 else ''} {', '.join(values)}"


def _options(option: str, values: Iterable[str]) -> str:
    return " ".join(f"--{option} {value}" for value in values)


def _kept(vm: Vm, has: str, why: str, asked: str) -> Conflict:
    return Conflict(
        f"VM {vm.name!r} {has} for as long as it is on record: {why}",
        hint=f"create another: hvtx vm create NAME {asked}; or this one anew, as"
        f" `hvtx vm show {vm.name}` tells it: hvtx vm rm {vm.name} --force, then"
        f" hvtx vm create {vm.name} {asked}",
    )
