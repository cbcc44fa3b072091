"""`cluster forget`: a person's word that a host is gone, or that nobody uses a block."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.engine import blocks as engine
from hvtx.engine.etcd_blocks import EtcdBlocks, held
from hvtx.engine.runtime import Runtime
from hvtx.errors import Conflict, NotFound, PartialFailure
from hvtx.model.block import Block, Held, Member
from hvtx.model.typed import NamedTuple
from hvtx.planner import blocks as decide
from hvtx.store import blocks as rows
from hvtx.store import history
from hvtx.store.history import Event


class Forgotten(NamedTuple):
    """What was freed, and whose it was."""

    installation: str
    host: str
    blocks: tuple[Held, ...]


def forget(runtime: Runtime, what: str) -> Forgotten:
    """Free the blocks of a host (its name or installation), or one of ours that is not on record.

    Raises NotFound, Conflict (it is this host, several have the name), Busy (ask again), Refused.
    """
    runtime.enter()
    runtime.lock("all", "blocks")
    with engine.opened(runtime) as blocks:
        source = _etcd(blocks)
        if "/" in what:
            source.last_claim()  # refused to a copy of this host
            known = runtime.read(rows.blocks)
            kept = [block for block in known if block.kept and block.cidr == what]
            if kept:
                done = _kept(runtime, blocks, kept)
            else:
                apart = decide.difference(known, source.mine())
                done = _block(source, apart.unrecorded, what)
        else:
            member = _host(source.members(), what, runtime.installation)
            gone = tuple(source.forget(member.installation))
            done = Forgotten(member.installation, member.host, gone)
    with runtime.store.transaction() as sql:
        words = f"{what}: {', '.join(one.cidr for one in done.blocks) or 'no block'} freed"
        history.add(sql, [Event("forgotten", words)], operation=None, verb="cluster-forget")
    return done


def refuse_first(runtime: Runtime, what: str) -> None:
    """Raise what :func:`forget` would where nothing is on record yet; asks, and makes nothing."""
    with engine.opened(runtime) as blocks:
        source = _etcd(blocks)
        if "/" in what:
            _block(source, (), what)
        _host(source.members(), what, runtime.installation)


def _etcd(blocks: engine.Blocks) -> EtcdBlocks:
    """The source of blocks, which hosts are registered in. Raises Conflict of another."""
    if not isinstance(blocks.source, EtcdBlocks):
        raise Conflict(
            "the source is static: the configuration says which blocks are this host's",
            hint="change [cluster.blocks] in the configuration of each host",
        )
    return blocks.source


def _host(members: Sequence[Member], what: str, own: str) -> Member:
    found = [one for one in members if what in (one.installation, one.host)]
    exact = [one for one in found if one.installation == what]
    living = exact or [one for one in found if not one.forgotten] or found
    if not living:
        raise NotFound(f"no host {what!r} is registered", hint="hvtx cluster status lists them")
    if len(living) > 1:
        others = [one.installation for one in living if one.installation != own]
        among = ", this one among them" if len(others) < len(living) else ""
        raise Conflict(
            f"{len(living)} hosts are called {what!r}{among}",
            hint=f"name one by its installation: {', '.join(others)}",
        )
    if living[0].installation == own:
        raise Conflict(
            f"{what} is this host",
            hint="remove its networks: their blocks go back; or run it on another host",
        )
    return living[0]


def _kept(runtime: Runtime, blocks: engine.Blocks, kept: Sequence[Block]) -> Forgotten:
    """Give back a block that an older store has on record, and no VM on record uses."""
    with runtime.store.transaction() as sql:
        rows.keep(sql, kept=False, which=kept)
        if not rows.release(sql, kept):
            raise Conflict(
                f"VMs on record have addresses of {kept[0].cidr}", hint="hvtx vm ls shows them"
            )
    gone = tuple(held(block, runtime.installation) for block in kept)
    told = blocks.settle()
    if told.failed:
        raise PartialFailure(told.failed[0][1], hint="hvtx recover gives it back")
    return Forgotten(runtime.installation, "", gone)


def _block(source: EtcdBlocks, unrecorded: Sequence[Held], cidr: str) -> Forgotten:
    found = [one for one in unrecorded if one.cidr == cidr]
    if not found:
        raise NotFound(
            f"the cluster has no block {cidr} of this host that the store does not know",
            hint="hvtx cluster status lists them; a block on record goes back with its network",
        )
    source.release(found[0])
    return Forgotten(found[0].installation, found[0].host, (found[0],))
