"""Blocks of addresses are claimed, leased from, and given back; each claim is on record first.

A claim is a row before anybody is asked, and the row's token is what is asked with. So an answer
that did not come is asked for again, by whoever comes next, with the same token. One run of a host
asks at a time (the lock ``all blocks``): a row that is ``intended`` while nobody holds it was
interrupted. Claims are asked in the order of their numbers: the cluster grants none behind a later.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager

from hvtx.engine import block_machine
from hvtx.engine.etcd_blocks import EtcdBlocks, held
from hvtx.engine.etcd_hosts import UNREACHABLE
from hvtx.engine.runtime import Runtime
from hvtx.engine.static_blocks import StaticBlocks
from hvtx.errors import Busy, Conflict, HvtxError, UsageError
from hvtx.host import failpoint, machine
from hvtx.host.etcd import Reply
from hvtx.model.block import Block, BlockState, Pool, Who
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Network
from hvtx.planner import blocks as decide
from hvtx.planner.block_steps import steps
from hvtx.planner.blocks import Difference
from hvtx.store import blocks as rows
from hvtx.store import history, leases, records
from hvtx.store.history import Event

_NOT_OURS = "block {} is not this host's any more"
_ANOTHER = (
    "put back the etcd that has the blocks of all hosts; where that is lost for good, or the blocks"
    " were the configuration's (static), on each host: hvtx cluster register --yes"
)

Source = EtcdBlocks | StaticBlocks


class Settled(NamedTuple):
    """What was brought to its end, in words, and what could not be: of what, and why.

    ``unasked``: why nobody was asked whether the blocks are this host's still, where that was all
    that there was to do; a host that is cut off goes on.
    """

    done: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    unasked: str | None = None


def pool_of(network: Network) -> Pool | None:
    """What other hosts know a network by; None: it has no blocks."""
    if network.block_size is None:
        return None
    return Pool(network.name, network.subnets[0], network.block_size)


@contextmanager
def room(
    runtime: Runtime, networks: Iterable[Network], taken: Iterable[str] = ()
) -> Iterator[None]:
    """Inside, each network has a free address in a block of this host.

    Only where it has none the cluster is asked. ``taken``: addresses that guests cannot have.
    Raises NoRoom (all blocks are held), Busy (the cluster does not answer), Conflict, Refused (the
    blocks on record are another machine's).
    """
    wanted = [network for network in networks if network.block_size is not None]
    with runtime.held("all", "blocks"):
        block_machine.refuse_elsewhere(runtime)
        if block_machine.is_unconfirmed(runtime):
            with opened(runtime) as blocks:
                blocks.confirm()
        own = tuple(taken)
        missing = [n for n in wanted if runtime.read(leases.free_in_blocks, n, own) is None]
        if missing:
            with opened(runtime) as blocks:
                for network in missing:
                    blocks.make_room(network, own)
        yield


@contextmanager
def opened(runtime: Runtime, *, another: bool = False) -> Iterator[Blocks]:
    """The blocks of this host, with their source; ``another``: whichever etcd it is by now.

    Raises UsageError without ``[cluster]``.
    """
    blocks = Blocks(runtime, another=another)
    with closing(blocks.source):
        yield blocks


def unconfigured(what: str) -> UsageError:
    """The error of what needs a cluster, where the configuration names none."""
    return UsageError(
        f"{what}, and the configuration has no [cluster]",
        hint='say where blocks come from: [cluster] with source = "etcd" and endpoints ='
        ' ["https://HOST:2379"] in /etc/hvtx/config.toml (docs/cluster.md)',
    )


class Blocks:
    """What is done about blocks; whoever changes them holds the lock ``all blocks``."""

    def __init__(self, runtime: Runtime, *, another: bool = False) -> None:
        """Raises UsageError where the configuration names no source."""
        self._runtime = runtime
        self._another = another  # the first answer says which etcd it is: a person wants it so
        cluster = runtime.settings.cluster
        if cluster is None:
            raise unconfigured("blocks come from a cluster")
        self._seen = self._written = runtime.read(rows.seen)
        self._known = self._seen[0] is not None
        self._believed = False  # it knows this host's newest claim
        self.is_other = False  # the etcd that answers is not the one that the blocks are from
        self._address = cluster.address
        self.source: Source = (
            StaticBlocks(cluster, self._on_record)
            if cluster.source == "static"
            else EtcdBlocks(cluster, self._who, self._saw)
        )

    def _on_record(self) -> list[Block]:
        return self._runtime.read(rows.blocks)

    def _who(self) -> Who:
        name = machine.host_name()
        return Who(self._runtime.installation, machine.machine(), name, self._address, self._known)

    def _saw(self, reply: Reply) -> None:
        """Refuse an etcd that is not the one that this host's blocks are from, or went back."""
        identity, revision = self._seen
        apart = identity is not None and (identity != reply.identity or reply.revision < revision)
        if self._another:
            self._another, self.is_other = False, apart
            self._seen = reply.identity, reply.revision
            return
        if apart:
            what = "is another one" if identity != reply.identity else "went back"
            raise Conflict(
                f"etcd {what}: cluster {reply.identity} at revision {reply.revision}, where this"
                f" host has seen {identity} at {revision}; what it grants may be had already",
                hint=_ANOTHER,
            )
        self._seen = reply.identity, max(revision, reply.revision)

    def _need_newest(self) -> None:
        """Refuse an etcd that does not know this host's newest claim any more; asked once."""
        if not self._believed and self.source.counts:
            if why := decide.went_back(self._on_record(), self.source.last_claim()):
                raise Conflict(why, hint=_ANOTHER)
            self._believed = True

    # -- claiming --------------------------------------------------------------------------------

    def define(self, network: Network) -> bool:
        """Agree with other hosts on what a network is; False: they knew. Raises Conflict, Busy."""
        pool = pool_of(network)
        assert pool is not None
        return self.source.define(pool)

    def make_room(self, network: Network, taken: Iterable[str] = ()) -> None:
        """Claim a block, and another one if all of the first cannot be leased."""
        pool = pool_of(network)
        assert pool is not None
        if self._runtime.read(rows.is_doubted):
            self._compare()
        self.ask_again()
        self._return(spare=False)  # the cluster may grant what the store has on record still
        for _ in range(3):
            if self._runtime.read(leases.free_in_blocks, network, tuple(taken)) is not None:
                return
            self.take(pool)

    def take(self, pool: Pool) -> Block:
        """One block more, once no claim is open. Raises NoRoom, Busy, Conflict, Refused."""
        with self._runtime.store.transaction() as sql:
            block = rows.intend(sql, pool, os.urandom(8).hex())
        failpoint.reach("intended:block")
        got = self._ask(block)
        if got is None:
            raise decide.no_block_left(pool, self.source.where_blocks_are)
        return got

    def ask_again(self, only: Collection[str] | None = None) -> list[str]:
        """Ask for the answers of interrupted claims; in words. Raises Busy (still unknown).

        ``only``: of these tokens.
        """
        told = []
        known = sorted(self._on_record())
        for block in [block for block in known if block.state is BlockState.INTENDED]:
            if only is not None and block.token not in only:
                continue
            try:
                got = self._ask(block)
            except Conflict as problem:
                if problem.code != "network-differs" or self.source.end(block.pool, block.token):
                    raise
                with self._runtime.store.transaction() as sql:
                    rows.forget(sql, block)
                told.append(problem.message)
                continue
            answer = f"block {got.cidr}" if got else "none left"
            told.append(f"network {block.pool.network}: an interrupted claim had {answer}")
        return told

    def _ask(self, block: Block) -> Block | None:
        """The answer to a claim on record; None: there is none left. Raises Busy (unknown)."""
        try:
            self._need_newest()
            cidr = self.source.claim(block.pool, block.token)
        except Busy as problem:
            raise Busy(
                f"network {block.pool.network!r} needs a block of the cluster, and"
                f" {problem.message}",
                hint=f"{problem.hint}; VMs on record go on and start",
                code=problem.code,
            ) from problem
        failpoint.reach("claimed:block")
        with self._runtime.store.transaction() as sql:
            if cidr is None:
                rows.forget(sql, block)
            else:
                rows.commit(sql, block, cidr)
                words = f"block {cidr} of network {block.pool.network}"
                history.add(sql, [Event("made", words)], operation=None, verb="claim")
            self.remember(sql)
        return None if cidr is None else block._replace(cidr=cidr, state=BlockState.COMMITTED)

    def remember(self, sql: Any) -> None:
        """Write down which etcd answered, and that it gives this machine blocks."""
        identity, revision = self._seen
        if identity is not None:
            rows.see(sql, identity, revision)
            self._written = self._seen
        known, here = rows.machine(sql), block_machine.here()
        if known is None and here is not None:
            rows.belong_to(sql, here)

    def confirm(self) -> None:
        """Ask whether this machine is the one whose blocks they are. Raises Refused, Busy."""
        self._need_newest()
        if self._runtime.read(rows.machine) is None:
            with self._runtime.store.transaction() as sql:
                self.remember(sql)

    # -- giving back -----------------------------------------------------------------------------

    def settle(self, only: Collection[str] | None = None) -> Settled:
        """Ask again what was interrupted, give back what is empty; goes on past errors.

        ``only``: of these tokens; "" is the comparison of a store that is in doubt.
        """
        done: list[str] = []
        failed: list[tuple[str, str]] = []
        due = self._runtime.read(_is_due)  # now: of what is begun the end may not be on record
        try:
            if self._runtime.read(rows.is_doubted) and (only is None or "" in only):
                done += _in_words(self._compare())
            done += self.ask_again(only)
            done += self._lose() if only is None else []
            for block in self._return(spare=True, only=only):
                done.append(f"network {block.pool.network}: block {block.cidr} given back")
            if only is None:
                self.source.announce()
            if self._seen != self._written:  # by which an older state is told, later
                with self._runtime.store.transaction() as sql:
                    self.remember(sql)
        except HvtxError as problem:
            if problem.code == UNREACHABLE and not due:
                return Settled(tuple(done), unasked=problem.message)
            failed.append(("cluster", problem.message))
            if problem.code == "store-cloned" and _is_here(self._runtime.read(rows.machine)):
                self._doubt()
        return Settled(tuple(done), tuple(failed))

    def _return(self, *, spare: bool, only: Collection[str] | None = None) -> list[Block]:
        """Give back what was to go, what networks that are gone had, and with ``spare`` more.

        Returns which they were. Raises Busy, Refused.
        """
        networks = self._runtime.read(records.networks)
        pools = {pool for network in networks if (pool := pool_of(network)) is not None}
        known = self._on_record()
        going = decide.to_return(known, pools)
        going = [block for block in going if spare or block.pool not in pools]
        going = [block for block in going if only is None or block.token in only]
        if going:
            with self._runtime.store.transaction() as sql:
                rows.release(sql, going)
            failpoint.reach("releasing:block")
        done = [block for block in self._on_record() if block.state is BlockState.RELEASING]
        done = [block for block in done if only is None or block.token in only]
        for block in done:
            self._give_back(block)
        left = {block.pool.network for block in self._on_record()}
        left |= {pool.network for pool in pools}
        for name in {block.pool.network for block in known} - left:
            self.source.undefine(name)
        return done

    def _give_back(self, block: Block) -> None:
        self.source.release(held(block, self._runtime.installation))
        failpoint.reach("released:block")
        with self._runtime.store.transaction() as sql:
            rows.forget(sql, block)
            words = f"block {block.cidr} of network {block.pool.network} was given back"
            history.add(sql, [Event("removed", words)], operation=None, verb="release")
            self.remember(sql)

    # -- an older store --------------------------------------------------------------------------

    def _compare(self) -> Difference:
        """Ask the cluster which blocks are this host's, after the store was put back from a copy.

        Those that it has for others are not leased from any more, and neither are those that are
        this host's and not on record: VMs that the store does not know may have addresses of them.
        So they may of those that are on record: these do not go back but by a person's word.
        """
        last = self.source.last_claim()
        mine = self.source.mine()
        known = self._on_record()
        found = decide.difference(known, mine)
        with self._runtime.store.transaction() as sql:
            rows.lose(sql, found.lost)
            rows.keep(sql, kept=True, which=known)
            for block in decide.never_granted(known, mine, last):
                rows.forget(sql, block)
            rows.skip_to(sql, last)
            rows.doubt(sql, doubted=False)
            self.remember(sql)
        return found

    def _doubt(self) -> None:
        """Lease no more: the cluster says that the blocks are another machine's, or given up."""
        with self._runtime.store.transaction() as sql:
            rows.doubt(sql)

    def _lose(self) -> list[str]:
        """Lease no more from what the cluster has not for this host, in words; Refused to a copy.

        A store of which nobody said that it was put back, with its whole disk, is known by it.
        """
        self.confirm()
        known = self._on_record()
        lost = decide.difference(known, self.source.mine()).lost
        if lost:
            with self._runtime.store.transaction() as sql:
                rows.lose(sql, lost)
        return [_NOT_OURS.format(block.cidr) for block in lost]


def _in_words(found: Difference) -> list[str]:
    lost = [_NOT_OURS.format(block.cidr) for block in found.lost]
    return lost + [f"block {one.cidr} is not on record: not used" for one in found.unrecorded]


def _is_here(machine: str | None) -> bool:
    return machine == block_machine.here()


def _is_due(sql: Any) -> bool:
    """Whether the record has something to be brought to its end."""
    pools = {pool for one in records.networks(sql) if (pool := pool_of(one)) is not None}
    return bool(steps(rows.blocks(sql), pools, doubted=rows.is_doubted(sql)))


def settle(
    runtime: Runtime, *, accept_rollback: bool = False, only: Collection[str] | None = None
) -> Settled:
    """What ``recover`` and ``gc --apply`` do about blocks; nothing where there never were any.

    ``only``: of claims with these tokens, of a plan that was looked at.
    """
    if accept_rollback:
        with runtime.store.transaction() as sql:
            rows.doubt(sql)
    known, doubted = runtime.read(rows.blocks), runtime.read(rows.is_doubted)
    if runtime.settings.cluster is None or not (known or doubted):
        return Settled()
    runtime.lock("all", "blocks")
    try:
        block_machine.refuse_elsewhere(runtime)
        with opened(runtime) as blocks:
            return blocks.settle(only)
    except HvtxError as problem:
        return Settled(failed=(("cluster", problem.message),))
    finally:
        runtime.unlock("all", "blocks")
