"""The rules that a row stands for, in the words of ``iptables-save`` (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from hvtx.errors import HostRefused
from hvtx.model.address import family_of
from hvtx.model.firewall import FirewallSpec, addresses_in, firewall_spec, iptables_observed
from hvtx.model.mark import parse_mark
from hvtx.model.place import Place, legacy_place, parse_place
from hvtx.model.resource import FLOWS_EACH, Resource
from hvtx.model.typed import NamedTuple
from hvtx.rulesets.nftables_egress import LINK_LOCAL4, METADATA4, METADATA6, UNDECIDED

BACKEND = "iptables"
_TOOLS = {4: "iptables", 6: "ip6tables"}
_FAMILIES = {tool: family for family, tool in _TOOLS.items()}
_CHAINS = {"filter": ("PASS", "WAY"), "mangle": ("FWD",), "nat": ("PRE", "OUT", "POST")}
TABLES = tuple(_CHAINS)
# Where what drops must come before what others let pass.
GUARDS = frozenset({("mangle", "FORWARD"), ("mangle", "PREROUTING")})
_FORMER = {"filter": ("FWD",)}  # of earlier versions: seen and removed, never made
_LOOPBACK = "127.0.0.0/8"


class Rule(NamedTuple):
    """A rule: where it stands and its words, without ``-A CHAIN`` and without the comment."""

    family: int
    table: str
    chain: str
    text: str
    first: bool = False  # put at the head of its chain, not at the end

    @property
    def place(self) -> Place:
        """Where it stands, as entries have it."""
        return legacy_place(_TOOLS[self.family], self.table, self.chain)


def chain_name(installation: str, part: str) -> str:
    """The name of one of the installation's chains (at most 28 characters)."""
    return f"HVTX-{installation}-{part}"


def made_chains(installation: str, table: str) -> tuple[str, ...]:
    """The chains that are made in ``table``; none in tables that are not used."""
    return tuple(chain_name(installation, part) for part in _CHAINS.get(table, ()))


def own_chains(installation: str, table: str) -> tuple[str, ...]:
    """The same with those that an earlier version made, to be known and removed."""
    former = tuple(chain_name(installation, part) for part in _FORMER.get(table, ()))
    return made_chains(installation, table) + former


def rules_of(installation: str, resource: Resource) -> tuple[Rule, ...]:
    """The rules that stand for a row.

    What was read back when it was made comes first: a later version may word its rules otherwise,
    and must still know those of this one.
    """
    recorded = iptables_observed(resource).get("rules")
    if recorded:
        return tuple(_recorded(place, text, bool(first)) for place, text, first in recorded)
    return _COMPILERS[resource.role](installation, firewall_spec(resource))


def outdated(resource: Resource) -> bool:
    """Whether a row's rules were made by a version that words them otherwise."""
    recorded, installation = iptables_observed(resource).get("rules"), parse_mark(resource.mark)
    if not recorded or installation is None:
        return False
    rules = _COMPILERS[resource.role](installation.installation or "", firewall_spec(resource))
    return {(place, text) for place, text, _ in recorded} != {(str(r.place), r.text) for r in rules}


def _recorded(place: str, text: str, first: bool) -> Rule:
    where = parse_place(place)
    return Rule(_FAMILIES[where.tool], where.table, where.chain, text, first)


def _host(address: str) -> str:
    """An address as rules show it: in its shortest form, with its whole length as prefix."""
    parsed = ip_address(address)
    return f"{parsed}/{parsed.max_prefixlen}"


def _base(installation: str, _spec: FirewallSpec) -> tuple[Rule, ...]:
    to = {part: chain_name(installation, part) for part in ("FWD", "PRE", "OUT", "POST")}
    local = "-m addrtype --dst-type LOCAL -j"
    return (
        Rule(4, "mangle", "FORWARD", f"-j {to['FWD']}", first=True),
        # 127.0.0.1 is LOCAL whatever device it came in by; the routing decision, which would
        # drop it from the wire, comes later. Packets on `lo` were translated on their way out.
        Rule(4, "nat", "PREROUTING", f"! -s {_LOOPBACK} ! -d {_LOOPBACK} {local} {to['PRE']}"),
        Rule(4, "nat", "OUTPUT", f"{local} {to['OUT']}"),
        Rule(4, "nat", "POSTROUTING", f"-j {to['POST']}"),
    )


def _jumps6(installation: str, bridge: str, subnet: str) -> tuple[Rule, ...]:
    """A network's way into the IPv6 chains.

    Two networks' jumps must differ in their words, or each would look like a copy of the other.
    Where nothing else tells them apart they exclude the subnet's anycast address as a source,
    which no packet has. ::1 is excluded because NAT cannot serve it.
    """
    to = {part: chain_name(installation, part) for part in ("FWD", "PRE", "OUT", "POST")}
    apart = f"! -s {ip_network(subnet).network_address}/128"
    local = "-m addrtype --dst-type LOCAL -j"
    return (
        Rule(6, "mangle", "FORWARD", f"-i {bridge} -j {to['FWD']}", first=True),
        Rule(6, "mangle", "FORWARD", f"-o {bridge} -j {to['FWD']}", first=True),
        Rule(6, "nat", "PREROUTING", f"{apart} {local} {to['PRE']}"),
        Rule(6, "nat", "OUTPUT", f"{apart} ! -d ::1/128 {local} {to['OUT']}"),
        Rule(6, "nat", "POSTROUTING", f"-s {ip_network(subnet)} -j {to['POST']}"),
    )


def _network(installation: str, spec: FirewallSpec) -> tuple[Rule, ...]:
    bridge = spec["bridge"]
    forward, post = chain_name(installation, "FWD"), chain_name(installation, "POST")
    rules: list[Rule] = []
    for subnet in spec["subnets"]:
        family = family_of(subnet)
        if family == 6:
            rules += _jumps6(installation, bridge, subnet)
        rules += [
            Rule(family, "mangle", "PREROUTING", text, first=True)
            for text in _flow_limits(bridge, spec.get("flows", FLOWS_EACH), family)
        ]
        rules += [
            Rule(family, "mangle", forward, text, first=True)
            for text in (
                *_known(bridge, spec.get("uplink")),
                *_guards(bridge, isolate=spec["isolate"], nat=spec["nat"]),
                *_unreachable(bridge, family),
                *_bound(bridge, spec.get("uplink")),
            )
        ]
        if family == 4:
            rules += _loopback_guard(installation, bridge)
            loopback = f"-s 127.0.0.0/8 -o {bridge} -j MASQUERADE"
            rules.append(Rule(4, "nat", post, loopback, first=True))
        passes = _passes if spec.get("passage", True) else _passes_nothing
        rules += [
            Rule(family, "filter", chain_name(installation, "PASS"), text, first=True)
            for text in passes(spec, str(ip_network(subnet)))
        ]
        # A guest that reaches a neighbour (or itself) by way of a published port must be answered
        # by way of the host too.
        hairpin = f"-s {ip_network(subnet)} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE"
        rules.append(Rule(family, "nat", post, hairpin, first=True))
        # And the host by its network's gateway: a guest with two networks would answer another of
        # its addresses by the other one, where its own is not let out. (IPv6's chain sees guests.)
        local = "-m addrtype --src-type LOCAL -m conntrack --ctstate DNAT -j MASQUERADE"
        chain = "POSTROUTING" if family == 6 else post
        rules.append(Rule(family, "nat", chain, f"-o {bridge} {local}", first=family == 4))
    return tuple(rules)


def _known(bridge: str, uplink: str | None) -> Iterator[str]:
    """What was let through once needs no look at the rest.

    By bridge, as the chain sees others' packets too; where a VM stops, its flows are forgotten with
    its rules. With an uplink only what leaves by it, or answers: a route may lead it elsewhere now.
    """
    known = "-m conntrack --ctstate RELATED,ESTABLISHED"
    if uplink is None:
        yield f"-i {bridge} {known} -j RETURN"
    else:
        yield f"-i {bridge} -o {bridge} {known} -j RETURN"
        yield f"-i {bridge} -o {uplink} {known} -j RETURN"
        yield f"-i {bridge} {known} --ctdir REPLY -j RETURN"
    yield f"-o {bridge} {known} -j RETURN"


def _bound(bridge: str, uplink: str | None) -> Iterator[str]:
    """What keeps guests to one device beyond their bridge (see nftables_uplink): the last rules.

    What passes is returned, past the rules of other networks: the uplink is no network's bridge.
    """
    if uplink is None:
        return
    yield f"-i {bridge} -o {bridge} -j RETURN"
    yield f"-i {bridge} -o {uplink} -j RETURN"
    yield f"-i {bridge} -m conntrack ! --ctstate DNAT -j DROP"
    fresh = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
    yield f"! -i {uplink} -o {bridge} {fresh} -j DROP"


def _guards(bridge: str, *, isolate: bool, nat: bool) -> Iterator[str]:
    """What of a network's routed traffic is dropped, whatever others accept."""
    if isolate:
        # Guests still reach what their neighbours publish, through the host's addresses.
        yield f"-i {bridge} -o {bridge} -m conntrack ! --ctstate DNAT -j DROP"
    fresh = f"! -i {bridge} -o {bridge} -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
    yield f"{fresh} {_NOT_ALLOWED if nat else _TO_THE_WORLD} -j DROP"
    yield f"-o {bridge} -m conntrack --ctstate DNAT -j MARK --set-xmark 0x0/{_UNDECIDED}"


# What an egress policy allows is marked before, in nftables, and what it lets through only to the
# world, or only to a guest by a published port: see nftables_egress.
_NOT_ALLOWED = "-m mark ! --mark 0x20000000/0x20000000"
_UNDECIDED = hex(int(UNDECIDED, 16))
_TO_THE_WORLD = f"-m mark --mark {_UNDECIDED}/{_UNDECIDED}"


def _unreachable(bridge: str, family: int) -> Iterator[str]:
    """What guests never reach, but where a policy allows it: link-local addresses, metadata."""
    for to in (LINK_LOCAL4, *METADATA4) if family == 4 else METADATA6:
        yield f"-d {ip_network(to)} -i {bridge} {_NOT_ALLOWED} -j DROP"


def _passes(spec: FirewallSpec, subnet: str) -> Iterator[str]:
    """What of a network's traffic passes where the host's policy would drop it.

    Known flows both ways, published ports (nobody reaches a translated address by chance), guests
    among themselves. New flows to elsewhere are the guests' own rules': only to devices where the
    world is, never into a bridge of somebody else. Only the uplink of a network need not be one.
    """
    bridge, uplink = spec["bridge"], spec.get("uplink")
    known = "-m conntrack --ctstate RELATED,ESTABLISHED"
    yield f"-i {bridge} {known} -j ACCEPT"
    yield f"-o {bridge} {known},DNAT -j ACCEPT"
    if not spec["isolate"]:
        yield f"-i {bridge} -o {bridge} -j ACCEPT"
    if uplink is not None:
        yield f"-s {subnet} -i {bridge} -o {uplink} -j ACCEPT"
        if not spec["nat"]:  # its guests are reached by their own addresses
            yield f"-d {subnet} -i {uplink} -o {bridge} -j ACCEPT"


def _passes_nothing(spec: FirewallSpec, subnet: str) -> Iterator[str]:  # noqa: ARG001 - as above
    """What of a network that asked for no accepts comes here goes back to the host's policy."""
    yield f"-i {spec['bridge']} -j RETURN"
    yield f"-o {spec['bridge']} -j RETURN"


def _flow_limits(bridge: str, most: int, family: int) -> Iterator[str]:
    """Of each address of a guest's so many connections, wherever they lead.

    A rule counts for itself alone, so there is one, which meets what is for the host and what goes
    beyond. What is dropped is not entered. A guest chooses link-local addresses by itself: of all
    of them so many.
    """
    yield _flow_limit(bridge, most, 128 if family == 6 else 32)
    if family == 6:
        yield _flow_limit(bridge, most, 10, "fe80::/10")


def _flow_limit(bridge: str, most: int, mask: int, source: str = "") -> str:
    above = f"--connlimit-above {most} --connlimit-mask {mask} --connlimit-saddr"
    whose = f"-s {source} -i" if source else "-i"
    return f"{whose} {bridge} -m conntrack --ctstate NEW -m connlimit {above} -j DROP"


def _loopback_guard(installation: str, bridge: str) -> tuple[Rule, ...]:
    """What keeps 127.0.0.0/8 to the host, although route_localnet is on at the bridge.

    Guests are held by nftables' bridge family too, before all of this; here it is whatever else is
    plugged in. In PREROUTING, ACCEPT ends the translation: no rule of anybody leads the packet to
    what is published on 127.0.0.1 only, and so it comes to INPUT. There a guest's answers to the
    host's own 127.0.0.1 have that address again, and are known by their flow. The table raw would
    do it in one place, but it is a table more, which nothing takes out of a namespace again.
    """
    to, by = f"-d 127.0.0.0/8 -i {bridge}", f"-s 127.0.0.0/8 -i {bridge}"
    fresh = "-m conntrack ! --ctstate RELATED,ESTABLISHED"
    return (
        Rule(4, "filter", "INPUT", f"{to} {fresh} -j DROP", first=True),
        Rule(4, "filter", "INPUT", f"{by} -j DROP", first=True),
        Rule(4, "mangle", chain_name(installation, "FWD"), f"{by} -j DROP", first=True),
        Rule(4, "nat", "PREROUTING", f"{to} -j ACCEPT", first=True),
    )


def _forward(installation: str, spec: FirewallSpec) -> tuple[Rule, ...]:
    bridge = spec["bridge"]
    chain, way = chain_name(installation, "PASS"), chain_name(installation, "WAY")
    rules = []
    for address in addresses_in(spec):
        host, family = _host(address), family_of(address)
        rules += [
            Rule(family, "filter", chain, f"-s {host} -i {bridge} -j {way}"),
            # New connections that must not come in were dropped by the network's rule before.
            Rule(family, "filter", chain, f"-d {host} -o {bridge} -j {way}"),
        ]
    return tuple(rules)


def _pass(installation: str, spec: FirewallSpec) -> tuple[Rule, ...]:
    """What leads to PASS where the policy of a family's FORWARD drops, and where the world is.

    For all networks: a device that one has as its uplink alone is in that one's accepts.
    """
    family, way = spec["family"], chain_name(installation, "WAY")
    rules = [
        Rule(family, "filter", way, f"-{side} {device} -j ACCEPT")
        for device in spec["uplinks"]
        for side in "io"
    ]
    return (*rules, Rule(family, "filter", "FORWARD", f"-j {chain_name(installation, 'PASS')}"))


def _passage(_installation: str, spec: FirewallSpec) -> tuple[Rule, ...]:
    """What lets a network pass the filter of somebody else (docs/adr/0047)."""
    return tuple(Rule(spec["family"], "filter", spec["hook"], text) for text in spec["accepts"])


def _masquerade(installation: str, spec: FirewallSpec) -> tuple[Rule, ...]:
    address = spec["address"]
    source = spec.get("source")
    target = f"SNAT --to-source {ip_address(source)}" if source else "MASQUERADE"
    text = f"-s {_host(address)} ! -o {spec['bridge']} -j {target}"
    return (Rule(family_of(address), "nat", chain_name(installation, "POST"), text),)


def _publish(installation: str, spec: FirewallSpec) -> tuple[Rule, ...]:
    protocol, host_ip = spec["protocol"], spec.get("host_ip")
    only = ip_address(host_ip) if host_ip else None
    rules = []
    for address in addresses_in(spec):
        family = family_of(address)
        if only is not None and (only.version != family or str(only) == "::1"):
            continue
        goal = f"[{ip_address(address)}]" if family == 6 else address
        match = f"-p {protocol} -m {protocol} --dport {spec['host_port']}"
        text = f"{match} -j DNAT --to-destination {goal}:{spec['guest_port']}"
        if only is not None and not only.is_unspecified:
            text = f"-d {_host(str(only))} {text}"
        # Nothing from outside is for a loopback address.
        parts = ("OUT",) if only is not None and only.is_loopback else ("PRE", "OUT")
        rules += [Rule(family, "nat", chain_name(installation, part), text) for part in parts]
    return tuple(rules)


def _port(_installation: str, _spec: FirewallSpec) -> tuple[Rule, ...]:
    raise HostRefused(
        "anti-spoofing rules do not live in iptables",
        hint="a row with what=port is the nftables driver's on both backends",
    )


def _imported(_installation: str, spec: FirewallSpec) -> tuple[Rule, ...]:
    """Somebody else's rule that was taken over, by its exact text (docs/adr/0008)."""
    return (_recorded(spec["place"], spec["text"], False),)


_COMPILERS = {
    "base": _base,
    "network": _network,
    "forward": _forward,
    "pass": _pass,
    "passage": _passage,
    "masquerade": _masquerade,
    "publish": _publish,
    "port": _port,
    "imported": _imported,
}


def brings_chains(resource: Resource, family: int, table: str) -> bool:
    """Whether a row's rules come with the chains of a family's table."""
    base = family == 4 and table != "filter"
    return bool(resource.role == ("base" if base else "network"))
