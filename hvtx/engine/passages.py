"""Accepts of ours where the filter of somebody else drops what nobody decided (docs/adr/0047).

A row `passage` a network, family and built-in chain. It is there only while that chain ends in a
drop: its policy, or a rule without a condition. So it is made when the first such end is met, by
`network create`, `vm start`, `recover` and `repair`, made anew when the ways to the world change,
and taken away when the chain accepts again, by whichever of these comes next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hvtx.engine.repaired import Repaired
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now
from hvtx.engine.transaction import begin
from hvtx.engine.undo import take_down
from hvtx.errors import HvtxError, NotPermitted
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.firewall import FirewallSpec, firewall_spec
from hvtx.model.mark import FAMILY
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Network
from hvtx.planner.provision import ResourceSpec
from hvtx.planner.scope import NetworkScope

if TYPE_CHECKING:
    from hvtx.host.filter_chains import FilterChain

WHAT = "passage"
_BEHIND = "foreign rules come after hvtx's accept, so they do not apply to its guests"


class Chains(NamedTuple):
    """The built-in chains of the host, by backend, family and name."""

    chains: dict[tuple[str, int, str], FilterChain]

    def closed(self, family: int) -> list[tuple[str, int, str]]:
        """Those of a family that drop what nobody decided, and that others may change."""
        from hvtx.rulesets.filter_ends import end_of

        return sorted(
            key
            for key, chain in self.chains.items()
            if key[1] == family and not chain.owner and end_of(chain)[1]
        )


class Change(NamedTuple):
    """What differs: rows to make, by network; rows that are not wanted; rows not at their place."""

    make: dict[str, list[ResourceSpec]]
    drop: tuple[Resource, ...]
    move: tuple[Resource, ...]
    words: tuple[str, ...]  # for a person

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(any(self.make.values()) or self.drop or self.move)


def chains_now() -> Chains:
    """The chains as they are. Raises NotPermitted, HostRefused, OSError, DumpInterrupted."""
    from contextlib import closing, suppress

    from hvtx.host.filter_chains import legacy_chains, nft_chains
    from hvtx.host.nfnetlink import Nftables
    from hvtx.host.retry import retry_transient

    with closing(Nftables()) as socket:
        found = retry_transient(lambda: nft_chains(socket))
    every = {("nftables", *key): chain for key, chain in found.items()}
    # who may not read the legacy tables may not change them either
    with suppress(NotPermitted):
        for family in (4, 6):
            every |= {("iptables", *key): chain for key, chain in legacy_chains(family).items()}
    return Chains(every)


def change(scope: NetworkScope) -> Change:
    """What is to be made, removed and moved for the networks of a scope; changes nothing.

    Raises NotPermitted, HostRefused, OSError, DumpInterrupted.
    """
    known = scope.bridges()
    networks = [n for n in scope.networks.values() if n.id in known.keys() - scope.provisional.keys()]
    there = _rows_of(scope)
    if not networks and not there:
        return Change({}, (), (), ())
    chains = chains_now()
    return _compare({n.id: wants(n, chains) for n in networks}, there, chains)


def _rows_of(scope: NetworkScope) -> list[Resource]:
    return [
        row
        for row in scope.rows
        if row.role == WHAT
        and row.network in scope.networks
        and (row.state, row.life) == (State.COMMITTED, scope.life)
    ]


def wants(
    network: Network, chains: Chains, uplinks: Collection[str] | None = None
) -> list[ResourceSpec]:
    """The rows that a network should have; ``uplinks``: other ways to the world than the host's."""
    if not network.passage:
        return []
    closed = [key for family in network.families for key in chains.closed(family)]
    # of the legacy FORWARD the iptables backend has its own way (forward_accepts)
    own = ("iptables", "FORWARD") if network.firewall == "iptables" else None
    closed = [key for key in closed if (key[0], key[2]) != own]
    if not closed:
        return []
    ways = sorted(world() if uplinks is None else uplinks)
    if network.uplink is not None:
        ways = [network.uplink]
    return [_want(network, *key, ways) for key in closed]


def _want(
    network: Network, backend: str, family: int, hook: str, uplinks: Sequence[str]
) -> ResourceSpec:
    from hvtx.rulesets.passage_rules import forward_rules, input_rules

    bridge = network.bridge
    if hook == "FORWARD":
        rules = forward_rules(bridge, nat=network.nat, isolate=network.isolate, uplinks=uplinks)
    else:
        rules = input_rules(family, bridge, dhcp=network.dhcp)
    key = f"passage {hook} IPv{family} of {bridge}"
    spec = {"backend": backend, "what": WHAT, "family": family, "hook": hook}
    return ResourceSpec(Kind.FILTER, key, {**spec, "bridge": bridge, "accepts": list(rules)})


def world() -> list[str]:
    """The devices where the world is; bridges that carry a mark of hvtx are none."""
    from contextlib import closing

    from hvtx.host.egress_devices import leading_out
    from hvtx.host.links import Links
    from hvtx.planner.uplinks import uplinks

    with closing(Links()) as links:
        every = links.all()
        own = {link.name for link in every if (link.alias or "").startswith(FAMILY)}
        return uplinks(every, links.addresses(), ways=leading_out(), own=own)


def _compare(
    wanted: dict[str, list[ResourceSpec]], there: Sequence[Resource], chains: Chains
) -> Change:
    from hvtx.rulesets.filter_ends import in_place

    make = {network: list(wants_) for network, wants_ in wanted.items()}
    drop, move, words = [], [], []
    for row in there:
        spec = firewall_spec(row)
        fits = [w for w in make.get(row.network or "", ()) if w.spec == row.spec]
        if not fits:
            drop.append(row)
            continue
        make[row.network or ""].remove(fits[0])
        chain = chains.chains[spec["backend"], spec["family"], spec["hook"]]
        if not in_place(chain, row.mark, FAMILY):
            move.append(row)
            if any(rule.mark == row.mark for rule in chain.rules):  # else it is told as any that is gone
                words.append(f"{_where(spec)}: {_BEHIND}")
    old = {_same(row.spec) for row in drop}
    for want in (want for wants_ in make.values() for want in wants_):
        spec_ = want.spec
        if _same(spec_) in old:
            words.append(f"{_where(spec_)}: what hvtx accepts for {spec_['bridge']} is out of date")
        else:
            words.append(
                f"{_where(spec_)}: it drops what nobody decided, and there is no accept for"
                f" {spec_['bridge']} yet"
            )
    return Change(make, tuple(drop), tuple(move), tuple(words))


def _same(spec: FirewallSpec) -> tuple[str, int, str, str]:
    return spec["backend"], spec["family"], spec["hook"], spec["bridge"]


def _where(spec: FirewallSpec) -> str:
    if spec["backend"] == "nftables":
        return f"nft {'ip' if spec['family'] == 4 else 'ip6'} filter {spec['hook']}"
    return f"{'iptables' if spec['family'] == 4 else 'ip6tables'} filter {spec['hook']}"


def settle(runtime: Runtime, scope: NetworkScope, *, locked: bool = False) -> list[Repaired]:
    """Do what :func:`change` finds; what was wrong, as `repair` tells it.

    ``locked`` says that the caller holds the lock of the networks, and held it when they were read.
    What the host refuses is told as a warning: a network without its accepts is what it was before,
    and `doctor` names the rule in the way. Raises Busy, NotPermitted.
    """
    try:
        half = any(row.role == WHAT for row in scope.unsettled())
        found = change(scope)
        if not half and not found:
            return []
    except (HvtxError, OSError, DumpInterrupted) as problem:
        _tell(problem)
        return []
    if not locked:
        runtime.lock("all", "networks")
    try:
        if half:
            from hvtx.engine.resolve import resolve

            resolve(runtime, networks=True)
        if half or not locked:  # read again: another command may have been quicker
            found = change(networks_now(runtime, scope.networks.values()))
        return _settle(runtime, found)
    except (HvtxError, OSError, DumpInterrupted) as problem:
        if isinstance(problem, HvtxError) and problem.code == "busy":
            raise
        _tell(problem)
        return []
    finally:
        if not locked:
            runtime.unlock("all", "networks")


def _tell(problem: Exception) -> None:
    from hvtx.engine import notice

    said = problem.message if isinstance(problem, HvtxError) else str(problem)
    notice.warning(f"the filters of others could not be given an accept for guests: {said}")


def _settle(runtime: Runtime, found: Change) -> list[Repaired]:
    for backend, rows in _by_backend(found.move).items():
        runtime.firewall(backend).repair(rows)
    if found.drop:  # before a new one of the same words
        with begin(runtime, "rebuild") as (_, operation):
            pass
        take_down(operation, found.drop, reason="replaced")
    for network, wants_ in found.make.items():
        if wants_:
            from hvtx.engine.network_build import make

            make(runtime, "rebuild", wants_, network=network)
    return [Repaired(str(Kind.FILTER), words.partition(": ")[0], words) for words in found.words]


def _by_backend(rows: Iterable[Resource]) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for row in rows:
        found.setdefault(row.backend, []).append(row)
    return found
