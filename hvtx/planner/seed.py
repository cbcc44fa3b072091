"""What a VM's seed says, beside its user-data: who the guest is, and its addresses. Pure.

Each interface is found by its MAC address and called ``eth0`` and so on, whatever the guest's own
rules would call it, since not every renderer of cloud-init can do without a name. In a network with
a service of its own (``dhcp``) the guest asks that, for each family that it has an address of, and
what it has beside one of each stands here; else its addresses, its way out and its MTU do.
``0.0.0.0/0`` is written instead of ``default``, which cloud-init takes for an error where there is
no netplan, and ``gateway6`` for the first way out over IPv6, since ``::/0`` is a route to ::/64
there (docs/libraries.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hvtx.model.address import family_of
from hvtx.model.seed import ROLE, SEED
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.model.user import User
    from hvtx.model.vm import Interface, Network, Vm

USUAL_MTU = 1500
_EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
# Of the first interface's way out; those of the others come after it. gateway6 has none of its own.
_METRICS = {4: 100, 6: 1024}


def seed_of(
    vm: Vm, networks: Mapping[str, Network], directory: str, user: User | None
) -> tuple[str, dict[str, Any]]:
    """Where the seed of a VM is, in its run-time ``directory``, and its specification."""
    path = f"{directory}/{SEED}"
    spec: dict[str, Any] = {
        "path": path,
        "what": ROLE,
        "user_data": vm.user_data,
        "meta_data": meta_data(vm),
        "network_config": network_config(vm, networks),
    }
    return path, spec if user is None else {**spec, "owner": user.uid, "group": user.gid}


def meta_data(vm: Vm) -> dict[str, Any]:
    """Who the guest is: the VM's id, so that a new VM with an old disk is another instance."""
    found: dict[str, Any] = {"instance-id": vm.id, "local-hostname": vm.name}
    return {**found, "public-keys": list(vm.ssh_keys)} if vm.ssh_keys else found


def network_config(vm: Vm, networks: Mapping[str, Network]) -> dict[str, Any]:
    """The guest's interfaces, in version 2 of the format."""
    told = [i for i in vm.interfaces if not networks[i.network].dhcp and i.ipv6 is not None]
    cards = {
        f"eth{interface.position}": _card(
            interface, networks[interface.network], first6=interface in told[:1]
        )
        for interface in vm.interfaces
    }
    return {"version": 2, "ethernets": cards}


def _card(interface: Interface, network: Network, *, first6: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "match": {"macaddress": interface.mac},
        "set-name": f"eth{interface.position}",
    }
    if network.mtu != USUAL_MTU:
        found["mtu"] = network.mtu
    ways = {family_of(subnet): (subnet, gateway) for subnet, gateway in network.ranges}

    def listed(addresses: Iterable[str]) -> list[str]:
        return [f"{a}/{ways[family_of(a)][0].partition('/')[2]}" for a in addresses]

    if network.dhcp:
        found |= {"dhcp4": interface.ipv4 is not None, "dhcp6": interface.ipv6 is not None}
        return {**found, "addresses": listed(interface.more)} if interface.more else found
    addresses = interface.addresses
    told = {
        **found,
        "dhcp4": False,
        "dhcp6": False,
        "addresses": listed(addresses),
        "routes": [
            {
                "to": _EVERYWHERE[family],
                "via": way[1],
                "metric": _METRICS[family] + interface.position,
            }
            for family, way in ways.items()
            if any(family_of(address) == family for address in addresses)
            and not (first6 and family == 6)
        ],
    }
    return {**told, "gateway6": ways[6][1]} if first6 else told
