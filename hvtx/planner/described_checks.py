"""What a described set may be, beside itself and what is on record. Pure.

What could never be is told before anything is done; whether the host has it is seen by each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.errors import Conflict, HvtxError, NotFound, UsageError, advised, placed
from hvtx.model.address import with_port
from hvtx.model.described import Known, WantedNetwork, WantedVm
from hvtx.model.nearest import nearest
from hvtx.model.vm import DEFAULT, Network, Publish, Vm, need_something_to_run
from hvtx.planner import addressing
from hvtx.planner.assigning import Asked, assigned
from hvtx.planner.egress_rules import refuse_names
from hvtx.planner.scope import refuse_attachment

NETWORK_FIXED = ("subnets", "bridge", "mtu", "nat", "block_size")  # a network is given them once


def networks_then(
    wanted: Iterable[WantedNetwork], vms: Iterable[WantedVm], known: Known
) -> dict[str, Network]:
    """The networks that there will be, by name, as far as addresses depend on them.

    Raises NotFound for one that a VM is to be in.
    """
    found = dict(known.networks)
    for each in wanted:
        found[each.name] = _draft(each, _is_served(each, known))
    if known.default is not None:
        found.setdefault(DEFAULT, known.default)
    for vm in vms:
        for name in vm.networks:
            if name not in found:
                likely = nearest(name, found)
                guess = f"did you mean {likely!r}? " if likely else ""
                with placed(vm.where):
                    raise NotFound(
                        f"there is no network {name!r}",
                        hint=f"{guess}describe it as [networks.{name}], or make it: hvtx network"
                        f" create {name} --subnet 10.77.0.0/24",
                    )
    return found


def differing(found: Network | Vm, wanted: WantedNetwork | Vm, fields: Iterable[str]) -> list[str]:
    """Which of these fields are otherwise; None as a network's bridge, service or blocks is any."""
    return [
        field
        for field in fields
        if getattr(found, field) != (new := getattr(wanted, field))
        and (new is not None or field not in ("bridge", "dhcp", "block_size"))
    ]


def _is_served(wanted: WantedNetwork, known: Known) -> bool:
    """Whether the network will have a DNS of its own."""
    found = known.networks.get(wanted.name)
    if wanted.dhcp is not None:
        return wanted.dhcp
    if found is None or differing(found, wanted, NETWORK_FIXED):
        return wanted.name not in known.unserved
    return found.dhcp


def _draft(wanted: WantedNetwork, served: bool) -> Network:
    return Network(
        id="",
        name=wanted.name,
        bridge=wanted.bridge or "",
        mac="",
        mtu=wanted.mtu,
        nat=wanted.nat,
        isolate=wanted.isolate,
        firewall="",
        subnets=wanted.subnets,
        gateways=tuple(addressing.gateway_of(subnet) for subnet in wanted.subnets),
        gateway6=None,
        dhcp=served,
    )


def addresses_of(wanted: WantedVm, networks: Mapping[str, Network]) -> list[Asked]:
    """The addresses that are asked for, of each interface. Raises UsageError."""
    return assigned(wanted.ips, [networks[name] for name in wanted.networks])


_SERVED = "describe network {} with dhcp = true"


def check(
    wanted: Sequence[WantedNetwork],
    vms: Sequence[WantedVm],
    known: Known,
    networks: Mapping[str, Network],
) -> None:
    """Raise UsageError for what could never be, Conflict for what somebody has who is on record."""
    _check_networks(wanted, known)
    own = {each.name for each in wanted}
    for each in wanted:
        with placed(each.where):
            refuse_names(each.policy, [networks[each.name]], _SERVED)
    for vm in vms:
        with placed(vm.where):
            found = known.vms.get(vm.name)
            if found is not None:
                refuse_attachment(found.vm)
            _check_vm(vm, networks, up=found is not None and found.up)
            for name in vm.networks:
                refuse_names(vm.vm.policy, [networks[name]], *([_SERVED] if name in own else []))
    _check_ports(vms, known)
    _check_addresses(vms, known, networks)


def _check_networks(wanted: Sequence[WantedNetwork], known: Known) -> None:
    own = {each.name for each in wanted}
    taken = {s: n.name for n in known.networks.values() if n.name not in own for s in n.subnets}
    bridges = {n.bridge: n.name for n in known.networks.values() if n.name not in own}
    here: dict[str, str] = {}
    for each in wanted:
        with placed(each.where):
            for subnet in each.subnets:
                _refuse_overlap(subnet, here, taken)
                here[subnet] = each.name
            if each.bridge is not None and each.bridge in bridges:
                other = bridges[each.bridge]
                kind = UsageError if other in own else Conflict
                raise kind(
                    f"the bridge {each.bridge} is that of network {other}",
                    hint="choose another bridge, or leave it out: a name is generated",
                )
            if each.bridge is not None:
                bridges[each.bridge] = each.name


def _refuse_overlap(subnet: str, here: Mapping[str, str], taken: Mapping[str, str]) -> None:
    for some, kind in ((here, UsageError), (taken, Conflict)):
        other = addressing.overlap(subnet, some)
        if other is not None:
            raise kind(
                f"{subnet} overlaps {other} of network {some[other]}",
                hint="choose another subnet; hvtx network ls shows what is on record",
            )


def _check_vm(vm: WantedVm, networks: Mapping[str, Network], *, up: bool) -> None:
    for asked, name in zip(addresses_of(vm, networks), vm.networks, strict=True):
        for address in asked.addresses:
            with advised(f"hvtx network show {name} tells its subnets; without ip any is chosen"):
                addressing.check_guest_address(address, networks[name])
    for name, port in vm.published():
        addressing.check_published(port, networks[name])
    if vm.start or up:  # what is up is started again, whatever it is stopped for
        need_something_to_run(vm.vm)


def _check_ports(vms: Sequence[WantedVm], known: Known) -> None:
    own = {vm.name for vm in vms}
    held: dict[tuple[str, int], list[tuple[str, Publish]]] = {}
    for name, other in known.vms.items():
        if name not in own:
            for interface in other.vm.interfaces:
                for port in interface.publish:
                    held.setdefault((port.protocol, port.host_port), []).append((name, port))
    for vm in vms:
        for _, port in vm.published():
            there = held.setdefault((port.protocol, port.host_port), [])
            holder = next((n for n, p in there if n != vm.name and p.collides(port)), None)
            if holder is not None:
                words = f"{with_port(port.host_ip, port.host_port)}/{port.protocol}"
                with placed(vm.where):
                    raise _taken(f"host port {words}", holder, own, "host port")
            there.append((vm.name, port))


def _check_addresses(
    vms: Sequence[WantedVm], known: Known, networks: Mapping[str, Network]
) -> None:
    """An address or a MAC is one VM's; one that is not asked for stays as it is on record."""
    own = {vm.name for vm in vms}
    asked = {vm.name: _asked(vm, networks) for vm in vms}
    held: dict[str, tuple[str, bool]] = {}
    for name, other in known.vms.items():
        for option in ("ip", "mac"):
            if any(of == option for of, _ in asked.get(name, ())):
                continue
            for i in other.vm.interfaces:
                for value in i.addresses if option == "ip" else (i.mac,):
                    held[value] = (name, False)
    for vm in vms:
        for option, value in asked[vm.name]:
            holder, described = held.setdefault(value, (vm.name, True))
            if holder != vm.name:
                with placed(vm.where):
                    raise _taken(f"{option} {value}", holder, own if described else (), option)


def _asked(vm: WantedVm, networks: Mapping[str, Network]) -> list[tuple[str, str]]:
    found = [("ip", a) for each in addresses_of(vm, networks) for a in each.addresses]
    return found + [("mac", mac) for mac in vm.macs]


def _taken(what: str, holder: str, own: Iterable[str], option: str) -> HvtxError:
    if holder in own:
        return UsageError(
            f"{what} is VM {holder}'s as well", hint=f"give each VM of the set its own {option}"
        )
    return Conflict(
        f"{what} is VM {holder}'s on record",
        hint=f"choose another {option}; hvtx vm show {holder} shows what it has",
    )
