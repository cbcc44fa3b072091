"""Accepts of ours where the filter of somebody else drops what nobody decided (docs/adr/0047).

A row `passage` a network, family and built-in chain. It is there only while that chain ends in a
drop: its policy, or a rule without a condition. So it is made when the first such end is met, by
`network create`, `vm start`, `recover` and `repair`, made anew when the ways to the world change,
and taken away when the chain accepts again, by whichever of these comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing, nullcontext, suppress

from hvtx.engine import firewalld_zone, notice
from hvtx.engine.forward_accepts import world
from hvtx.engine.repaired import Failed, Repaired
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now
from hvtx.engine.transaction import begin
from hvtx.engine.undo import take_down
from hvtx.errors import Busy, HvtxError, NotPermitted
from hvtx.host.filter_chains import has_firewalld, legacy_chains, nf_tables, nft_chains
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.retry import retry_transient
from hvtx.model.filter_chain import FilterChain
from hvtx.model.firewall import FirewallSpec, firewall_spec
from hvtx.model.firewalld_zone import BACKEND
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.typed import NamedTuple, cast
from hvtx.model.vm import Network
from hvtx.planner.firewalld_zone import bridges_of
from hvtx.planner.provision import ResourceSpec
from hvtx.planner.scope import NetworkScope
from hvtx.rulesets.filter_ends import end_of, in_place, stands_behind
from hvtx.rulesets.passage_rules import forward_rules, input_rules

Make = Callable[[str, Sequence[ResourceSpec]], list[Resource]]
WHAT = "passage"
_BEHIND = "foreign rules come after hvtx's accept, so they do not apply to its guests"


class Chains(NamedTuple):
    """The built-in chains of the host, by backend, family and name."""

    chains: dict[tuple[str, int, str], FilterChain]
    firewalld: bool = False  # its table is there

    def closed(self, family: int) -> list[tuple[str, int, str]]:
        """Those of a family that drop what nobody decided, and that others may change."""
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
    words: tuple[str, ...]  # for a person: what others meant is passed by, or copied
    lacks: tuple[str, ...] = ()  # likewise: what is not accepted yet, or no more

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(any(self.make.values()) or self.drop or self.move)


def chains_now() -> Chains:
    """The chains as they are. Raises NotPermitted, HostRefused, OSError, DumpInterrupted."""
    found: dict[tuple[int, str], FilterChain] = {}
    runs = False
    if (socket := nf_tables()) is not None:
        with closing(socket):
            found = retry_transient(lambda: nft_chains(socket))
            runs = retry_transient(lambda: has_firewalld(socket))
    every = {("nftables", *key): chain for key, chain in found.items()}
    # who may not read the legacy tables may not change them either
    with suppress(NotPermitted):
        for family in (4, 6):
            every |= {("iptables", *key): chain for key, chain in legacy_chains(family).items()}
    return Chains(every, runs)


def change(scope: NetworkScope, *, thorough: bool = True) -> Change:
    """What is to be made, removed and moved for the networks of a scope; changes nothing.

    ``thorough``: firewalld is asked about rows on record, too. Raises NotPermitted, HostRefused,
    OSError, DumpInterrupted.
    """
    known = scope.bridges()
    whole = known.keys() - scope.provisional.keys()
    networks = [network for network in scope.networks.values() if network.id in whole]
    there = [row for row in _rows_of(scope) if row.network in whole]
    if not networks and not there:
        return Change({}, (), (), ())
    chains = chains_now()
    zoned, there = firewalld_zone.of_kind(there)
    found = _compare({n.id: wants(n, chains) for n in networks}, there, chains)
    if not zoned and not chains.firewalld:
        return found
    more = firewalld_zone.change(networks, zoned, runs=chains.firewalld, thorough=thorough)
    make = {n.id: [*found.make.get(n.id, ()), *more.make.get(n.id, ())] for n in networks}
    drop, move, lacks = found.drop + more.drop, found.move + more.move, found.lacks + more.lacks
    return Change(make, drop, move, found.words, lacks)


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
    ways = sorted(world(()) if uplinks is None else uplinks)
    if network.uplink is not None:
        ways = [network.uplink]
    return [_want(network, *key, ways) for key in closed]


def wants_with(network: Network, more: str) -> list[ResourceSpec]:
    """The same of a network that might be made; ``more`` is one more way to the world."""
    return wants(network, chains_now(), {*world(()), more})


def wants_beside(
    rows: Iterable[Resource], families: Collection[int], device: str
) -> list[ResourceSpec]:
    """What rows would accept for a way to the world that is thought up."""
    found = []
    for row in rows:
        if row.role != WHAT:
            continue
        spec = firewall_spec(row)
        if spec.get("hook") == "FORWARD" and spec["family"] in families:
            accepts = [f"-i {spec['bridge']} -o {device} -j ACCEPT"]
            found.append(ResourceSpec(Kind.FILTER, row.key, {**spec, "accepts": accepts}))
    return found


def _want(
    network: Network, backend: str, family: int, hook: str, uplinks: Sequence[str]
) -> ResourceSpec:
    bridge = network.bridge
    if hook == "FORWARD":
        rules = forward_rules(bridge, nat=network.nat, isolate=network.isolate, uplinks=uplinks)
    else:
        rules = input_rules(family, bridge, dhcp=network.dhcp)
    key = f"passage {hook} IPv{family} of {bridge}"
    spec = {"backend": backend, "what": WHAT, "family": family, "hook": hook}
    return ResourceSpec(Kind.FILTER, key, {**spec, "bridge": bridge, "accepts": list(rules)})


def _compare(
    wanted: dict[str, list[ResourceSpec]], there: Sequence[Resource], chains: Chains
) -> Change:
    make = {network: list(wants_) for network, wants_ in wanted.items()}
    drop: list[Resource] = []
    move: list[Resource] = []
    words: list[str] = []
    lacks: list[str] = []
    for row in there:
        spec = firewall_spec(row)
        fits = [w for w in make.get(row.network or "", ()) if w.spec == row.spec]
        if not fits:
            drop.append(row)
            continue
        make[row.network or ""].remove(fits[0])
        chain = chains.chains[spec["backend"], spec["family"], spec["hook"]]
        own = sum(rule.mark == row.mark for rule in chain.rules)
        right = in_place(chain, row.mark)
        if right and own == len(spec["accepts"]):
            continue
        move.append(row)
        if not own:
            lacks.append(f"{_where(spec)}: what hvtx accepts for {spec['bridge']} was gone")
        elif right:
            words.append(f"{_where(spec)}: what hvtx accepts for {spec['bridge']} is not whole")
        elif stands_behind(chain, row.mark):
            lacks.append(
                f"{_where(spec)}: what hvtx accepts for {spec['bridge']} comes after the first rule"
                " that drops by the policy"
            )
        else:
            words.append(f"{_where(spec)}: {_BEHIND}")
    old = {_same(firewall_spec(row)) for row in drop}
    for want in (want for wants_ in make.values() for want in wants_):
        spec = cast("FirewallSpec", want.spec)
        if _same(spec) in old:
            lacks.append(f"{_where(spec)}: what hvtx accepts for {spec['bridge']} is out of date")
        else:
            lacks.append(
                f"{_where(spec)}: it drops what no rule decides, and has no accept for"
                f" {spec['bridge']} yet"
            )
    return Change(make, tuple(drop), tuple(move), tuple(words), tuple(lacks))


def _same(spec: FirewallSpec) -> tuple[str, int, str, str]:
    return spec["backend"], spec["family"], spec["hook"], spec["bridge"]


def _where(spec: FirewallSpec) -> str:
    if spec["backend"] == "nftables":
        return f"nft {'ip' if spec['family'] == 4 else 'ip6'} filter {spec['hook']}"
    return f"{'iptables' if spec['family'] == 4 else 'ip6tables'} filter {spec['hook']}"


class Passages:
    """Brings the accepts of networks to what the host's filters want of them."""

    def __init__(self, runtime: Runtime, make: Make, release: Callable[[], None]) -> None:
        """Work for this run.

        ``make`` makes rows of a network (its id) as an operation of its own, and returns them as
        they were committed; ``release`` releases what interrupted operations have left of networks.
        """
        self._runtime, self._make, self._release = runtime, make, release

    def settle(
        self, scope: NetworkScope, *, locked: bool = False, failed: list[Failed] | None = None
    ) -> list[Repaired]:
        """Do what :func:`change` finds; what was wrong, as `repair` tells it.

        ``locked`` says that the caller holds the lock of the networks, and held it when they were
        read. What the host refuses is told as a warning: a network without its accepts is what it
        was before, and `doctor` names the rule in the way; ``failed`` takes it where it is given.
        Raises Busy.
        """
        try:
            half = any(row.role == WHAT for row in scope.half_done())
            found = change(scope, thorough=failed is not None)
            if not half and not found:
                return []
            with nullcontext() if locked else self._runtime.held("all", "networks"):
                thorough = failed is not None
                return self._settle(scope, found, half=half, locked=locked, thorough=thorough)
        except Busy:
            raise
        except (HvtxError, OSError, DumpInterrupted) as problem:
            said = problem.message if isinstance(problem, HvtxError) else str(problem)
            if failed is None:
                notice.warning(f"guests get no accept in the filters of others: {said}")
            else:
                failed.append(Failed("filter", "accepts in the filters of others", said))
            return []

    def _settle(
        self, scope: NetworkScope, found: Change, *, half: bool, locked: bool, thorough: bool
    ) -> list[Repaired]:
        if half:
            self._release()
        if half or not locked:  # read again: another command may have been quicker
            scope = networks_now(self._runtime, scope.networks)
            found = change(scope, thorough=thorough)
        for backend, rows in _by_backend(found.move).items():
            self._runtime.firewall(backend).repair(rows)
        if found.drop:  # before a new one of the same words
            with begin(self._runtime, "rebuild") as (_, operation):
                pass
            take_down(operation, found.drop, reason="replaced")
        made: list[Resource] = []
        for network, rows_wanted in found.make.items():
            if rows_wanted:
                self._drop_stale(rows_wanted, scope)
                made += self._make(network, rows_wanted)
        firewalld_zone.warn_unknown(made)
        every = (*found.words, *found.lacks)
        return [Repaired(str(Kind.FILTER), said.partition(": ")[0], said) for said in every]

    def _drop_stale(self, wants: Sequence[ResourceSpec], scope: NetworkScope) -> None:
        if bridges := bridges_of(wants):
            driver, own = self._runtime.firewall(BACKEND), self._runtime.installation
            firewalld_zone.drop_stale(driver, own, bridges, scope.rows)


def _by_backend(rows: Iterable[Resource]) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for row in rows:
        found.setdefault(row.backend, []).append(row)
    return found
