"""What a described set may be, beside itself and what is on record. Pure.

What could never be is told before anything is done; whether the host has it is seen by each step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hvtx.errors import Conflict, HvtxError, NotFound, UsageError, advised, placed
from hvtx.model.address import family_of, with_port
from hvtx.model.described import Difference, Known, WantedNetwork, WantedVm
from hvtx.model.nearest import nearest
from hvtx.model.vm import DEFAULT, Interface, Network, Publish, Vm, need_something_to_run
from hvtx.planner import addressing
from hvtx.planner.assigning import Asked, assigned, refuse_never_given
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
            if found is None:  # what an earlier version has leased stays, and doctor tells of it
                for asked, name in zip(addresses_of(vm, networks), vm.networks, strict=True):
                    refuse_never_given(asked.ipv6, networks[name])
            for name in vm.networks:
                refuse_names(vm.vm.policy, [networks[name]], *([_SERVED] if name in own else []))
    _check_ports(vms, known)
    _check_addresses(wanted, vms, known, networks)
    _check_room(vms, known, networks)


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


def fixed(vm: Vm, wanted: WantedVm, networks: Mapping[str, Network]) -> tuple[Difference, ...]:
    """What is given when a VM is created, and is otherwise: it would be made anew."""
    found = []
    if vm.hypervisor != wanted.vm.hypervisor:
        found.append(Difference("hypervisor", vm.hypervisor, wanted.vm.hypervisor))
    names = tuple(i.network_name for i in vm.interfaces)
    if names != wanted.networks:
        return (*found, Difference("network", list(names), list(wanted.networks)))
    asked = addresses_of(wanted, networks)
    if not all(
        each.ipv4 in (None, i.ipv4)
        and each.ipv6 in (None, i.ipv6)
        and set(each.more) == set(i.more)
        for each, i in zip(asked, vm.interfaces, strict=True)
    ):
        found.append(Difference("ip", _leased(vm.interfaces), list(wanted.ips)))
    macs = [i.mac for i in vm.interfaces]
    if any(mac != own for mac, own in zip(wanted.macs, macs, strict=False)):
        found.append(Difference("mac", macs, list(wanted.macs)))
    return tuple(found)


def _leased(interfaces: Iterable[Interface]) -> list[str]:
    return [address for interface in interfaces for address in interface.addresses]


def _check_addresses(
    wanted: Sequence[WantedNetwork],
    vms: Sequence[WantedVm],
    known: Known,
    networks: Mapping[str, Network],
) -> None:
    """An address or a MAC is one VM's; a VM that stays keeps what it has on record."""
    asked = [(vm, *each) for vm in vms for each in _asked(vm, networks)]
    described: dict[str, str] = {}
    for vm, option, value in asked:
        holder = described.setdefault(value, vm.name)
        if holder != vm.name:
            with placed(vm.where):
                raise _taken(f"{option} {value}", holder, (holder,), option)
    anew = _made_anew(vms, known, networks)
    held = {
        value: name
        for name, other in known.vms.items()
        if name not in anew
        for i in other.vm.interfaces
        for value in (*i.addresses, i.mac)
    }
    bridges = {found.mac: found.name for found in _staying(wanted, known)}
    for vm, option, value in asked:
        with placed(vm.where):
            if held.get(value, vm.name) != vm.name:
                raise _taken(f"{option} {value}", held[value], (), option)
            if value in bridges:
                raise Conflict(
                    f"{option} {value} is that of network {bridges[value]}'s bridge",
                    hint=f"choose another {option}, or leave it out: one is generated",
                )


def _made_anew(
    vms: Iterable[WantedVm], known: Known, networks: Mapping[str, Network]
) -> dict[str, WantedVm]:
    """Those on record that would be removed, with all that they have, and created."""
    found = {vm.name: vm for vm in vms if vm.name in known.vms}
    return {n: vm for n, vm in found.items() if fixed(known.vms[n].vm, vm, networks)}


def _staying(wanted: Iterable[WantedNetwork], known: Known) -> list[Network]:
    """The networks on record that are not removed."""
    described = {each.name: each for each in wanted}
    return [
        found
        for name, found in known.networks.items()
        if name not in described or not differing(found, described[name], NETWORK_FIXED)
    ]


def _check_room(vms: Sequence[WantedVm], known: Known, networks: Mapping[str, Network]) -> None:
    """No VM is removed to be made anew in a network that has no address left for it."""
    anew = _made_anew(vms, known, networks)
    if not anew:
        return
    had: Counter[tuple[str, int]] = Counter(
        (i.network_name, family_of(address))
        for name, other in known.vms.items()
        if name not in anew
        for i in other.vm.interfaces
        for address in i.addresses
    )
    for vm in vms:
        if vm.name in anew or vm.name not in known.vms:
            for asked, name in zip(addresses_of(vm, networks), vm.networks, strict=True):
                more = Counter(map(family_of, asked.more))
                had.update({(name, f): 1 + more[f] for f in networks[name].families})
    for vm in anew.values():
        for name in vm.networks:
            for subnet in networks[name].subnets if networks[name].block_size is None else ():
                if had[name, family_of(subnet)] > addressing.room(subnet):
                    with placed(vm.where):
                        raise Conflict(
                            f"network {name} has too few addresses in {subnet} for the VMs that are"
                            " to be in it",
                            hint="remove VMs, or make a larger network",
                        )


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
