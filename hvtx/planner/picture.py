"""The host as a picture, from the snapshot and the plan that was made of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.model.mark import Mark, parse_mark
from hvtx.model.picture import Health, NetworkShape, Picture, StrangeShape, VmShape
from hvtx.model.plan import Item, Plan, Reason, Snapshot
from hvtx.model.resource import FIREWALL_KINDS, Kind, Link, Resource
from hvtx.model.vm import Liveness
from hvtx.planner.likeness import likeness

_IFF_TAP = 0x2
_FIRST = (Health.DEAD, Health.UNKNOWN, Health.LIVE, Health.OFF)
_HELD = frozenset({Reason.IN_USE, Reason.VM_ALIVE})


def draw(snapshot: Snapshot, plan: Plan) -> Picture:
    """Every VM in each of its networks, and the strangers; equal hosts give equal pictures."""
    by_vm: dict[str, list[Resource]] = {}
    for row in snapshot.rows:
        if row.vm:
            by_vm.setdefault(row.vm, []).append(row)
    items: dict[str | None, list[Item]] = {}
    for item in plan.items:
        items.setdefault(item.vm, []).append(item)
    bridges = _bridges(snapshot)
    members: dict[str | None, list[VmShape]] = {}
    for vm, facts in snapshot.vms.items():
        health = _health(facts.liveness, by_vm.get(vm, []), items.get(facts.name, []))
        words = facts.evidence[0] if facts.evidence and health is not Health.OFF else "not running"
        for network, rows in _by_network(by_vm.get(vm, []), bridges).items():
            members.setdefault(network, []).append(_vm(facts.name, health, words, rows))
    networks = tuple(
        _network(snapshot, network, members.get(network, []), bridges)
        for network in sorted(snapshot.networks, key=lambda n: snapshot.networks[n].name)
    )
    strange, others = _strangers(snapshot)
    rules = tuple(
        item.key for item in plan.items if item.kind == "rule" and item.reason is Reason.FOREIGN
    )
    return Picture(networks, _ordered(members.get(None, [])), strange, rules, others)


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
        if network or row.kind == Kind.TAP:
            found.setdefault(network, []).append(row)
    return found or {None: []}


def _vm(name: str, health: Health, words: str, rows: Sequence[Resource]) -> VmShape:
    return VmShape(
        name=name,
        health=health,
        device=next((row.key for row in rows if row.kind == Kind.TAP), None),
        addresses=tuple(row.key for row in rows if row.kind == Kind.LEASE),
        ports=tuple(row.key for row in rows if row.kind == Kind.PUBLISH),
        rules=sum(1 for row in rows if row.kind in FIREWALL_KINDS),
        words=words,
    )


def _ordered(vms: Iterable[VmShape]) -> tuple[VmShape, ...]:
    return tuple(sorted(vms, key=lambda vm: (_FIRST.index(vm.health), vm.name)))


def _network(
    snapshot: Snapshot, network: str, vms: Iterable[VmShape], bridges: Mapping[str, str]
) -> NetworkShape:
    facts = snapshot.networks[network]
    bridge = next((name for name, of in bridges.items() if of == network), "")
    there = any(link.name == bridge for link in snapshot.links)
    own = [row for row in snapshot.rows if row.network == network and row.vm is None]
    return NetworkShape(
        name=facts.name,
        bridge=bridge,
        health=Health.LIVE if there else Health.UNKNOWN if snapshot.failures else Health.DEAD,
        subnets=facts.subnets,
        rules=sum(1 for row in own if row.kind in FIREWALL_KINDS),
        vms=_ordered(vms),
    )


# -- strangers -------------------------------------------------------------------------------------


def _strangers(snapshot: Snapshot) -> tuple[tuple[StrangeShape, ...], tuple[str, ...]]:
    ours = {row.ifindex for row in snapshot.rows if row.kind in (Kind.TAP, Kind.BRIDGE)}
    links = [link for link in snapshot.links if link.ifindex not in ours]
    ports: dict[int, list[str]] = {}
    for link in links:
        if link.master:
            ports.setdefault(link.master, []).append(link.name)
    shown, others = [], []
    strange_bridges = {link.ifindex for link in links if link.kind == "bridge"}
    for link in sorted(links, key=lambda link: (link.kind != "bridge", link.name)):
        tap = link.kind == "tun" and bool(link.tun_flags & _IFF_TAP)
        if link.kind == "bridge":
            inside = tuple(sorted(ports.get(link.ifindex, ())))
            shown.append(StrangeShape(link.name, "bridge", _words(snapshot, link), inside))
        elif link.master in strange_bridges:
            continue  # told with its bridge
        elif tap:
            shown.append(StrangeShape(link.name, "tap", _words(snapshot, link)))
        else:
            others.append(link.name)
    return tuple(shown), tuple(others)


def _words(snapshot: Snapshot, link: Link) -> str:
    parsed = parse_mark(link.alias)
    if isinstance(parsed, Mark):
        if parsed.installation != snapshot.installation:
            return f"of another installation of hvtx ({parsed.installation})"
        return "marked by this installation, but not as recorded"
    looks = likeness(link.name)
    alias = f"its alias is {link.alias!r}" if link.alias else ""
    told = "; ".join(words for words in (alias, f"looks like {looks}" if looks else "") if words)
    return told or "no mark"
