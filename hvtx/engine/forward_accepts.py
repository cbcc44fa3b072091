"""Accept rules of the iptables backend, updated when the host's FORWARD changes (docs/adr/0029).

A row `pass` a family: the jump at the end of FORWARD, and the devices where the world is. It is
there only while the policy of FORWARD drops, for it answers nothing else. So what others append to
FORWARD holds where the policy accepts; where it drops, the jump is put behind it again by the next
start, `network create` and `repair`, and `doctor` names what stands behind it meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext

from hvtx.engine.repaired import Repaired
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks
from hvtx.engine.transaction import begin
from hvtx.engine.undo import take_down
from hvtx.model.firewall import FirewallSpec, firewall_spec
from hvtx.model.mark import FAMILY
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.typed import Final, NamedTuple
from hvtx.model.vm import Network
from hvtx.planner.provision import ResourceSpec
from hvtx.planner.scope import NetworkScope

WHAT: Final = "pass"
_BACKEND: Final = "iptables"
_BEHIND = "foreign rules come after hvtx's accept, so they do not apply to its guests"


class Change(NamedTuple):
    """What differs: rows to make, rows that are there and not wanted, rows not at their place."""

    make: tuple[ResourceSpec, ...]
    drop: tuple[Resource, ...]
    move: tuple[Resource, ...]
    words: tuple[str, ...]  # for a person; only of what guests or others feel

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.make or self.drop or self.move)


NOTHING = Change((), (), (), ())


def change(scope: NetworkScope) -> Change:
    """What is to be made, removed and moved now; changes nothing. ``scope``: all networks.

    Raises NotPermitted, HostRefused.
    """
    there = rows_of(scope.life, scope.rows)
    known = scope.bridges()
    networks = [
        network
        for network in scope.every
        # one that is half made has its chains later, or never
        if network.firewall == _BACKEND
        and network.passage
        and network.id in known.keys() - scope.provisional.keys()
    ]
    if not networks and not there:
        return NOTHING
    return _compare(_wanted(networks, scope.every), there)


def _half_made(scope: NetworkScope) -> bool:
    """Whether a row was being made or removed, by a command that runs or was interrupted."""
    return any(row.role == WHAT for row in scope.half_done() if row.network is None)


def rows_of(life: int, rows: Sequence[Resource]) -> list[Resource]:
    """Those of the installation's rows that are passes, made in this life of the host."""
    return [
        row
        for row in rows
        if row.role == WHAT
        and row.network is None
        and (row.state, row.life) == (State.COMMITTED, life)
    ]


def wants_with(network: Network, every: Sequence[Network], more: str) -> list[ResourceSpec]:
    """The rows that there would be with one more network; ``more`` is one more way to the world."""
    found = _wanted([network], [*every, network])
    return [_want({**spec, "uplinks": sorted({*spec["uplinks"], more})}) for spec in found.values()]


def wants_beside(
    rows: Sequence[Resource], families: Collection[int], device: str
) -> list[ResourceSpec]:
    """The same for a way to the world that is thought up, beside committed rows."""
    return [
        _want({**firewall_spec(row), "uplinks": [device]})
        for row in rows
        if row.role == WHAT and firewall_spec(row)["family"] in families
    ]


def _want(spec: FirewallSpec) -> ResourceSpec:
    return ResourceSpec(Kind.FILTER, f"{_BACKEND} pass IPv{spec['family']}", {**spec})


def _wanted(networks: Sequence[Network], every: Sequence[Network]) -> dict[int, FirewallSpec]:
    """The specifications of the rows that should be there, by family."""
    from hvtx.drivers.iptables.policy import drops_by_policy

    families = {family for network in networks for family in network.families}
    closed = [family for family in sorted(families) if drops_by_policy(family)]
    if not closed:
        return {}
    # guests' own addresses are reached in networks without NAT
    names = sorted({*world(every), *(network.bridge for network in every if not network.nat)})
    return {
        family: {"backend": _BACKEND, "what": WHAT, "family": family, "uplinks": names}
        for family in closed
    }


def world(every: Sequence[Network]) -> list[str]:
    """The devices where the world is; ``every`` are all networks of hvtx's. Raises OSError."""
    from hvtx.host.egress_devices import leading_out
    from hvtx.host.links import Links
    from hvtx.planner.uplinks import uplinks

    links = Links()
    try:
        every_link = links.all()
        return uplinks(
            every_link,
            links.addresses(),
            ways=leading_out(),
            own={network.bridge for network in every}
            | {link.name for link in every_link if (link.alias or "").startswith(FAMILY)},
        )
    finally:
        links.close()


def _compare(wanted: dict[int, FirewallSpec], there: Sequence[Resource]) -> Change:
    from hvtx.drivers.iptables.policy import place_in_forward

    make, drop, move, words = [], [], [], []
    fit: dict[int, Resource] = {}
    for row in there:
        spec = wanted.get(firewall_spec(row)["family"])
        if spec is None or row.spec != spec or firewall_spec(row)["family"] in fit:
            drop.append(row)
            continue
        fit[firewall_spec(row)["family"]] = row
        place = place_in_forward(row)
        if place != "last":
            move.append(row)
        if place == "before":  # one that is gone is told as any row whose rules are
            words.append(f"{_tool(firewall_spec(row))} filter FORWARD: {_BEHIND}")
    for family, spec in wanted.items():
        if family in fit:
            continue
        make.append(_want(spec))
        old = next(
            (firewall_spec(row) for row in drop if firewall_spec(row)["family"] == family), None
        )
        words.append(_difference(spec, old))
    return Change(tuple(make), tuple(drop), tuple(move), tuple(words))


def _tool(spec: FirewallSpec) -> str:
    return "iptables" if spec["family"] == 4 else "ip6tables"


def _difference(spec: FirewallSpec, old: FirewallSpec | None) -> str:
    if old is None:
        return (
            f"{_tool(spec)} filter FORWARD: its policy drops, and guests have no accept there yet"
        )
    said, now = ", ".join(old["uplinks"]) or "none", ", ".join(spec["uplinks"]) or "none"
    return f"{_tool(spec)} filter: guests may go out by {said}, and the world is at {now}"


def settle(runtime: Runtime, scope: NetworkScope, *, locked: bool = False) -> list[Repaired]:
    """Do what :func:`change` finds; what was wrong, as `repair` tells it. ``scope``: all networks.

    ``locked`` says that the caller holds the lock of the networks, and held it when they were read.
    Raises HostRefused, Busy.
    """
    half = _half_made(scope)
    found = NOTHING if half else change(scope)
    if not half and not found:
        return []
    with nullcontext() if locked else runtime.held("all", "networks"):
        if half:
            from hvtx.engine.resolve import resolve

            resolve(runtime, networks=True)
        if half or not locked:  # read again: another command may have been quicker
            found = change(all_networks(runtime))
        for row in found.move:
            runtime.firewall(_BACKEND).repair([row])
        if found.drop:  # before a new one of the same words, which would look like it
            with begin(runtime, "rebuild") as (_, operation):
                pass
            take_down(operation, found.drop, reason="replaced")
        if found.make:
            from hvtx.engine.making import make

            make(runtime, "rebuild", found.make)
    return [Repaired(str(Kind.FILTER), words.partition(": ")[0], words) for words in found.words]
