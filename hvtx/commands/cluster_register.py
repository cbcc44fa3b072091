"""`cluster register`: a person's word that the blocks on record are this host's, here and now.

For a host whose machine id changed, or whose disk is in another machine, and for an etcd that took
the place of the one that the blocks are from. Everything is looked at before anything is written;
what is written comes to the same when it is asked again.
"""

from __future__ import annotations

from hvtx.engine import blocks as engine
from hvtx.engine import notice
from hvtx.engine.etcd_blocks import EtcdBlocks, held
from hvtx.engine.runtime import Runtime
from hvtx.errors import Conflict
from hvtx.host import failpoint, machine
from hvtx.model.block import Block, BlockState
from hvtx.model.typed import NamedTuple
from hvtx.planner import blocks as decide
from hvtx.planner.registering import Registration, guests_of, registration, words_of
from hvtx.store import blocks as rows
from hvtx.store import history, records
from hvtx.store.history import Event


class Registered(NamedTuple):
    """What is this host's from here on."""

    installation: str
    moved: bool  # from another machine id
    another: bool  # the etcd is not the one that the blocks were from
    blocks: tuple[Block, ...]  # this host's
    lost: tuple[Block, ...] = ()  # without guests on record, and not this host's any more


def register(runtime: Runtime) -> Registered:
    """Register this host, and its blocks where the cluster lacks them.

    Raises Conflict (somebody else has a block with guests of this host; another definition of a
    network; an older store), Refused (given up; a third machine has them), Busy, HostRefused.
    """
    runtime.enter()
    runtime.lock("all", "blocks")
    here, known = machine.machine(), runtime.read(rows.machine)
    with engine.opened(runtime, another=True) as blocks:
        found, another = _carried_out(runtime, blocks, known)
        _remember(runtime, blocks, here, found)
    gone = {block.id for block in found.lost}
    own = [
        block
        for block in runtime.read(rows.blocks)
        if block.state is BlockState.COMMITTED and block.id not in gone
    ]
    for block in found.lost:
        notice.warning(f"block {block.cidr} is not this host's any more; {guests_of(block)}")
    moved = known not in (None, here)
    return Registered(runtime.installation, moved, another, tuple(own), found.lost)


def refuse_first(runtime: Runtime) -> None:
    """Raise what :func:`register` would where nothing is on record yet; asks, and makes nothing."""
    with engine.opened(runtime, another=True) as blocks:
        blocks.source.holders()


def _carried_out(
    runtime: Runtime, blocks: engine.Blocks, known: str | None
) -> tuple[Registration, bool]:
    """Look, refuse what cannot be, register host, networks and blocks; and whether etcd changed."""
    source = blocks.source
    networks = runtime.read(records.networks)
    pools = [pool for network in networks if (pool := engine.pool_of(network)) is not None]
    if not isinstance(source, EtcdBlocks):
        found = registration(
            runtime.read(rows.blocks), source.holders(), pools, installation="", another=False
        )
        _refuse(found)
        return found, False
    holders = source.holders()
    seen = runtime.read(rows.seen)
    another = blocks.is_other or (seen[0] is not None and not source.is_registered())
    had = decide.newest_granted(runtime.read(rows.blocks))
    another = another or (had is not None and had.id > source.granted())
    found = Registration()
    if not runtime.read(rows.is_doubted):
        found = registration(
            runtime.read(rows.blocks), holders, pools,
            installation=runtime.installation, another=another,
        )  # fmt: skip
    elif another:
        raise _of_unknown_age()
    _refuse(found)
    for pool in pools:
        source.check(pool)
    if another and not blocks.is_other:
        # Registered anew it looks like the one before, whose id it has: to the next run, where this
        # one is interrupted, it is to be another one.
        with runtime.store.transaction() as sql:
            rows.see(sql, f"{seen[0] or 'static'} (its content was lost)", seen[1])
    source.take_over(known, runtime.read(rows.newest))
    failpoint.reach("taken-over:host")
    for pool in pools:
        source.define(pool)
    for block, was in found.put:
        if not source.put_back(held(block, runtime.installation), was):
            raise Conflict(
                f"block {block.cidr} of network {block.pool.network} was claimed by another host"
                " meanwhile",
                hint="look whose it is: hvtx cluster status; then again: hvtx cluster register"
                " --yes",
            )
        failpoint.reach("put-back:block")
    return found, another


def _refuse(found: Registration) -> None:
    """Refuse where guests of this host have addresses of a block that cannot be had."""
    if found.taken:
        raise Conflict(
            words_of(found.taken),
            hint="remove these VMs, which hvtx vm ls lists (hvtx vm rm NAME); then again:"
            " hvtx cluster register --yes",
        )


def _of_unknown_age() -> Conflict:
    return Conflict(
        "the store is an older copy, and this etcd is not the one that its blocks are from: nothing"
        " tells which of them are still this host's",
        hint="put back the etcd that has the blocks of all hosts; or give this host a store of its"
        " own: --state-dir DIR, or remove its VMs and its store",
    )


def _remember(runtime: Runtime, blocks: engine.Blocks, here: str, found: Registration) -> None:
    """Write down what is so: of claims that had no answer, those that were not granted are over.

    A store that was put back from a copy stays in doubt: `recover` compares it.
    """
    known = runtime.read(rows.blocks)
    last, mine = blocks.source.last_claim(), blocks.source.mine()
    with runtime.store.transaction() as sql:
        rows.lose(sql, found.lost)
        for block in decide.never_granted(known, mine, last):
            rows.forget(sql, block)
        rows.skip_to(sql, last)
        rows.belong_to(sql, here)
        blocks.remember(sql)
        words = f"the blocks of installation {runtime.installation} are this machine's"
        history.add(sql, [Event("registered", words)], operation=None, verb="cluster-register")
