"""The diagram of a host, from a snapshot and its plan. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.model.diagram import Diagram, ForeignNode, Health, NetworkNode, VmNode
from hvtx.model.mark import Mark, parse_mark
from hvtx.model.plan import Item, Plan, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import DEVICES, FIREWALL_KINDS, PORTS, Kind, Link, Resource
from hvtx.model.vm import Liveness
from hvtx.planner.known_software import looks_like

_IFF_TAP = 0x2
_FIRST = (Health.DEAD, Health.UNKNOWN, Health.LIVE, Health.OFF)
_HELD = frozenset({Reason.IN_USE, Reason.VM_ALIVE})


def draw(snapshot: Snapshot, plan: Plan) -> Diagram:
    """Every VM in each of its networks, and the others; equal hosts give equal diagrams."""
    by_vm: dict[str, list[Resource]] = {}
    for row in snapshot.rows:
        if row.vm:
            by_vm.setdefault(row.vm, []).append(row)
    items: dict[str | None, list[Item]] = {}
    for item in plan.items:
        items.setdefault(item.vm, []).append(item)
    bridges = _bridges(snapshot)
    members: dict[str | None, list[VmNode]] = {}
    for vm, facts in snapshot.vms.items():
        health = _health(facts.liveness, by_vm.get(vm, []), items.get(facts.name, []))
        words = facts.evidence[0] if facts.evidence and health is not Health.OFF else "not running"
        for network, rows in _by_network(by_vm.get(vm, []), bridges).items():
            members.setdefault(network, []).append(_vm(facts.name, health, words, rows))
    networks = tuple(
        _network(snapshot, network, members.get(network, []), bridges)
        for network in sorted(snapshot.networks, key=lambda n: snapshot.networks[n].name)
    )
    strange, others = _foreign_objects(snapshot)
    rules = tuple(
        item.key for item in plan.items if item.kind == "rule" and item.reason is Reason.FOREIGN
    )
    return Diagram(networks, _ordered(members.get(None, [])), strange, rules, others)


def _bridges(snapshot: Snapshot) -> Mapping[str, str]:
    """Which network a bridge is of, by the bridge's name."""
    return {
        row.key: row.network for row in snapshot.rows if row.kind == Kind.BRIDGE and row.network
    }


def _health(liveness: Liveness, rows: Sequence[Resource], items: Iterable[Item]) -> Health:
    if not any(row.kind != Kind.LEASE for row in rows):
        return Health.OFF
    if liveness is Liveness.UNKNOWN:
        return Health.UNKNOWN
    held = any(item.reason in _HELD for item in items)
    return Health.LIVE if held or liveness is Liveness.ALIVE else Health.DEAD


def _by_network(
    rows: Iterable[Resource], bridges: Mapping[str, str]
) -> dict[str | None, list[Resource]]:
    """The rows of a VM by network; those of none (process, file) tell nothing here."""
    found: dict[str | None, list[Resource]] = {}
    for row in rows:
        network = row.network or bridges.get(row.bridge)
        if network or row.kind in PORTS:
            found.setdefault(network, []).append(row)
    return found or {None: []}


def _vm(name: str, health: Health, words: str, rows: Sequence[Resource]) -> VmNode:
    return VmNode(
        name=name,
        health=health,
        device=next((row.key for row in rows if row.kind in PORTS), None),
        addresses=tuple(row.key for row in rows if row.kind == Kind.LEASE),
        ports=tuple(row.key for row in rows if row.kind == Kind.PUBLISH),
        rules=sum(1 for row in rows if row.kind in FIREWALL_KINDS),
        words=words,
    )


def _ordered(vms: Iterable[VmNode]) -> tuple[VmNode, ...]:
    return tuple(sorted(vms, key=lambda vm: (_FIRST.index(vm.health), vm.name)))


def _network(
    snapshot: Snapshot, network: str, vms: Iterable[VmNode], bridges: Mapping[str, str]
) -> NetworkNode:
    facts = snapshot.networks[network]
    bridge = next((name for name, of in bridges.items() if of == network), "")
    there = any(link.name == bridge for link in snapshot.links)
    own = [row for row in snapshot.rows if row.network == network and row.vm is None]
    return NetworkNode(
        name=facts.name,
        bridge=bridge,
        health=Health.LIVE if there else Health.UNKNOWN if snapshot.failures else Health.DEAD,
        subnets=facts.subnets,
        rules=sum(1 for row in own if row.kind in FIREWALL_KINDS),
        vms=_ordered(vms),
    )


# -- others -------------------------------------------------------------------------------------


def _foreign_objects(snapshot: Snapshot) -> tuple[tuple[ForeignNode, ...], tuple[str, ...]]:
    ours = {row.ifindex for row in snapshot.rows if row.kind in DEVICES}
    links = [link for link in snapshot.links if link.ifindex not in ours]
    ports: dict[int, list[str]] = {}
    for link in links:
        if link.master:
            ports.setdefault(link.master, []).append(link.name)
    shown, others = [], []
    foreign_bridges = {link.ifindex for link in links if link.kind == "bridge"}
    for link in sorted(links, key=lambda link: (link.kind != "bridge", link.name)):
        tap = link.kind == "tun" and bool(link.tun_flags & _IFF_TAP)
        if link.kind == "bridge":
            inside = tuple(sorted(ports.get(link.ifindex, ())))
            shown.append(ForeignNode(link.name, "bridge", _words(snapshot, link), inside))
        elif link.master in foreign_bridges:
            continue  # told with its bridge
        elif tap:
            shown.append(ForeignNode(link.name, "tap", _words(snapshot, link)))
        else:
            others.append(link.name)
    return tuple(shown), tuple(others)


def _words(snapshot: Snapshot, link: Link) -> str:
    parsed = parse_mark(link.alias)
    if isinstance(parsed, Mark):
        if parsed.installation != snapshot.installation:
            return f"of another installation of hvtx ({parsed.installation})"
        return "marked by this installation, but not as recorded"
    looks = looks_like(link.name)
    alias = f"its alias is {link.alias!r}" if link.alias else ""
    told = "; ".join(words for words in (alias, f"looks like {looks}" if looks else "") if words)
    return told or "no mark"
