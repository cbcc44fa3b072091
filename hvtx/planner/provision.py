"""Resources of a VM's start and of a network, in the order of their creation. Pure.

Names, MACs and indexes arrive as random bytes from outside. Orders: a network is its settings, the
firewall's base (once an installation), the bridge, its addresses, its firewall elements; a VM is
its run-time directory, its TAPs, their firewall elements, and the process last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.model.address import family_of, with_port
from hvtx.model.firewall import FirewallSpec
from hvtx.model.limiting import told
from hvtx.model.mark import base32
from hvtx.model.policy import NO_LIMITS, Limits
from hvtx.model.resource import FLOWS_EACH, Kind
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.user import User
from hvtx.model.vm import Interface, Network, Publish, Vm
from hvtx.planner import egress
from hvtx.planner.exits import source_of

_ANY4 = "0.0.0.0"  # noqa: S104 - not bound to
_INDEX_BASE, _INDEX_SPAN = 1 << 24, 1 << 29  # far above what the kernel hands out by itself


class ResourceSpec(NamedTuple):
    """A resource to be made: its kind, its key for people, its specification."""

    kind: str
    key: str
    spec: dict[str, Any]


def device_name(random: bytes) -> str:
    """A TAP's name: ``hv`` and 60 random bits."""
    return "hv" + base32(random, 12)


def bridge_name(random: bytes) -> str:
    """A bridge's name: ``hvbr`` and 55 random bits."""
    return "hvbr" + base32(random, 11)


def device_index(random: bytes) -> int:
    """An interface index that the kernel would not choose: 2^24 and above."""
    return _INDEX_BASE + int.from_bytes(random[:4], "big") % _INDEX_SPAN


def guest_mac(random: bytes) -> str:
    """A guest's MAC: locally administered, unicast, ``02:``."""
    return "02:" + random[:5].hex(":")


def host_mac(random: bytes) -> str:
    """The MAC of a TAP's host side: ``fe:``, so that it never becomes a bridge's lowest."""
    return "fe:" + random[:5].hex(":")


def link_local(mac: str) -> str:
    """The modified EUI-64 address of a MAC (RFC 4291, appendix A)."""
    import ipaddress  # 2 ms that only a new network with IPv6 pays

    raw = bytes.fromhex(mac.replace(":", ""))
    tail = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + b"\0" * 6 + tail))


def network_addresses(network: Network) -> list[str]:
    """The host's addresses on a network's bridge, with prefix lengths."""
    found = [f"{gateway}/{cidr.partition('/')[2]}" for cidr, gateway in network.ranges]
    return [*found, f"{network.gateway6}/64"] if network.gateway6 else found


def want_network(
    network: Network,
    *,
    ifindex: int,
    bases: Sequence[str],
    settings: Sequence[tuple[str, str, str]],
    flows: int = FLOWS_EACH,
) -> tuple[list[ResourceSpec], list[ResourceSpec]]:
    """The installation's and the network's own resources, but for :func:`want_addresses`.

    ``bases`` names what :func:`missing_bases` found; ``settings`` are ``(path below /proc/sys,
    value, value before)`` of those that have to be turned on. The bridge is the first of the
    network's own. ``flows`` is how many tracked connections each of its guests may have.
    """
    shared = want_settings(settings)
    shared += want_bases(bases)
    own = [_bridge(network, ifindex), *network_rules(network, flows)]
    return shared, own


def want_bases(bases: Iterable[str]) -> list[ResourceSpec]:
    """Rows of the bases that :func:`missing_bases` named."""
    return [ResourceSpec(Kind.FILTER, f"{b} base", {**_base(b), "what": "base"}) for b in bases]


def want_network_policy(network: Network) -> list[ResourceSpec]:
    """What a network's guests may reach; nothing where that is what every network's may."""
    spec = egress.network_spec(network)
    return [] if spec is None else [ResourceSpec(Kind.FILTER, f"egress {network.name}", {**spec})]


def want_vm_policy(
    vm: Vm, interface: Interface, network: Network, device: str
) -> list[ResourceSpec]:
    """What a VM's interface may reach, and where it is counted what is refused to it."""
    spec = egress.vm_spec(vm, interface, network)
    return [] if spec is None else [ResourceSpec(Kind.FILTER, f"{device} egress", {**spec})]


def _bridge(network: Network, ifindex: int) -> ResourceSpec:
    spec = {
        "device": network.bridge,
        "ifindex": ifindex,
        "mac": network.mac,
        "mtu": network.mtu,
        "addresses": network_addresses(network),
        "guard": guards_bridge(network.firewall, nat=network.nat),
    }
    return ResourceSpec(Kind.BRIDGE, network.bridge, spec)


def want_addresses(network: Network, ifindex: int, bridge_mark: str) -> list[ResourceSpec]:
    """The addresses of a network's bridge, whose row has that mark by now: it is named in each."""
    return [
        ResourceSpec(
            Kind.ADDRESS,
            address,
            {
                "device": network.bridge,
                "ifindex": ifindex,
                "owner": bridge_mark,
                "address": address,
            },
        )
        for address in network_addresses(network)
    ]


def network_rules(network: Network, flows: int = FLOWS_EACH) -> list[ResourceSpec]:
    """What a network has beside its bridge and addresses: it follows from its record."""
    spec = {
        "backend": network.firewall,
        "what": "network",
        "bridge": network.bridge,
        "subnets": list(network.subnets),
        "nat": network.nat,
        "isolate": network.isolate,
        "gateway6": network.gateway6,
        "flows": flows,
        **({"uplink": network.uplink} if network.uplink else {}),
        **({} if network.passage or network.firewall != "iptables" else {"passage": False}),
    }
    own = ResourceSpec(Kind.FILTER, f"{network.firewall} network {network.name}", spec)
    return [own, *want_network_policy(network)]


def want_settings(settings: Sequence[tuple[str, str, str]]) -> list[ResourceSpec]:
    """Rows of settings that have to be turned on: ``(path, value, value before)`` each."""
    from hvtx.planner.forwarding import dotted

    return [
        ResourceSpec(Kind.SYSCTL, dotted(path), {"path": path, "value": value, "before": before})
        for path, value, before in settings
    ]


# What a network of each backend stands on: tables of nftables by their family, iptables' chains.
_STANDS_ON = {
    "nftables": ("nftables bridge", "nftables inet"),
    "iptables": ("nftables bridge", "iptables"),
}
_EGRESS_ON = "nftables inet"


def _base(name: str) -> dict[str, Any]:
    """The specification of a base by its name: ``iptables``, ``nftables`` or with a family."""
    backend, _, family = name.partition(" ")
    return {"backend": backend, "families": [family]} if family else {"backend": backend}


def _bases_of(spec: FirewallSpec) -> tuple[str, ...]:
    """The bases that a row of one stands for: earlier versions made both tables with one row."""
    if spec["backend"] != "nftables":
        return (spec["backend"],)
    return tuple(f"nftables {family}" for family in spec.get("families", ("bridge", "inet")))


def missing_bases(
    firewall: str, there: Iterable[FirewallSpec], *, limited: bool = False
) -> list[str]:
    """The bases that a network with this backend needs beside those with the specs ``there``.

    ``limited``: it, or a guest in it, has an egress policy, which is nftables' on each backend.
    """
    made = {base for spec in there for base in _bases_of(spec)}
    needed = dict.fromkeys((*_STANDS_ON[firewall], *((_EGRESS_ON,) if limited else ())))
    return [base for base in needed if base not in made]


def idle_base(spec: FirewallSpec, others: Iterable[str], *, limited: bool = False) -> bool:
    """Whether no network of those that stay, with the backends ``others``, stands on this base.

    ``limited``: one of them, or a guest in one, has an egress policy.
    """
    kept = {base for firewall in others for base in _STANDS_ON[firewall]}
    kept |= {_EGRESS_ON} if limited else set()
    return kept.isdisjoint(_bases_of(spec))


def port_guard(port: FirewallSpec, bridge_mac: str, addresses: Sequence[str]) -> dict[str, Any]:
    """What the filter on a TAP holds its guest to (:mod:`hvtx.rulesets.port_filter`).

    ``port`` is the specification of its firewall row; ``addresses`` are the host's on the bridge.
    """
    apart = {"bridge": bridge_mac, "addresses": list(addresses)}
    return {
        "mac": port["mac"],
        "ipv4": port.get("ipv4"),
        "ipv6": port.get("ipv6"),
        "gateway6": port.get("gateway6"),
        "apart": apart if port["isolate"] else None,
        **_more(port.get("more", ())),
    }


def _more(addresses: Iterable[str]) -> dict[str, list[str]]:
    """Further addresses of a guest, as a row has them: not at all where there are none."""
    found = list(addresses)
    return {"more": found} if found else {}


def guards_bridge(firewall: str, *, nat: bool) -> bool:
    """Whether a bridge lets only what carries the mark of nftables' table come from elsewhere."""
    return nat and firewall == "nftables"


def serves(port: Publish, interface: Interface) -> bool:
    """Whether a port leads to an address of the guest's, which is to be of its own family."""
    if port.host_ip is None:
        return bool(interface.ipv4 or interface.ipv6)
    return port.host_ip != "::1" and bool(interface.address(family_of(port.host_ip)))


def serves_loopback(spec: FirewallSpec) -> bool:
    """Whether a published port is reached from the host by an address of 127.0.0.0/8."""
    host = spec.get("host_ip")
    return bool(spec.get("ipv4")) and (not host or host == _ANY4 or host.startswith("127."))


def want_vm(
    vm: Vm,
    networks: Mapping[str, Network],
    *,
    bridges: Mapping[str, int],
    devices: Sequence[tuple[str, int, str]],
    directory: str | None,
    process: bool,
    flows: int = FLOWS_EACH,
    user: User | None = None,
) -> list[tuple[ResourceSpec, str | None]]:
    """A VM's resources with the network each belongs to.

    ``bridges`` gives the index of each network's bridge, ``devices`` a name, an index and a MAC for
    every interface, ``directory`` the run-time directory where the hypervisor needs one, ``flows``
    how many tracked connections it may have in each network. ``user`` is whom the process runs as;
    None: as hvtx.
    """
    own: dict[str, Any] = {} if user is None else {"owner": user.uid}
    if vm.queues > 1:
        own["queues"] = vm.queues
    wants: list[tuple[ResourceSpec, str | None]] = []
    if directory is not None:
        wants.append((ResourceSpec(Kind.FILE, directory, {"path": directory}), None))
        if vm.has_seed:
            from hvtx.planner.seed import seed_of

            wants.append((ResourceSpec(Kind.FILE, *seed_of(vm, networks, directory, user)), None))
    for interface, (device, ifindex, mac) in zip(vm.interfaces, devices, strict=True):
        network = networks[interface.network]
        wants += [
            (want._replace(spec=want.spec | own) if want.kind == Kind.TAP else want, network.id)
            for want in want_interface(
                interface,
                network,
                bridge=bridges[network.id],
                device=device,
                ifindex=ifindex,
                mac=mac,
                flows=flows,
                limits=vm.limits,
            )
        ]
        wants += [(w, network.id) for w in want_vm_policy(vm, interface, network, device)]
    if process:
        spec = {"hypervisor": vm.hypervisor, "directory": directory}
        wants.append((ResourceSpec(Kind.PROCESS, vm.name, spec), None))
    return wants


def want_interface(
    interface: Interface,
    network: Network,
    *,
    bridge: int,
    device: str,
    ifindex: int,
    mac: str,
    flows: int = FLOWS_EACH,
    limits: Limits = NO_LIMITS,
) -> list[ResourceSpec]:
    """The TAP of one interface and its firewall elements."""
    own = {"ipv4": interface.ipv4, "ipv6": interface.ipv6, **_more(interface.more)}
    port_spec: FirewallSpec = {
        "backend": "nftables",
        "what": "port",
        "device": device,
        "mac": interface.mac,
        "ipv4": interface.ipv4,
        "ipv6": interface.ipv6,
        "bridge": network.bridge,
        "gateway6": network.gateway6,
        "forward": network.firewall == "nftables",
        "isolate": network.isolate,
        "flows": flows,
    }
    if interface.more:
        port_spec["more"] = list(interface.more)
    tap_spec = {
        "device": device,
        "ifindex": ifindex,
        "bridge": network.bridge,
        "master": bridge,
        "mtu": network.mtu,
        "mac": mac,
        "guard": port_guard(port_spec, network.mac, network_addresses(network)),
    }
    if any(limits):
        tap_spec["limit"] = told(limits)
    wants = [
        ResourceSpec(Kind.TAP, device, tap_spec),
        ResourceSpec(Kind.FILTER, device, {**port_spec}),
    ]
    if network.firewall == "iptables":
        forward_spec = {"backend": "iptables", "what": "forward", **own}
        forward_spec["bridge"] = network.bridge
        wants.append(ResourceSpec(Kind.FILTER, f"{device} forward", forward_spec))
    if network.nat:
        wants += _masquerades(interface, network)
    return wants + _published(interface, network)


def _masquerades(interface: Interface, network: Network) -> list[ResourceSpec]:
    """One for each address of an interface."""
    spec = {"backend": network.firewall, "what": "masquerade"}
    return [
        ResourceSpec(
            Kind.MASQUERADE,
            address,
            {**spec, "address": address, "bridge": network.bridge, **_as(network, address)},
        )
        for address in interface.addresses
    ]


def _as(network: Network, address: str) -> dict[str, str]:
    """Whom a guest's address is outside, where the network says so."""
    source = source_of(network.sources, family_of(address))
    return {"source": source} if source else {}


def _published(interface: Interface, network: Network) -> list[ResourceSpec]:
    """One for each port of an interface that is published.

    A port which leads to no address of the guest's is on record by an earlier version: nothing in
    the kernel would stand for it.
    """
    wants = []
    for port in interface.publish:
        if not serves(port, interface):
            continue
        where = with_port(port.host_ip, port.host_port)
        spec = {
            "backend": network.firewall,
            "what": "publish",
            "protocol": port.protocol,
            "host_ip": port.host_ip,
            "host_port": port.host_port,
            "guest_port": port.guest_port,
            "ipv4": interface.ipv4,
            "ipv6": interface.ipv6,
            "bridge": network.bridge,
        }
        wants.append(ResourceSpec(Kind.PUBLISH, f"{where}/{port.protocol}", spec))
    return wants
