"""The iptables backend: rules in the legacy tables, for hosts whose own rules live there.

Chains per installation, each reached by a jump from the built-in chain::

    mangle  FORWARD      -> HVTX-<installation>-FWD    what is dropped, and nothing is accepted
    filter  FORWARD      -> HVTX-<installation>-PASS   the last rule, only where the policy drops
    nat     PREROUTING   -> HVTX-<installation>-PRE    only what is for the host itself
    nat     OUTPUT       -> HVTX-<installation>-OUT    likewise
    nat     POSTROUTING  -> HVTX-<installation>-POST

and, directly in INPUT and PREROUTING, what keeps each network from the host's 127.0.0.0/8.
What is dropped stands in a table of its own hook, before ``filter``, so that no accept of anybody
comes before it. What is accepted comes after all rules of others and answers their policy only
(docs/adr/0029); new flows of guests go on to ``HVTX-<installation>-WAY``, which names the devices
where the world is.

Every rule carries its row's mark as its comment. A rule is written here in the very words of
``iptables-save`` (:class:`Rule`), so that what is expected, what is built and what is read back are
one text. The IPv4 chains belong to the ``base`` row. The IPv6 chains are shared by the networks
that have an IPv6 subnet: each brings its own jumps, and a chain goes with the last of them, so that
a host without IPv6 guests never gets IPv6 tables. A table that once was used stays in the kernel,
empty and with its policies as they were: it cannot be removed from a network namespace.

Order inside PASS: rules of networks are put in front, rules of VMs behind. Within either group, and
in FWD, no order matters, so that any lost rule can be put back alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from hvtx.drivers.base import Host, stand_for
from hvtx.errors import Busy, Contended, HostRefused, HvtxError
from hvtx.host import xtables
from hvtx.model.mark import FAMILY, parse_mark
from hvtx.model.resource import FLOWS_EACH, GONE, Entry, Outcome, Resource

BACKEND = "iptables"
_FAMILIES = {tool: family for family, tool in xtables.TOOLS.items()}
_CHAINS = {"filter": ("PASS", "WAY"), "mangle": ("FWD",), "nat": ("PRE", "OUT", "POST")}
TABLES = tuple(_CHAINS)
GUARDS = ("mangle", "FORWARD")  # where what drops must come before what others let pass
_FORMER = {"filter": ("FWD",)}  # of earlier versions: seen and removed, never made
_WITH = {"WAY": "PASS"}  # a chain that is empty at times, and goes with another
_TRANSLATES = re.compile(r"(?:^| )-j (?:DNAT|SNAT|MASQUERADE|REDIRECT|NETMAP)(?: |$)")
_JUMPS = re.compile(r"(?:^| )-[jg] (\S+)")
_REPAIR = "`hvtx repair` puts back what someone removed"


_LOOPBACK = "127.0.0.0/8"


class Rule(NamedTuple):
    """A rule: where it stands and its words, without ``-A CHAIN`` and without the comment."""

    family: int
    table: str
    chain: str
    text: str
    first: bool = False  # put at the head of its chain, not at the end

    @property
    def place(self) -> str:
        """Where it stands, as entries name it."""
        return f"{xtables.TOOLS[self.family]} {self.table} {self.chain}"


# What rows stand for (pure) ---------------------------------------------------------------------


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
    recorded = resource.observed.get("rules")
    if recorded:
        return tuple(_recorded(place, text, bool(first)) for place, text, first in recorded)
    return _COMPILERS[resource.spec["what"]](installation, resource.spec)


def outdated(resource: Resource) -> bool:
    """Whether a row's rules were made by a version that words them otherwise."""
    recorded, installation = resource.observed.get("rules"), parse_mark(resource.mark)
    if not recorded or installation is None:
        return False
    rules = _COMPILERS[resource.spec["what"]](installation.installation or "", resource.spec)
    return {(place, text) for place, text, _ in recorded} != {(r.place, r.text) for r in rules}


def _recorded(place: str, text: str, first: bool) -> Rule:
    tool, table, chain = place.split(" ")
    return Rule(_FAMILIES[tool], table, chain, text, first)


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _host(address: str) -> str:
    """An address as rules show it: in its shortest form, with its whole length as prefix."""
    parsed = ip_address(address)
    return f"{parsed}/{parsed.max_prefixlen}"


def _base(installation: str, _spec: Mapping[str, Any]) -> tuple[Rule, ...]:
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


def _network(installation: str, spec: Mapping[str, Any]) -> tuple[Rule, ...]:
    bridge = spec["bridge"]
    forward, post = chain_name(installation, "FWD"), chain_name(installation, "POST")
    rules: list[Rule] = []
    for subnet in spec["subnets"]:
        family = _family(subnet)
        if family == 6:
            rules += _jumps6(installation, bridge, subnet)
        limit = _flow_limit(bridge, spec.get("flows", FLOWS_EACH), 128 if family == 6 else 32)
        rules.append(Rule(family, "filter", "INPUT", limit, first=True))
        rules += [
            Rule(family, "mangle", forward, text, first=True)
            for text in _guards(bridge, limit, isolate=spec["isolate"], nat=spec["nat"])
        ]
        if family == 4:
            rules += _loopback_guard(installation, bridge)
            loopback = f"-s 127.0.0.0/8 -o {bridge} -j MASQUERADE"
            rules.append(Rule(4, "nat", post, loopback, first=True))
        rules += [
            Rule(family, "filter", chain_name(installation, "PASS"), text, first=True)
            for text in _passes(bridge, isolate=spec["isolate"])
        ]
        # A guest that reaches a neighbour (or itself) by way of a published port must be answered
        # by way of the host too.
        hairpin = f"-s {ip_network(subnet)} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE"
        rules.append(Rule(family, "nat", post, hairpin, first=True))
    return tuple(rules)


def _guards(bridge: str, limit: str, *, isolate: bool, nat: bool) -> Iterator[str]:
    """What of a network's routed traffic is dropped, whatever others accept.

    What was let through once needs no look at the rest. By bridge, as the chain sees strangers'
    packets too; where a VM stops, its flows are forgotten with its rules.
    """
    known = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
    yield f"-i {bridge} {known}"
    yield f"-o {bridge} {known}"
    # Of each of its addresses so many connections, to the world and to the host: what is dropped
    # here is not entered.
    yield limit
    if isolate:
        # Guests still reach what their neighbours publish, through the host's addresses.
        yield f"-i {bridge} -o {bridge} -m conntrack ! --ctstate DNAT -j DROP"
    if nat:
        fresh = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
        yield f"! -i {bridge} -o {bridge} {fresh} -j DROP"


def _passes(bridge: str, *, isolate: bool) -> Iterator[str]:
    """What of a network's traffic passes where the host's policy would drop it.

    Known flows both ways, published ports (nobody reaches a translated address by chance), guests
    among themselves. New flows to elsewhere are the guests' own rules': only to devices where the
    world is, never into a bridge of somebody else.
    """
    known = "-m conntrack --ctstate RELATED,ESTABLISHED"
    yield f"-i {bridge} {known} -j ACCEPT"
    yield f"-o {bridge} {known},DNAT -j ACCEPT"
    if not isolate:
        yield f"-i {bridge} -o {bridge} -j ACCEPT"


def _flow_limit(bridge: str, most: int, mask: int) -> str:
    above = f"--connlimit-above {most} --connlimit-mask {mask} --connlimit-saddr"
    return f"-i {bridge} -m conntrack --ctstate NEW -m connlimit {above} -j DROP"


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


def _forward(installation: str, spec: Mapping[str, Any]) -> tuple[Rule, ...]:
    bridge = spec["bridge"]
    chain, way = chain_name(installation, "PASS"), chain_name(installation, "WAY")
    rules = []
    for address in filter(None, (spec.get("ipv4"), spec.get("ipv6"))):
        host, family = _host(address), _family(address)
        rules += [
            Rule(family, "filter", chain, f"-s {host} -i {bridge} -j {way}"),
            # New connections that must not come in were dropped by the network's rule before.
            Rule(family, "filter", chain, f"-d {host} -o {bridge} -j {way}"),
        ]
    return tuple(rules)


def _pass(installation: str, spec: Mapping[str, Any]) -> tuple[Rule, ...]:
    """What leads to PASS where the policy of a family's FORWARD drops, and where the world is."""
    family, way = spec["family"], chain_name(installation, "WAY")
    rules = [
        Rule(family, "filter", way, f"-{side} {device} -j ACCEPT")
        for device in spec["uplinks"]
        for side in "io"
    ]
    return (*rules, Rule(family, "filter", "FORWARD", f"-j {chain_name(installation, 'PASS')}"))


def _masquerade(installation: str, spec: Mapping[str, Any]) -> tuple[Rule, ...]:
    address = spec["address"]
    text = f"-s {_host(address)} ! -o {spec['bridge']} -j MASQUERADE"
    return (Rule(_family(address), "nat", chain_name(installation, "POST"), text),)


def _publish(installation: str, spec: Mapping[str, Any]) -> tuple[Rule, ...]:
    protocol, host_ip = spec["protocol"], spec.get("host_ip")
    only = ip_address(host_ip) if host_ip else None
    rules = []
    for address in filter(None, (spec.get("ipv4"), spec.get("ipv6"))):
        family = _family(address)
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


def _port(_installation: str, _spec: Mapping[str, Any]) -> tuple[Rule, ...]:
    raise HostRefused(
        "anti-spoofing rules do not live in iptables",
        hint="a row with what=port is the nftables driver's on both backends",
    )


def _imported(_installation: str, spec: Mapping[str, Any]) -> tuple[Rule, ...]:
    """A stranger's rule that was taken over, by its exact text (docs/adr/0008)."""
    return (_recorded(spec["place"], spec["text"], False),)


_COMPILERS = {
    "base": _base,
    "network": _network,
    "forward": _forward,
    "pass": _pass,
    "masquerade": _masquerade,
    "publish": _publish,
    "port": _port,
    "imported": _imported,
}


def brings_chains(resource: Resource, family: int, table: str) -> bool:
    """Whether a row's rules come with the chains of a family's table."""
    base = family == 4 and table != "filter"
    return bool(resource.spec["what"] == ("base" if base else "network"))


# How FORWARD ends --------------------------------------------------------------------------------


def place_in_forward(resource: Resource) -> str:
    """Where a row `pass` has its jump in FORWARD: ``last``, ``before`` rules of others, ``gone``.

    Raises NotPermitted, HostRefused.
    """
    end, mark = xtables.forward_end(resource.spec["family"]), b"\0%b\0" % resource.mark.encode()
    return "last" if mark in end.last else "before" if mark in end.rules else "gone"


def drops_by_policy(family: int) -> bool:
    """Whether what no rule of FORWARD has decided is dropped. Raises NotPermitted, HostRefused."""
    return xtables.forward_end(family).policy != "ACCEPT"


# What to release (pure) -------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What to do about one row: rules to take with all their copies, and what stays, and why."""

    take: tuple[Rule, ...]
    keep: Outcome  # GONE if nothing stays


class Sights(NamedTuple):
    """What was seen, for looking up: places with words, as ``(family, table, chain, text)``."""

    by_mark: dict[str, list[tuple[int, str, str, str]]]
    bare: frozenset[tuple[int, str, str, str]]  # without a mark


def index(views: Mapping[int, xtables.Saved]) -> Sights:
    """Sort what was seen by its marks."""
    by_mark: dict[str, list[tuple[int, str, str, str]]] = {}
    bare = set()
    for family, view in views.items():
        for seen in view.rules:
            key = (family, seen.table, seen.chain, seen.text)
            if seen.mark is None:
                bare.add(key)
            else:
                by_mark.setdefault(seen.mark, []).append(key)
    return Sights(by_mark, frozenset(bare))


def judge(resource: Resource, rules: Sequence[Rule], sights: Sights) -> Verdict:
    """Take what carries the row's mark in the row's words; say if it stands there without.

    A changed copy is no obstacle: it stays, and the plan shows it by the mark of the tombstone.
    """
    expected = {(rule.family, rule.table, rule.chain, rule.text): rule for rule in rules}
    carried = sights.by_mark.get(resource.mark, ())
    take = dict.fromkeys(expected[key] for key in carried if key in expected)
    keep = GONE
    for key, rule in expected.items():
        if key in sights.bare:
            message = f"{rule.place}: {rule.text} has no mark"
            keep = Outcome(False, "mark-stripped", message)
    return Verdict(tuple(take), keep)


def dependents(
    installation: str,
    views: Mapping[int, xtables.Saved],
    taken: frozenset[tuple[int, str, str, str, str]],
) -> str | None:
    """A rule that still needs the installation's chains when ``taken`` are gone, or None.

    ``taken`` holds ``(family, table, chain, text, mark)``.
    """
    for family, view in views.items():
        for seen in view.rules:
            key = (family, seen.table, seen.chain, seen.text, seen.mark or "")
            if key not in taken and concerns(installation, seen):
                owner = f" ({seen.mark})" if seen.mark else ""
                place = f"{xtables.TOOLS[family]} {seen.table} {seen.chain}"
                return f"{place}: {seen.text}{owner} is still there"
    return None


def idle(view: xtables.Saved, table: str, chains: Iterable[str]) -> list[str]:
    """Those of ``chains`` that are there, empty, and that nothing jumps to (pure)."""
    rules = [rule for rule in view.rules if rule.table == table]
    used = {rule.chain for rule in rules}
    empty = [chain for chain in chains if (table, chain) in view.chains and chain not in used]
    found = [chain for chain in empty if not any(chain in rule.text.split() for rule in rules)]
    return _together(found, {chain for where, chain in view.chains if where == table})


def _together(found: Sequence[str], there: Collection[str]) -> list[str]:
    """Without those that go with another, where that one stays."""
    kept = []
    for chain in found:
        start, _, part = chain.rpartition("-")
        other = f"{start}-{_WITH[part]}" if part in _WITH else None
        if other is None or other in found or other not in there:
            kept.append(chain)
    return kept


def concerns(installation: str, seen: xtables.SavedRule) -> bool:
    """Whether a rule stands in one of the installation's chains or jumps to one."""
    own = own_chains(installation, seen.table)
    jump = _JUMPS.search(seen.text)
    return seen.chain in own or (jump is not None and jump[1] in own)


def entries_of(installation: str, view: xtables.Saved, family: int) -> list[Entry]:
    """What is worth seeing of a family: ours, whatever is marked, and strangers' NAT rules."""
    found = []
    for seen in view.rules:
        place = f"{xtables.TOOLS[family]} {seen.table} {seen.chain}"
        if seen.mark is not None:
            found.append(Entry(BACKEND, place, seen.text, seen.mark))
            continue
        nat = _TRANSLATES.search(seen.text) is not None
        if nat or concerns(installation, seen):
            found.append(Entry(BACKEND, place, seen.text, None, 0, nat))
    return found


# The driver -------------------------------------------------------------------------------------


class IptablesDriver:
    """Rows with backend ``iptables``; not for use by two threads at a time."""

    def __init__(self, host: Host) -> None:
        """Work for ``host.installation``; nothing is read or loaded yet."""
        self._installation = host.installation
        self._timeout = host.lock_timeout
        self._prefix = f"{FAMILY}1:{host.installation}:"

    def close(self) -> None:
        """Nothing is held between calls."""

    def expected(self, resource: Resource) -> tuple[Entry, ...]:
        """The entries that stand for a row (pure)."""
        return tuple(
            Entry(BACKEND, rule.place, rule.text, resource.mark)
            for rule in rules_of(self._installation, resource)
        )

    def observe(self) -> tuple[Entry, ...]:
        """Our chains' rules, all marked rules, and strangers' NAT rules.

        A table that the kernel does not list is not read, which would make it. Raises
        NotPermitted or HostRefused (``cannot-observe``).
        """
        found: list[Entry] = []
        for family in xtables.TOOLS:
            found += entries_of(self._installation, xtables.saved(family), family)
        return tuple(found)

    # Making

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Put every row's rules where they are not there yet, one commit per table.

        Rules with the row's own mark and words stay as they are, so the same call puts back
        what someone flushed. Returns ``{"rules": [[place, text, first], ...]}`` by row. Raises
        Busy, NotPermitted, HostRefused, Contended.
        """
        wanted = {row.id: stand_for(row, rules_of(self._installation, row)) for row in resources}
        for family, table in _tables(wanted.values()):
            self._create_in(family, table, resources, wanted)
        for family in sorted({rule.family for rules in wanted.values() for rule in rules}):
            self._confirm(family, resources, wanted)
        return {
            row: {"rules": [[rule.place, rule.text, rule.first] for rule in rules]}
            for row, rules in wanted.items()
        }

    def _create_in(
        self,
        family: int,
        table: str,
        resources: Sequence[Resource],
        wanted: Mapping[int, Sequence[Rule]],
    ) -> None:
        makes = any(brings_chains(row, family, table) for row in resources)
        if not makes and table not in xtables.listed(family):
            raise HostRefused(f"the {xtables.TOOLS[family]} table {table} is gone", hint=_REPAIR)
        there = self._there(family, table, {row.mark for row in resources})
        todo = [
            (rule, _entry(rule, row.mark))
            for row in resources
            for rule in wanted[row.id]
            if (rule.family, rule.table) == (family, table)
            and (rule.chain, rule.text, row.mark) not in there
        ]
        chains = made_chains(self._installation, table)

        def change(edit: xtables.Edit) -> bool:
            for chain in chains:
                if not edit.has(chain):
                    # those of filter only accept: that the ones which drop are there is seen to
                    if not makes and table != "filter":
                        tool = xtables.TOOLS[family]
                        raise HostRefused(f"the {tool} chain {chain} is gone", hint=_REPAIR)
                    edit.make_chain(chain)
            # Each of those that go to the head is put before the one put there last.
            for rule, entry in reversed([item for item in todo if item[0].first]):
                edit.add(rule.chain, entry, first=True)
            for rule, entry in (item for item in todo if not item[0].first):
                edit.add(rule.chain, entry, first=False)
            return True

        if not xtables.edit(family, table, self._timeout, change):
            raise Contended(
                f"the {xtables.TOOLS[family]} table {table} changed although its lock was held",
                hint=f"some program writes rules without taking {xtables.lock_path()}",
            )

    def _there(self, family: int, table: str, marks: set[str]) -> set[tuple[str, str, str]]:
        """``(chain, text, mark)`` of rules with one of ``marks``; cheap when there are none."""
        blob = xtables.read(family, table)
        if blob is None or not any(mark.encode() in blob.data for mark in marks):
            return set()
        return {
            (seen.chain, seen.text, seen.mark)
            for seen in xtables.saved(family).rules
            if seen.table == table and seen.mark in marks
        }

    def _confirm(
        self, family: int, resources: Sequence[Resource], wanted: Mapping[int, Sequence[Rule]]
    ) -> None:
        """Read back, independently of libiptc: every rule must be there, once."""
        seen = Counter(
            (rule.table, rule.chain, rule.text, rule.mark) for rule in xtables.saved(family).rules
        )
        for row in resources:
            for rule in wanted[row.id]:
                if rule.family != family:
                    continue
                copies = seen[rule.table, rule.chain, rule.text, row.mark]
                if copies != 1:
                    times = "is not there" if not copies else f"is there {copies} times"
                    raise Contended(
                        f"{rule.place}: {rule.text} ({row.mark}) {times} after it was made",
                        hint=f"some program writes rules without taking {xtables.lock_path()}",
                    )

    # Removing

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove what carries each row's mark in its words, with all copies.

        Reasons to stay: ``mark-stripped``, ``foreign-dependents`` (for the chains),
        ``contended``, ``observe-failed``. Never raises for one item.
        """
        try:
            return self._release(resources)
        except HvtxError as problem:
            contended = isinstance(problem, Busy) or problem.code == "contended"
            reason = "contended" if contended else "observe-failed"
            return {row.id: Outcome(False, reason, problem.message) for row in resources}

    def _release(self, resources: Sequence[Resource]) -> dict[int, Outcome]:
        marks = {row.mark for row in resources}
        read = {family: xtables.matching(family, marks, self._prefix) for family in xtables.TOOLS}
        views = {family: view for family, (view, _) in read.items()}
        outcomes, take = self._judged(resources, views)
        doomed: dict[tuple[int, str], list[tuple[Resource, str, bytes]]] = {}
        for row, rule in take:
            entries = read[rule.family][1].get((rule.table, rule.chain, row.mark, rule.text), [])
            doomed.setdefault((rule.family, rule.table), []).extend(
                (row, rule.chain, entry) for entry in entries
            )
        for (family, table), items in sorted(doomed.items(), reverse=True):
            for row_id, outcome in self._release_in(family, table, items).items():
                if outcomes[row_id].gone:
                    outcomes[row_id] = outcome
        self._drop_orphans(resources, views, doomed)
        return outcomes

    def _judged(
        self, resources: Sequence[Resource], views: Mapping[int, xtables.Saved]
    ) -> tuple[dict[int, Outcome], list[tuple[Resource, Rule]]]:
        """Outcomes before acting, and the rules to take; the base is judged last."""
        outcomes: dict[int, Outcome] = {}
        take: list[tuple[Resource, Rule]] = []
        sights = index(views)
        for row in sorted(resources, key=lambda row: row.spec["what"] == "base"):
            verdict = judge(row, rules_of(self._installation, row), sights)
            mine = [(row, rule) for rule in verdict.take]
            if row.spec["what"] == "base":
                taken = frozenset(
                    (rule.family, rule.table, rule.chain, rule.text, by.mark)
                    for by, rule in take + mine
                )
                needed = dependents(self._installation, views, taken)
                if needed is not None:
                    keep = verdict.keep
                    if keep.gone:
                        keep = Outcome(False, "foreign-dependents", needed)
                    outcomes[row.id] = keep
                    continue
            outcomes[row.id] = verdict.keep
            take += mine
        return outcomes, take

    def _release_in(
        self, family: int, table: str, items: Sequence[tuple[Resource, str, bytes]]
    ) -> dict[int, Outcome]:
        """Take entries from one table, and the chains that then are empty and not reached."""
        chains = own_chains(self._installation, table)
        base = [item for item in items if item[0].spec["what"] == "base"]
        others = [item for item in items if item[0].spec["what"] != "base"]
        kept: dict[int, Outcome] = {}

        def change(edit: xtables.Edit) -> bool:
            kept.clear()
            taken = sum(edit.take(chain, entry) for _, chain, entry in others)
            busy = [c for c in chains if edit.has(c) and not edit.empty(c)]
            if base and busy:  # someone was quicker since the rules were judged
                message = f"{xtables.TOOLS[family]} {table}: rules are left in {', '.join(busy)}"
                kept[base[0][0].id] = Outcome(False, "foreign-dependents", message)
            else:
                taken += sum(edit.take(chain, entry) for _, chain, entry in base)
            return _sweep(edit, chains) or taken > 0

        xtables.edit(family, table, self._timeout, change)
        blob = xtables.read(family, table)
        marks = {row.mark for row, _, _ in items}
        left = {
            (seen.chain, seen.data)
            for seen in (xtables.marked(family, blob, self._prefix) if blob else ())
            if seen.mark in marks
        }
        for row, chain, entry in items:
            if (chain, entry) in left and row.id not in kept:
                message = f"{xtables.TOOLS[family]} {table} {chain}: a rule came back"
                kept[row.id] = Outcome(False, "contended", message)
        return kept

    def _drop_orphans(
        self,
        resources: Sequence[Resource],
        views: Mapping[int, xtables.Saved],
        done: Iterable[tuple[int, str]],
    ) -> None:
        """Chains of a base or network whose rules and jumps someone else flushed before."""
        if not any(row.spec["what"] in ("base", "network") for row in resources):
            return
        for family in xtables.TOOLS:
            for table in _CHAINS:
                own = own_chains(self._installation, table)
                # where there is none the lock is left alone: whoever could not have it to make
                # something needs it not to undo nothing
                if (family, table) in done or not idle(views[family], table, own):
                    continue
                xtables.edit(family, table, self._timeout, lambda edit, own=own: _sweep(edit, own))

    def remove(self, entry: Entry) -> Outcome:
        """Remove one rule that was seen, if it is still exactly that; of copies, the last.

        Chains of ours that are left empty go with the last rule. Never raises.
        """
        if entry.mark is None:
            return Outcome(False, "foreign", f"`{entry.text}` in {entry.place} carries no mark")
        tool, table, chain = entry.place.split(" ")
        family = next(number for number, name in xtables.TOOLS.items() if name == tool)

        def change(edit: xtables.Edit) -> bool:
            taken = bool(copies) and edit.take(chain, copies[-1])
            return _sweep(edit, own_chains(self._installation, table)) or bool(taken)

        try:
            _, entries = xtables.matching(family, (entry.mark,), self._prefix)
            copies = entries.get((table, chain, entry.mark, entry.text), [])
            xtables.edit(family, table, self._timeout, change)
        except HvtxError as problem:
            contended = isinstance(problem, Busy) or problem.code == "contended"
            return Outcome(False, "contended" if contended else "observe-failed", problem.message)
        return GONE

    def mend(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Put back what is missing of the rows; :meth:`create` adds just that.

        What an earlier version made otherwise goes when that of this one is there. A row `pass`
        goes behind what others have put behind it.
        """
        older = [row for row in resources if outdated(row)]
        bare = {row.id: row._replace(observed={}) for row in older}
        observed = self.create([bare.get(row.id, row) for row in resources])
        for row in older:
            self._drop_superseded(row, rules_of(self._installation, bare[row.id]))
        for row in resources:
            if row.spec["what"] == "pass" and place_in_forward(row) == "before":
                self._put_last(row)
            self._put_first(row)
        return observed

    def _put_first(self, row: Resource) -> None:
        """Move a row's jumps to what drops to the head, before what others have put there."""
        jumps = [r for r in rules_of(self._installation, row) if (r.table, r.chain) == GUARDS]
        for family in {rule.family for rule in jumps}:
            own = [_entry(rule, row.mark) for rule in jumps if rule.family == family]

            def change(edit: xtables.Edit, own: list[bytes] = own) -> bool:
                for entry in reversed(own):
                    if edit.take(GUARDS[1], entry):
                        edit.add(GUARDS[1], entry, first=True)
                return True

            xtables.edit(family, GUARDS[0], self._timeout, change)

    def _put_last(self, row: Resource) -> None:
        jump = rules_of(self._installation, row)[-1]
        entry = _entry(jump, row.mark)

        def change(edit: xtables.Edit) -> bool:
            return edit.put_last(jump.chain, entry)

        xtables.edit(jump.family, jump.table, self._timeout, change)

    def _drop_superseded(self, row: Resource, rules: Sequence[Rule]) -> None:
        """Take rules of an earlier version that are not among ``rules``."""
        wanted = {(rule.place, rule.text) for rule in rules}
        row_ = row._replace(spec={**row.spec, "what": "superseded"})
        for rule in rules_of(self._installation, row):
            if (rule.place, rule.text) in wanted:
                continue
            _, entries = xtables.matching(rule.family, (row.mark,), self._prefix)
            found = entries.get((rule.table, rule.chain, row.mark, rule.text), [])
            items = [(row_, rule.chain, entry) for entry in found]
            if items:
                self._release_in(rule.family, rule.table, items)

    def remove_copies(self, resource: Resource) -> Outcome:
        """Leave one of each of a row's rules where there are identical copies.

        ``gone`` means that no surplus copy is left. Never raises; see :meth:`release`.
        """
        try:
            rules = rules_of(self._installation, resource)
            for family in sorted({rule.family for rule in rules}):
                self._thin(family, resource, [rule for rule in rules if rule.family == family])
        except HvtxError as problem:
            contended = isinstance(problem, Busy) or problem.code == "contended"
            return Outcome(False, "contended" if contended else "observe-failed", problem.message)
        return GONE

    def _thin(self, family: int, resource: Resource, rules: Sequence[Rule]) -> None:
        _, entries = xtables.matching(family, (resource.mark,), self._prefix)
        for table in _CHAINS:
            surplus = []
            for rule in rules:
                copies = entries.get((table, rule.chain, resource.mark, rule.text), [])
                if rule.table == table and len(copies) > 1:
                    surplus.append((rule, copies))
            if not surplus:
                continue

            def change(edit: xtables.Edit, surplus: list[Any] = surplus) -> bool:
                # All go and one is put back, so that it stands where a new one would; in the order
                # of _create_in, as each of those that go to the head is put before the last.
                ahead = [item for item in surplus if item[0].first]
                behind = [item for item in surplus if not item[0].first]
                for rule, copies in [*reversed(ahead), *behind]:
                    if sum(edit.take(rule.chain, entry) for entry in copies):
                        edit.add(rule.chain, copies[0], first=rule.first)
                return True

            xtables.edit(family, table, self._timeout, change)


def _entry(rule: Rule, mark: str) -> bytes:
    try:
        return xtables.build(rule.family, rule.text, mark)
    except ValueError as problem:
        raise HostRefused(
            f"{rule.place}: {problem}",
            hint="another version of hvtx recorded this rule, and can make it again",
        ) from problem


def _tables(rules: Iterable[Sequence[Rule]]) -> list[tuple[int, str]]:
    """The tables of all rules; nat comes last, so that nothing is reached before its guard."""
    return sorted({(rule.family, rule.table) for group in rules for rule in group})


def _sweep(edit: xtables.Edit, chains: Iterable[str]) -> bool:
    """Drop those chains that are empty and that nothing jumps to; whether there were any."""
    there = [chain for chain in chains if edit.has(chain)]
    idle = [chain for chain in there if edit.empty(chain) and not edit.references(chain)]
    doomed = _together(idle, there)
    for chain in doomed:
        edit.drop_chain(chain)
    return bool(doomed)
