"""What a change of something living exchanges: the rows that go, and what comes. Pure.

Compared is what would be wanted before with what would be wanted after, each by this version of
hvtx: what both have alike is not touched, whichever version made it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import (
    FLOWS_EACH,
    PORTS,
    Kind,
    Resource,
    State,
    tap_spec,
)
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Network, Vm
from hvtx.planner.provision import ResourceSpec, network_rules, want_vm


class WantedRow(NamedTuple):
    """A resource that is wanted, and whose it is (by id)."""

    want: ResourceSpec
    vm: str | None
    network: str | None


class Difference(NamedTuple):
    """Rows that go, and what is made in their place."""

    gone: tuple[Resource, ...]
    made: tuple[WantedRow, ...]


def difference(
    rows: Iterable[Resource], before: Sequence[WantedRow], after: Sequence[WantedRow]
) -> Difference:
    """What leads from ``before`` to ``after``; ``rows`` are those that are on record for both.

    A row that is to go and is not on record has gone; one that is to come and is there under the
    same name, however it came, is replaced.
    """
    stays = Counter(map(_identity, before)) & Counter(map(_identity, after))
    leaving = {_name(each) for each in _without(before, stays)}
    made = _without(after, stays)
    taken = leaving | {_name(each) for each in made}
    gone = [
        row
        for row in rows
        if row.state == State.COMMITTED and (row.vm, row.network, row.kind, row.key) in taken
    ]
    return Difference(tuple(gone), tuple(made))


def _without(wanted: Sequence[WantedRow], stays: Counter[Any]) -> list[WantedRow]:
    left, found = Counter(stays), []
    for each in wanted:
        if left[_identity(each)]:
            left[_identity(each)] -= 1
        else:
            found.append(each)
    return found


def _name(each: WantedRow) -> tuple[str | None, str | None, str, str]:
    return each.vm, each.network, each.want.kind, each.want.key


def _identity(each: WantedRow) -> tuple[Any, ...]:
    return (*_name(each), json.dumps(each.want.spec, sort_keys=True))


def of_vm(vm: Vm, networks: Mapping[str, Network], rows: Sequence[Resource]) -> list[WantedRow]:
    """What a VM that is up has beside devices and its process: with the devices of its ``rows``.

    Empty where it does not have them all: it is down, or was taken over from another tool.
    """
    taps = {row.network: row for row in rows if row.kind in PORTS}
    if any(interface.network not in taps for interface in vm.interfaces):
        return []
    own = [taps[interface.network] for interface in vm.interfaces]
    flows = [firewall_spec(r).get("flows", FLOWS_EACH) for r in rows if r.role == "port"]
    wants = want_vm(
        vm,
        networks,
        bridges={tap.network: tap_spec(tap)["master"] for tap in own if tap.network},
        devices=[(tap.key, tap.ifindex, tap_spec(tap)["mac"]) for tap in own],
        directory=None,
        process=False,
        flows=flows[0] if flows else FLOWS_EACH,
    )
    return [WantedRow(want, vm.id, network) for want, network in wants if want.kind != Kind.TAP]


def of_network(network: Network, rows: Sequence[Resource]) -> list[WantedRow]:
    """The same of a network that is up, by its own ``rows``: all but bridge and addresses."""
    flows = [firewall_spec(r).get("flows", FLOWS_EACH) for r in rows if r.role == "network"]
    wants = network_rules(network, flows[0] if flows else FLOWS_EACH)
    return [WantedRow(want, None, network.id) for want in wants]
