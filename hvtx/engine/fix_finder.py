"""Facts for fixes: other programs' chains, and the uplinks of the host. Reads only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from hvtx.engine import firewalld_zone, passages
from hvtx.engine.forward_accepts import world
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.errors import HvtxError
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.filter_chain import is_policy
from hvtx.model.firewall import FirewallSpec
from hvtx.model.traffic import Stop
from hvtx.model.typed import cast
from hvtx.model.vm import Network
from hvtx.planner.flow_fixes import Chain, Host, fix
from hvtx.planner.own_accepts import Net
from hvtx.store import records

_RULE = re.compile(r"\s*(.*?) # handle (\d+)")
_PROGRAM = re.compile(r"# progname (\S+)")
_HOOK = re.compile(r"^\t\ttype \w+ hook (\w+) ")
_TARGETS = re.compile(r"\b(?:jump|goto) ([^\s,}]+)")
_MAPS = re.compile(r"vmap @(\S+)")
_LEADS = re.compile(r" -[jg] (\S+)")
_TOOLS = ("iptables-nft", "ip6tables-nft")


class FixFinder:
    """Says what lets flows pass; each table is read once, when it is first asked about."""

    def __init__(self, runtime: Runtime, more: Sequence[Network] = ()) -> None:
        """``more`` are networks that might be made."""
        every = [*runtime.read(records.networks), *more]
        self._runtime = runtime
        self._nets = {n.name: _net(n) for n in every}
        try:
            self._uplinks = tuple(world(every))
        except (OSError, DumpInterrupted):
            self._uplinks = ()
        self._chains: dict[tuple[str, ...], Chain] = {}
        self._owners: dict[tuple[str, str], str] = {}
        self._read: set[tuple[str, ...]] = set()

    def of(self, stops: Sequence[Stop]) -> str | None:
        """What lets the flows pass that one thing stops, as a hint; see :func:`fixes.fix`."""
        from hvtx.host import program

        by, place = stops[0].by, stops[0].place
        if by in ("nft", "legacy") and len(place) == 3 and (by, *place[:2]) not in self._read:
            self._read.add((by, *place[:2]))
            # or no rule of it can be named, and the hint says where to look
            with suppress(HvtxError, ValueError):
                (self._nft if by == "nft" else self._legacy)(place[0], place[1])
        zoned = self._zoned() if by == "nft" and place[1:2] == ("firewalld",) else {}
        tools = frozenset(name for name in _TOOLS if program.find((name,)) is not None)
        late = self._late() if len(place) == 3 and is_policy(place[2]) else frozenset()
        host = Host(self._uplinks, self._nets, self._chains, self._owners, tools, zoned, late)
        found = fix(stops, host)
        return None if found is None else firewalld_zone.with_ufw(found)

    def _late(self) -> frozenset[str]:
        """The bridges whose accepts in others' filters are to be made, or moved."""
        try:
            found = passages.change(all_networks(self._runtime))
        except (HvtxError, OSError, DumpInterrupted):
            return frozenset()
        made = (want.spec for wants in found.make.values() for want in wants)
        specs = [cast("FirewallSpec", spec) for spec in made]
        return frozenset([spec["bridge"] for spec in specs] + [row.bridge for row in found.move])

    def _zoned(self) -> Mapping[str, str]:
        try:
            return firewalld_zone.fixes(self._nets.values())
        except HvtxError:
            return {}

    def _nft(self, family: str, table: str) -> None:
        from hvtx.host import libnftables

        text = libnftables.run(f"list table {family} {table}", handles=True)
        if found := _PROGRAM.search(text.partition("\n")[0]):
            self._owners[family, table] = found[1]
        hooks = nft_hooks(text)
        for chain, rules in nft_rules(text).items():
            self._chains[family, table, chain] = Chain(hooks.get(chain, frozenset()), rules)

    def _legacy(self, tool: str, table: str) -> None:
        from hvtx.host import xtsaved

        text = xtsaved.save_text(6 if tool.startswith("ip6") else 4)
        for chain, found in legacy_chains(text, table).items():
            self._chains[tool, table, chain] = found


def _net(network: Network) -> Net:
    subnets, gateways = tuple(network.subnets), tuple(network.gateways)
    passage, dhcp, uplink = network.passage, network.dhcp, network.uplink
    return Net(network.bridge, subnets, gateways, network.firewall, passage, dhcp, uplink)


def nft_rules(text: str) -> dict[str, tuple[tuple[str, int], ...]]:
    """The rules of each chain in what ``nft -a list table`` prints, with their handles (pure)."""
    found: dict[str, list[tuple[str, int]]] = {}
    rules: list[tuple[str, int]] | None = None
    for line in text.splitlines():
        if line.startswith("\tchain "):
            rules = found.setdefault(line.split()[1], [])
        elif line.startswith("\t}"):
            rules = None
        elif rules is not None and (rule := _RULE.fullmatch(line)):
            rules.append((rule[1], int(rule[2])))
    return {chain: tuple(each) for chain, each in found.items()}


def nft_hooks(text: str) -> dict[str, frozenset[str]]:
    """The hooks that lead to each chain in what ``nft list table`` prints (pure).

    Whatever a comment says of jumps makes a chain have a hook more, and a fix less.
    """
    starts: dict[str, set[str]] = {}
    leads: dict[str, set[str]] = {}
    maps: dict[str, set[str]] = {}
    asked: dict[str, set[str]] = {}
    block: tuple[str, str] = ("", "")
    for line in text.splitlines():
        words = line.split()
        if line.startswith("\t") and line[1:2].strip() and len(words) > 1:
            block = (words[0], words[1])
        if block[0] == "map":
            maps.setdefault(block[1], set()).update(_TARGETS.findall(line))
        elif block[0] == "chain":
            starts.setdefault(block[1], set()).update(_HOOK.findall(line))
            leads.setdefault(block[1], set()).update(_TARGETS.findall(line))
            asked.setdefault(block[1], set()).update(_MAPS.findall(line))
    for chain, names in asked.items():
        leads[chain].update(target for name in names for target in maps.get(name, ()))
    return _spread(starts, leads)


def legacy_chains(text: str, table: str) -> dict[str, Chain]:
    """The chains of a table in what ``iptables-save`` prints (pure)."""
    body = text.partition(f"*{table}\n")[2].partition("\nCOMMIT")[0]
    rules: dict[str, list[tuple[str, int]]] = {}
    starts: dict[str, set[str]] = {}
    leads: dict[str, set[str]] = {}
    for line in body.splitlines():
        if line.startswith(":"):
            name, policy = line[1:].split(" ")[:2]
            rules[name] = []
            starts[name] = {name.lower()} if policy != "-" else set()
        elif line.startswith("-A "):
            name = line.split(" ")[1]
            rules.setdefault(name, []).append((line, 0))
            leads.setdefault(name, set()).update(_LEADS.findall(line))
    hooks = _spread(starts, leads)
    return {name: Chain(hooks.get(name, frozenset()), tuple(each)) for name, each in rules.items()}


def _spread(
    starts: Mapping[str, set[str]], leads: Mapping[str, set[str]]
) -> dict[str, frozenset[str]]:
    """The hooks of each chain, through jumps."""
    found = {chain: set(hooks) for chain, hooks in starts.items()}
    changed = True
    while changed:
        changed = False
        for chain, targets in leads.items():
            for target in targets & found.keys():
                new = found.get(chain, set()) - found[target]
                found[target] |= new
                changed = changed or bool(new)
    return {chain: frozenset(hooks) for chain, hooks in found.items()}
