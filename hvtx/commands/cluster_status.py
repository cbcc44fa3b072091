"""`cluster status`, and the routes to the blocks of a cluster: what store and cluster tell."""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.engine import block_machine, notice
from hvtx.engine import blocks as engine
from hvtx.engine.etcd_blocks import EtcdBlocks
from hvtx.engine.runtime import Runtime
from hvtx.errors import HvtxError
from hvtx.model.block import Block, Held, Member, Pool
from hvtx.model.typed import NamedTuple
from hvtx.planner import blocks as decide
from hvtx.store import blocks as rows
from hvtx.store import records


class ClusterStatus(NamedTuple):
    """How this host stands to its cluster."""

    source: str
    installation: str
    endpoints: Mapping[str, str | None]  # why one does not answer; None: it does
    problem: str | None  # why what the cluster knows is not told; then the rest is empty
    doubted: bool  # the store is an older one, and the cluster was not asked since
    blocks: tuple[Block, ...]  # of the store
    unrecorded: tuple[Held, ...] = ()  # this host's for the cluster, and not on record
    holders: tuple[Held, ...] = ()
    hosts: tuple[Member, ...] = ()
    exit_code: int = 0  # the one that `problem` has as an error: 75 where no etcd answers
    error: HvtxError | None = None  # that error


class ShownRoute(NamedTuple):
    """How packets come to the guests of one block."""

    network: str
    cidr: str
    installation: str
    host: str
    via: str | None  # the host's address; None: it has said none, or the block is this host's
    local: bool


def status(runtime: Runtime) -> ClusterStatus:
    """Ask store and cluster; what the cluster does not answer is a part of the value.

    Raises UsageError without ``[cluster]``.
    """
    with runtime.reading() as sql:
        known, doubted = tuple(rows.blocks(sql)), rows.is_doubted(sql)
    with engine.opened(runtime) as blocks:
        source = blocks.source
        endpoints = source.reached() if isinstance(source, EtcdBlocks) else {}
        found = ClusterStatus(source.name, runtime.installation, endpoints, None, doubted, known)
        try:
            block_machine.refuse_elsewhere(runtime)
            source.last_claim()
            apart = decide.difference(known, source.mine())
            holders = tuple(source.holders())
            members = tuple(source.members()) if isinstance(source, EtcdBlocks) else ()
        except HvtxError as problem:
            return found._replace(
                problem=problem.message, exit_code=problem.exit_code, error=problem
            )
    return found._replace(unrecorded=apart.unrecorded, holders=holders, hosts=members)


def routes(runtime: Runtime, name: str | None) -> list[ShownRoute]:
    """A route for each block of the networks on record, or of one. Raises NotFound, Busy."""
    with runtime.reading() as sql:
        networks = [records.get_network(sql, name)] if name else records.networks(sql)
    wanted = {one.name: pool for one in networks if (pool := engine.pool_of(one)) is not None}
    if not wanted:
        return []
    with engine.opened(runtime) as blocks:
        held = [one for one in blocks.source.holders() if _is_of(wanted.get(one.network), one)]
    own = ("", runtime.installation)  # of the configuration nobody else's are known
    return sorted(
        ShownRoute(
            one.network,
            one.cidr,
            one.installation or runtime.installation,
            one.host,
            None if one.installation in own else one.address,
            one.installation in own,
        )
        for one in held
    )


def _is_of(pool: Pool | None, held: Held) -> bool:
    """Whether it is a block of a network that is here: no other prefix becomes a route."""
    if pool is None:
        return False
    if decide.is_of(pool, held.cidr):
        return True
    notice.warning(
        f"left out: {held.cidr} of {held.network} is no /{pool.size} in {pool.subnet}"
        f" (installation {held.installation})"
    )
    return False
