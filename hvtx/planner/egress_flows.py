"""Whether a flow that goes on would be let through anew by the egress policies of now. Pure.

The same order as the rules of :mod:`hvtx.rulesets.nftables_egress`: known flows pass them unasked,
so those that a change refuses are found here, and ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from hvtx.model.firewall import FirewallSpec, addresses_in
from hvtx.model.policy import INTERNET, NONE, OPEN, EgressRule, is_name, names_in
from hvtx.model.typed import NamedTuple
from hvtx.rulesets.egress_boxes import range_of
from hvtx.rulesets.nftables_egress import (
    LINK_LOCAL4,
    METADATA4,
    METADATA6,
    NOT_THE_WORLD4,
    NOT_THE_WORLD6,
    THE_WORLD6,
)
from hvtx.rulesets.packing import link_local, packed

_PROTOCOLS = {"tcp": 6, "udp": 17}
_ECHO = {1, 58}
_NEEDED = {(17, 67), (17, 547)}  # of the host, whatever is denied
_NAMES = {(17, 53), (6, 53)}


class Sent(NamedTuple):
    """Where a flow leads, whoever translated it: a packed address, a protocol, a port or 0."""

    to: bytes
    protocol: int
    port: int
    local: bool  # an address of the host
    gateway: bool = False  # and one of the sender's own bridge
    near: bool = False  # of another network of guests on this host
    translated: bool = False  # it was sent to another address, or to another port


Named = Callable[[str, str], Collection[bytes]]  # by bridge and name: its addresses of now


def nothing(_bridge: str, _name: str) -> Collection[bytes]:
    """The addresses of names where nobody knows any."""
    return ()


def permitted(sent: Sent, policies: Sequence[FirewallSpec], named: Named = nothing) -> bool:
    """Whether policies let it pass; ``policies`` are those that are asked, a VM's own first."""
    if sent.local and (sent.protocol, sent.port) in _NEEDED:
        return True
    mode = OPEN
    for spec in policies:
        if "egress" not in spec:
            continue
        rules = [EgressRule(*rule) for rule in spec.get("rules", ())]  # type: ignore[arg-type]
        for action in ("deny", "allow"):
            if any(rule.action == action and _matches(rule, sent) for rule in rules):
                return action == "allow"
        if any(_is_named(rule, sent, named, spec.get("bridge", "")) for rule in names_in(rules)):
            return True
        if spec["egress"] is not None:
            mode = spec["egress"]
            break
    return _by_mode(mode, sent)


def _by_mode(mode: str, sent: Sent) -> bool:
    if sent.local:
        names = sent.gateway and (sent.protocol, sent.port) in _NAMES
        return mode == OPEN or names or sent.protocol in _ECHO
    if sent.near and sent.translated:  # a published port
        return True
    if mode == NONE:
        return False
    six = len(sent.to) == 16
    if mode == INTERNET:
        inside = not six or _within(sent.to, (THE_WORLD6,))
        refused = sent.near or _within(sent.to, NOT_THE_WORLD6 if six else NOT_THE_WORLD4)
        return inside and not refused
    return not _within(sent.to, METADATA6 if six else (LINK_LOCAL4, *METADATA4))


def _is_named(rule: EgressRule, sent: Sent, named: Named, bridge: str) -> bool:
    """Whether it is to an address of a name; one that is not on the internet never is."""
    if sent.local or sent.to not in named(bridge, rule.to):
        return False
    return _by_mode(INTERNET, sent) and _at_port(rule, sent)


def _matches(rule: EgressRule, sent: Sent) -> bool:
    return not is_name(rule) and _within(sent.to, (rule.to,)) and _at_port(rule, sent)


def _at_port(rule: EgressRule, sent: Sent) -> bool:
    if rule.first_port is None:
        return True
    known = {_PROTOCOLS[rule.protocol]} if rule.protocol else set(_PROTOCOLS.values())
    last = rule.last_port or rule.first_port
    return sent.protocol in known and rule.first_port <= sent.port <= last


def _within(address: bytes, subnets: Iterable[str]) -> bool:
    number = int.from_bytes(address, "big")
    for subnet in subnets:
        size, first, last = range_of(subnet)
        if size == len(address) and first <= number <= last:
            return True
    return False


Policies = tuple[FirewallSpec, ...]  # those that are asked, a VM's own first


class Going(NamedTuple):
    """A flow that is known: who sends, and where it leads in the end."""

    source: bytes
    to: bytes
    protocol: int
    port: int
    translated: bool


class Near(NamedTuple):
    """A network of guests on this host."""

    bridge: str
    subnets: Sequence[str]
    native: bool  # its backend is nftables


class Host(NamedTuple):
    """What of the host a flow is judged by."""

    addresses: Collection[bytes]
    gateways: Mapping[str, Collection[bytes]]  # by bridge of who is concerned: addresses on it
    starts: Sequence[tuple[int, int]] = ()  # of all subnets: the size of addresses, the first
    ends: Sequence[tuple[int, Near]] = ()  # in the same order: the last, and whose it is

    def network(self, address: bytes) -> Near | None:
        """The network that an address is of."""
        number = int.from_bytes(address, "big")
        at = bisect_right(self.starts, (len(address), number)) - 1
        if at < 0 or self.starts[at][0] != len(address):
            return None
        last, found = self.ends[at]
        return found if number <= last else None


def host(
    addresses: Collection[bytes],
    gateways: Mapping[str, Collection[bytes]],
    networks: Iterable[Near],
) -> Host:
    """A host with these networks, none of whose subnets overlap."""
    ranges = sorted(
        (range_of(subnet), number, each)
        for number, each in enumerate(networks)
        for subnet in each.subnets
    )
    starts = [(size, first) for (size, first, _), _, _ in ranges]
    return Host(addresses, gateways, starts, [(last, each) for (_, _, last), _, each in ranges])


class Guests(NamedTuple):
    """The policies that hold for guests of the networks that are concerned."""

    addresses: Mapping[bytes, Policies]  # of VMs with one of their own
    macs: Mapping[tuple[str, str], Policies]  # the same by bridge and MAC address
    networks: Mapping[str, Policies]  # of the others, by bridge
    bridges: Mapping[str, Sequence[Policies]]  # all that hold for somebody on a bridge


def guests(vms: Iterable[FirewallSpec], networks: Iterable[FirewallSpec]) -> Guests:
    """Those of VMs with a policy of their own and of networks, by their specifications."""
    shared: dict[str, Policies] = {spec["bridge"]: (spec,) for spec in networks}
    bridges = {bridge: [asked] for bridge, asked in shared.items()}
    addresses: dict[bytes, Policies] = {}
    macs: dict[tuple[str, str], Policies] = {}
    for spec in vms:
        bridge = spec["bridge"]
        asked = (spec, *shared.get(bridge, ()))
        addresses.update((packed(address), asked) for address in addresses_in(spec))
        macs[bridge, spec["mac"]] = asked
        bridges.setdefault(bridge, []).append(asked)
    return Guests(addresses, macs, shared, bridges)


class Port(NamedTuple):
    """A guest's device, and whom it is held to."""

    device: str
    bridge: str
    mac: str


class LinkUse(NamedTuple):
    """Who uses link-local addresses, as far as it is known."""

    ports: Mapping[bytes, Sequence[Port]]  # by address: guests in the networks that are concerned
    known: Collection[bytes]  # addresses that somebody uses


def link_use(ports: Iterable[Port], seen: Iterable[tuple[str, bytes]]) -> LinkUse:
    """Each guest has the address that follows from its MAC, and those that it has sent from.

    ``seen``: devices of guests, in other networks too, with these addresses.
    """
    devices, found, known = {}, {}, set()
    for port in ports:
        devices[port.device] = port
        found[link_local(port.mac)] = [port]
    for device, address in seen:
        known.add(address)
        if device in devices:
            found.setdefault(address, []).append(devices[device])
    return LinkUse(found, known | found.keys())


def is_link_local(address: bytes) -> bool:
    """Whether an address is one of fe80::/10, which is no guest's lease."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def senders(flow: Going, those: Guests, at: Host, links: LinkUse) -> list[Policies]:
    """The policies of all who may be behind a link-local address that talks to the host.

    Of whom nobody knows, it is whoever is on the bridge: it is better to end too much.
    """
    found: list[Policies] = []
    ports = links.ports.get(flow.source, ())
    for bridge, gateways in at.gateways.items():
        certain = is_link_local(flow.to)
        if certain and flow.to not in gateways:
            continue  # it is on another link
        here = [port for port in ports if port.bridge == bridge]
        for port in here:
            asked = those.macs.get((bridge, port.mac)) or those.networks.get(bridge)
            found += [asked] if asked else []
        if not here and (certain or flow.source not in links.known):
            found += those.bridges.get(bridge, ())
    return found


def refused(
    flow: Going,
    those: Guests,
    at: Host,
    links: Callable[[], LinkUse],
    named: Named = nothing,
) -> bool:
    """Whether a flow of a guest's would not pass now; flows within a network always do.

    ``links`` is called for what comes to the host from a link-local address, and only for that:
    what it raises is raised.
    """
    if is_link_local(flow.source):
        if flow.to not in at.addresses:
            return False  # it is never forwarded
        every = senders(flow, those, at, links())
        return any(_refused(flow, policies, at, named) for policies in every)
    policies = those.addresses.get(flow.source)
    if policies is None and (network := at.network(flow.source)) is not None:
        policies = those.networks.get(network.bridge)
    return policies is not None and _refused(flow, policies, at, named)


def _refused(flow: Going, policies: Policies, at: Host, named: Named) -> bool:
    bridge, local = policies[0]["bridge"], flow.to in at.addresses
    near = None if local else at.network(flow.to)
    if near and (near.bridge == bridge or (near.native and flow.translated)):
        return False
    gateway = flow.to in at.gateways.get(bridge, ())
    sent = Sent(
        flow.to, flow.protocol, flow.port, local, gateway, near is not None, flow.translated
    )
    return not permitted(sent, policies, named)
