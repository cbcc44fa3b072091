"""Commands that let guest flows pass foreign rules, and nothing else.

Pure. What is opened is one way of one network's bridge: out by the devices where the world is (by
its uplink alone, where it has one), back what belongs to a known flow, in what was translated for a
published port, guests among themselves, one service of the gateway. Nothing leads into a bridge of
somebody else. Where a policy stops, the rule goes to the end of the chain, behind all that others
refuse; where a rule does, right before that one. Where no command can be as narrow, the hint says
what to look at (docs/adr/0029).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hvtx.model.address import is_ipv6, is_of
from hvtx.model.shell import word
from hvtx.model.traffic import DHCP_CLIENT, DHCP_SERVER, Flow, Stop, Way
from hvtx.model.typed import NamedTuple
from hvtx.planner import firewalld_zone
from hvtx.planner.own_accepts import Net, is_ours_to_accept

REPAIR = "hvtx repair"
_OURS = ("hvtx-", "HVTX-")
_BUILT_IN = frozenset(
    {"filter", "mangle"}
)  # tables of iptables-nft with a hook that has both devices
_CHAINS = {"forward": "FORWARD", "input": "INPUT", "output": "OUTPUT"}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_COUNTS = re.compile(r" packets \d+ bytes \d+")
# In the bridge family: a rule of IP packets only, and one of ARP only.
_OF_PACKETS = re.compile(r"\b(?:ip6?|icmp|icmpv6|tcp|udp|th|l4proto) ")
_OF_ARP = re.compile(r"\b(?:ether type arp|meta protocol arp|arp \w+)\b")
_ENDS = re.compile(
    r"\b(?:drop|reject|queue|vmap|xt target)\b|^policy| -j (?:DROP|REJECT|\S*QUEUE|TARPIT)\b"
)
_PLAIN_RULE = re.compile(r'-A ([A-Za-z0-9_-]+)( [A-Za-z0-9_ ./:,=+!"-]*)')
_NO_WORLD = "ask again once this host has a route to the world"
_NEIGHBOURS = ("nd-neighbor-solicit", "nd-neighbor-advert")
_DISCOVERY = {  # what nft and iptables call the messages
    "nd-neighbor-solicit": "neighbour-solicitation",
    "nd-neighbor-advert": "neighbour-advertisement",
    "nd-router-solicit": "router-solicitation",
    "nd-router-advert": "router-advertisement",
}
_ESTABLISHED = "RELATED,ESTABLISHED"


class Chain(NamedTuple):
    """A chain of others: the hooks that lead to it, and its rules with their handles, in order.

    A rule is as its tool prints it; its handle is 0 in a legacy table. Hooks are in lower case.
    """

    hooks: frozenset[str]
    rules: tuple[tuple[str, int], ...]


class Host(NamedTuple):
    """What fixes need to know of the host.

    ``uplinks`` are the devices where the world is; ``chains`` are others', by their place as a
    stop names it; ``owners`` are tables that only one process may change, and who that is;
    ``tools`` are the programs that are there; ``zoned`` says of a bridge that is in no zone of
    firewalld's how it gets into that of hvtx; ``late`` are bridges whose accepts of hvtx's own
    are not yet there, or not where they belong.
    """

    uplinks: tuple[str, ...]
    nets: Mapping[str, Net]  # by the network's name
    chains: Mapping[tuple[str, ...], Chain]
    owners: Mapping[tuple[str, str], str]
    tools: frozenset[str]
    zoned: Mapping[str, str] = {}
    late: frozenset[str] = frozenset()


class Leg(NamedTuple):
    """One direction of a way, as a rule of its hook can name it; empty is any."""

    hook: str
    into: str
    out: str
    state: str = ""  # RELATED,ESTABLISHED or DNAT
    to: str = ""  # the gateway's address
    protocol: str = ""
    port: int | None = None
    asks: str = ""  # one of _DISCOVERY


def fix(stops: Sequence[Stop], host: Host) -> str | None:
    """What lets the flows pass that one thing stops; None where nothing of others' does.

    ``stops`` have one ``by``, ``place`` and ``what``.
    """
    by, place, what = stops[0].by, stops[0].place, stops[0].what
    if any(part.startswith(_OURS) for part in place):
        return REPAIR
    stops = [
        stop
        for stop in stops
        if not is_ours_to_accept(stop, host.nets[stop.flow.network], host.owners, host.late)
    ]
    if not stops:
        return REPAIR  # hvtx's own accept is not there, or not where it belongs
    if by not in ("nft", "legacy") or len(place) != 3:
        return _look(by, place)
    flows = [stop.flow for stop in stops]
    owner = host.owners.get(place[:2]) if by == "nft" else None
    if place[1].startswith("firewalld"):
        return "; ".join(_firewalld(place, flows, host))
    if owner is not None:
        return f"let {owner} allow it: only that program may change its table {' '.join(place[:2])}"
    if not _ENDS.search(what):
        return _taken_away(by, place, what, host) or _look(by, place)
    if _is_ufw(place, host):
        commands = list(dict.fromkeys(_ufw(place, flows, host)))
    else:
        commands = list(dict.fromkeys(_rules(by, place, what, flows, host)))
    if not commands:
        return _look(by, place)
    if any(flow.way is Way.GUEST_TO_WORLD and not _beyond(flow, host) for flow in flows):
        commands.append(_NO_WORLD)
    return "; ".join(commands)


def _taken_away(by: str, place: tuple[str, ...], what: str, host: Host) -> str | None:
    """Without a rule that ends nothing (it does not track, marks, translates) the flows pass."""
    if by == "legacy":
        rule = _PLAIN_RULE.fullmatch(what)
        return f"{place[0]} -t {place[1]} -D {rule[1]}{rule[2]}" if rule else None
    chain = host.chains.get(place)
    at = _position(chain, what) if chain is not None else None
    if chain is None or at is None or not all(map(_WORD.fullmatch, place)):
        return None
    return f"nft delete rule {' '.join(place)} handle {chain.rules[at][1]}"


def _look(by: str, place: Sequence[str]) -> str:
    """Where nothing narrow can be said."""
    if by == "legacy":
        tool, table, chain = map(word, place)
        return f"see {tool} -t {table} -S {chain}: take away or change what is named"
    if by == "ebtables":
        return "see ebtables -L: take away or change what is named"
    if by == "nft" and len(place) == 3:
        listed = f"chain {' '.join(place)}" if all(map(_WORD.fullmatch, place)) else "ruleset"
        return f"see nft -a list {listed}: take away or change what is named"
    return "test the connections of guests by hand"


# -- ways ------------------------------------------------------------------------------------------


def _beyond(flow: Flow, host: Host) -> tuple[str, ...]:
    """The devices beyond which a flow has its end; ports are served by all, whatever the uplink."""
    if flow.way not in (Way.GUEST_TO_WORLD, Way.WORLD_TO_PORT):
        return ()
    own = host.nets[flow.network].uplink if flow.way is Way.GUEST_TO_WORLD else None
    # one with a quotation mark in its name cannot be named in rules of nft
    return tuple(name for name in ((own,) if own else host.uplinks) if '"' not in name)


def legs_of(flow: Flow, host: Host) -> Iterator[Leg]:
    """What has to pass for a flow, there and back."""
    bridge, net = flow.bridge, host.nets[flow.network]
    if flow.way is Way.GUEST_TO_WORLD:
        yield from (Leg("forward", bridge, device) for device in _beyond(flow, host))
        yield Leg("forward", "", bridge, _ESTABLISHED)
    elif flow.way is Way.WORLD_TO_PORT:
        yield Leg("forward", "", bridge, "DNAT")
        yield Leg("forward", bridge, "", _ESTABLISHED)
    elif flow.way is Way.GUEST_TO_GUEST:
        yield Leg("forward", bridge, bridge)
    elif flow.way is Way.HOST_TO_GUEST:
        yield Leg("output", "", bridge)
        yield Leg("input", bridge, "", _ESTABLISHED)
    elif flow.way is Way.GUEST_TO_DHCP:  # the answer to a broadcast belongs to no known flow
        yield Leg("input", bridge, "", protocol="udp", port=DHCP_SERVER[flow.family])
        yield Leg("output", "", bridge, protocol="udp", port=DHCP_CLIENT[flow.family])
    elif flow.way is Way.GUEST_TO_ROUTER:
        yield Leg("input", bridge, "", protocol="icmp", asks="nd-router-solicit")
        yield Leg("output", "", bridge, protocol="icmp", asks="nd-router-advert")
    else:
        to = next((g for g in net.gateways if is_of(g, flow.family)), "")
        yield Leg("input", bridge, "", "", to, flow.protocol, flow.port)
        yield Leg("output", "", bridge, _ESTABLISHED)
    if flow.family == 6:  # of IPv4 the firewall does not see them
        for device in (bridge, *_beyond(flow, host)):
            for asks in _NEIGHBOURS:
                yield Leg("input", device, "", protocol="icmp", asks=asks)
                yield Leg("output", "", device, protocol="icmp", asks=asks)


# -- rules before the one that stops, or behind all where a policy does ---------------------------


def _rules(
    by: str, place: tuple[str, ...], what: str, flows: Iterable[Flow], host: Host
) -> Iterator[str]:
    chain = host.chains.get(place)
    if chain is None:
        return
    at = _position(chain, what)
    if at is None and not what.startswith("policy"):
        return  # which rule it is cannot be told, so none can be put before it
    for flow in flows:
        if place[0] == "bridge":
            yield from _bridged(place, what, flow, chain, at, host)
            continue
        if place[0] == "arp":
            yield from _resolved(place, flow, chain, at, host)
            continue
        for leg in legs_of(flow, host):
            if leg.hook in chain.hooks and chain.hooks <= {"forward", "input", "output"}:
                command = _command(by, place, leg, flow, chain, at, host)
                if command is not None:
                    yield command


def _position(chain: Chain, what: str) -> int | None:
    """Which rule of a chain is meant, counted from 0."""
    wanted = _COUNTS.sub("", what)
    texts = [_COUNTS.sub("", text) for text, _ in chain.rules]
    exact = [n for n, text in enumerate(texts) if text == wanted]
    begun = [n for n, text in enumerate(texts) if wanted.startswith(f"{text}: ")]
    return next(iter(exact or begun), None)


def _command(
    by: str,
    place: tuple[str, ...],
    leg: Leg,
    flow: Flow,
    chain: Chain,
    at: int | None,
    host: Host,
) -> str | None:
    tool = _tool(by, place, flow.family, host)
    if tool is not None:
        table = () if place[1] == "filter" else ("-t", place[1])
        where = ("-A", place[2]) if at is None else ("-I", place[2], str(at + 1))
        return shlex.join((tool, *table, *where, *_words(leg), "-j", "ACCEPT"))
    if by == "legacy" or not all(map(_WORD.fullmatch, place)):
        return None
    if place[0] in ("ip", "ip6") and (place[0] == "ip6") != (flow.family == 6):
        return None
    return _nft(place, _matches(leg, flow.family), chain, at)


def _tool(by: str, place: tuple[str, ...], family: int, host: Host) -> str | None:
    """The iptables that made a chain and knows its rules by number."""
    if by == "legacy":
        return place[0]
    name = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}.get(place[0])
    if name is None or name not in host.tools or (place[0] == "ip6") != (family == 6):
        return None
    base = any((*place[:2], built_in) in host.chains for built_in in _CHAINS.values())
    return name if place[1] in _BUILT_IN and base else None


def _words(leg: Leg) -> Iterator[str]:
    """A leg in the words of iptables."""
    for flag, value in (("-d", leg.to), ("-i", leg.into), ("-o", leg.out)):
        if value:
            yield from (flag, value)
    if leg.asks:
        yield from ("-p", "ipv6-icmp", "-m", "icmp6", "--icmpv6-type", _DISCOVERY[leg.asks])
    elif leg.protocol:
        six = leg.protocol == "icmp" and is_ipv6(leg.to)
        yield from ("-p", "ipv6-icmp" if six else leg.protocol)
    if leg.port:
        yield from ("--dport", str(leg.port))
    if leg.state:
        yield from ("-m", "conntrack", "--ctstate", leg.state)


def _matches(leg: Leg, family: int) -> str:
    """A leg in the words of nft."""
    found = []
    if leg.into:
        found.append(f'iifname "{leg.into}"')
    if leg.out:
        found.append(f'oifname "{leg.out}"')
    if leg.to:
        found.append(f"{'ip6' if family == 6 else 'ip'} daddr {leg.to}")
    if leg.asks:
        found.append(f"icmpv6 type {leg.asks}")
    elif leg.protocol == "icmp":
        found.append(f"meta l4proto {'ipv6-icmp' if family == 6 else 'icmp'}")
    elif leg.port:
        found.append(f"{leg.protocol} dport {leg.port}")
    elif leg.protocol:
        found.append(f"meta l4proto {leg.protocol}")
    if leg.state:
        dnat = leg.state == "DNAT"
        found.append("ct status dnat" if dnat else "ct state established,related")
    return " ".join(found)


def _nft(place: Sequence[str], matches: str, chain: Chain, at: int | None) -> str:
    where = " ".join(place)
    if at is None:
        return f"nft {word(f'add rule {where} {matches} accept')}"
    return f"nft {word(f'insert rule {where} position {chain.rules[at][1]} {matches} accept')}"


def _resolved(
    place: tuple[str, ...], flow: Flow, chain: Chain, at: int | None, host: Host
) -> Iterator[str]:
    """What the host asks and tells of MAC addresses by the devices of a flow."""
    if flow.family != 4 or not all(map(_WORD.fullmatch, place)):
        return
    for device in (flow.bridge, *_beyond(flow, host)):
        for hook, match in (("input", "iifname"), ("output", "oifname")):
            if chain.hooks == {hook}:
                yield _nft(place, f'{match} "{device}"', chain, at)


def _bridged(
    place: tuple[str, ...], what: str, flow: Flow, chain: Chain, at: int | None, host: Host
) -> Iterator[str]:
    """In the bridge family by addresses: not every kernel knows there which bridge it is."""
    if not all(map(_WORD.fullmatch, place)):
        return
    six = flow.family == 6
    if flow.way in (Way.GUEST_TO_DHCP, Way.GUEST_TO_ROUTER):
        for leg in legs_of(flow, host):
            if leg.asks not in _NEIGHBOURS:
                yield _nft(place, _matches(leg._replace(into="", out=""), flow.family), chain, at)
        return
    if not six and not _OF_PACKETS.search(what):
        for subnet in (s for s in host.nets[flow.network].subnets if not is_ipv6(s)):
            for end in ("saddr", "daddr"):
                yield _nft(place, f"ether type arp arp {end} ip {subnet}", chain, at)
        if _OF_ARP.search(what):
            return
    for subnet in (s for s in host.nets[flow.network].subnets if is_of(s, flow.family)):
        head = "ip6" if six else "ip"
        ends = [f"{head} saddr {subnet}", f"{head} daddr {subnet}"]
        if flow.way is Way.GUEST_TO_GUEST:
            ends = [" ".join(ends)]
        for matches in ends:
            yield _nft(place, matches, chain, at)


# -- firewalls that write their rules themselves ---------------------------------------------------


def _is_ufw(place: tuple[str, ...], host: Host) -> bool:
    """Whether ufw keeps the chain, or the policy of the one that leads to its own."""
    if place[1] != "filter" or place[2] not in _CHAINS.values():
        return place[2].startswith(("ufw-", "ufw6-"))
    prefix = "ufw6-" if place[0].startswith("ip6") else "ufw-"
    return (*place[:2], f"{prefix}user-forward") in host.chains


def _ufw(place: tuple[str, ...], flows: Iterable[Flow], host: Host) -> Iterator[str]:
    for flow in flows:
        bridge, net = flow.bridge, host.nets[flow.network]
        if flow.way is Way.GUEST_TO_DHCP and "output" not in place[2].lower():
            yield f"ufw allow in on {bridge} to any port {flow.port} proto {flow.protocol}"
        elif flow.way in (Way.GUEST_TO_WORLD, Way.WORLD_TO_PORT):
            for device in map(word, _beyond(flow, host)):
                # of what comes in, hvtx itself drops what is not published
                ends = (bridge, device) if flow.way is Way.GUEST_TO_WORLD else (device, bridge)
                yield "ufw route allow in on {} out on {}".format(*ends)
        elif flow.way is Way.GUEST_TO_GUEST:
            yield f"ufw route allow in on {bridge} out on {bridge}"
        elif flow.way in (Way.HOST_TO_GUEST, Way.GUEST_TO_DHCP):
            yield f"ufw allow out on {bridge}"
        elif flow.port:
            to = next((g for g in net.gateways if is_of(g, flow.family)), "any")
            yield f"ufw allow in on {bridge} to {to} port {flow.port} proto {flow.protocol}"


def _firewalld(place: tuple[str, ...], flows: Sequence[Flow], host: Host) -> Iterator[str]:
    chain = host.chains.get(place)
    hooks = chain.hooks if chain is not None else frozenset()
    if place[1] == "firewalld_policy_drop" or hooks & {"prerouting", "postrouting"}:
        return iter(("firewall-cmd --panic-off",))
    out = [f for f in flows if f.way is Way.GUEST_TO_WORLD and f.bridge not in host.zoned]
    devices = tuple(dict.fromkeys(device for flow in out for device in _beyond(flow, host)))
    return firewalld_zone.commands(flows, devices, host.zoned)


def of_setting(name: str, bridge: str) -> str:
    """What gives a setting, or a device that is down, its use for guests of ``bridge`` again.

    ``name`` is the setting as sysctl(8) knows it, or the device's.
    """
    if not name.startswith(("net.ip", "net/ip")):
        ours = name == bridge or name.startswith("hv")
        return "hvtx repair" if ours else f"bring device {name} up"
    if name.endswith("disable_ipv6"):
        return "hvtx repair" if f".{bridge}." in name else f"set {name} to 0"
    if name.endswith("rp_filter"):
        return f"sysctl -w {word(name)}=2"  # loose: any way back will do (ip-sysctl.rst)
    return f"hvtx repair, or: sysctl -w {word(name)}=1"
