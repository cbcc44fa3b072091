"""Which VMs run with all of their things as recorded, so that nothing of them needs judging. Pure.

What is said of such a VM follows from the record alone: each row is left alone (``vm-alive``). The
conditions are strict and errors are on the safe side: whatever is not settled is judged row by row.

A VM is settled if each of its rows is committed in this life (a lease outlives the lives of the
host, and is judged by its VM alone), and no operation runs on it, ran or was begun when the host
was looked at; no row is part of a change or has flows left; its devices and elements are there with
their marks, names and values, each once, and nothing else carries one of those marks; no other row
claims what is theirs; its files carry their marks, and its process lives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from hvtx.model.plan import Settled, SettledRow, Snapshot
from hvtx.model.resource import EXCHANGE, FIREWALL_KINDS, FLOWS, Kind, Link, RawResource, State
from hvtx.model.typed import NamedTuple

TAP, FILE, PROCESS, LEASE = (k.value for k in (Kind.TAP, Kind.FILE, Kind.PROCESS, Kind.LEASE))
FIREWALL = frozenset(kind.value for kind in FIREWALL_KINDS)
_KINDS = FIREWALL | {TAP, FILE, PROCESS, LEASE}
_COMMITTED = State.COMMITTED.value
_FLOWS, _EXCHANGE = f'"{FLOWS}"', f'"{EXCHANGE}"'


class Carried(NamedTuple):
    """Who carries which mark."""

    by_index: Mapping[int, Link]
    aliases: Mapping[str, int]  # how many devices have it
    elements: Collection[str]  # those of our own sets
    others: frozenset[str]  # rules, tables, elements of others' sets

    def elsewhere(self, rows: Collection[RawResource]) -> set[str]:
        """The marks of rows that something carries which does not stand for a row of their kind."""
        marks = {row[4] for row in rows}
        devices = {row[4] for row in rows if row[1] == TAP}
        filtering = {row[4] for row in rows if row[1] in FIREWALL}
        found = (marks - devices) & self.aliases.keys()
        found |= (marks - filtering).intersection(self.elements)
        return found | (marks & self.others)


def carried(
    links: Iterable[Link], elements: Collection[str], others: Iterable[str | None]
) -> Carried:
    """Sort out what was seen."""
    by_index = {link.ifindex: link for link in links}
    aliases = Counter([link.alias for link in by_index.values() if link.alias])
    return Carried(by_index, aliases, elements, frozenset(m for m in others if m))


def undisturbed(
    rows: Iterable[RawResource], life: int, running: Collection[int], busy: Collection[str]
) -> dict[str, list[RawResource]]:
    """The rows of VMs (by id) that are committed in this life, and on which nobody works.

    ``running``: operations that ran when the host was looked at; ``busy``: VMs (by id) with one
    that has not ended. What a row's text merely mentions counts as if it were so.
    """
    found: dict[str, list[RawResource]] = {}
    out: set[str | None] = {None, *busy}
    for row in rows:
        _, kind, _, state, _, _, observed, operation, born, vm, _ = row
        if vm in out:
            continue
        if (
            state != _COMMITTED
            or (born != life and kind != LEASE)
            or kind not in _KINDS
            or operation in running
            or _FLOWS in observed
            or _EXCHANGE in observed
        ):
            out.add(vm)
        elif vm is not None:
            found.setdefault(vm, []).append(row)
    return {vm: own for vm, own in found.items() if vm not in out}


def just_device(row: RawResource, ifindex: int, sights: Carried) -> Link | None:
    """A row's TAP, if it is there under its index, name and mark, which no other device has."""
    link, mark = sights.by_index.get(ifindex), row[4]
    if link is None or link.alias != mark or sights.aliases[mark] != 1:
        return None
    return link if link.kind == "tun" and link.name == row[2] else None


def settled(rows: Iterable[RawResource], links: Mapping[int, Link], backend: str) -> Settled:
    """What a plan needs of settled VMs, whose firewall rows are of this backend."""
    vms: dict[str, list[SettledRow]] = {}
    networks, filtered = set(), set()
    for row in rows:
        number, kind, key, _, mark, _, _, _, _, vm, network = row
        vms.setdefault(vm or "", []).append((number, kind, key, mark))
        if network and kind == TAP:
            networks.add(network)
        elif network and kind in FIREWALL:
            filtered.add(network)
    marks = frozenset([row[3] for own in vms.values() for row in own])
    backends = frozenset((network, backend) for network in filtered)
    return Settled(vms, marks, links, frozenset(networks), backends)


def without_settled(snapshot: Snapshot) -> Snapshot:
    """A snapshot whose plan has no items of settled VMs; that they are there is not forgotten."""
    return snapshot._replace(settled=snapshot.settled._replace(vms={}))
