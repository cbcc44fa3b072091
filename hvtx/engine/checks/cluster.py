"""The check of the cluster that blocks of addresses come from. No clock matters to it."""

from __future__ import annotations

from collections.abc import Iterator

from hvtx.engine import block_machine
from hvtx.engine import blocks as engine
from hvtx.engine.block_supply import free_addresses
from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime
from hvtx.errors import Busy, HvtxError
from hvtx.model.block import BlockState
from hvtx.planner import blocks as decide
from hvtx.store import blocks as rows
from hvtx.store import records

_RECOVER = "hvtx recover, when the cluster answers"


def check_cluster(runtime: Runtime) -> Iterator[Finding]:
    """Whether it answers, and says of this host's blocks what the store says."""
    known = runtime.read(rows.blocks)
    if runtime.settings.cluster is None:
        if known:
            words = f"blocks are on record ({len(known)}), and the configuration has no [cluster]"
            yield Finding("cluster", "error", words, (), "put [cluster] back: docs/cluster.md")
        return
    with engine.opened(runtime) as blocks:
        try:
            block_machine.refuse_elsewhere(runtime)
            blocks.source.last_claim()
            found = decide.difference(known, blocks.source.mine())
        except Busy as problem:
            words = "VMs go on, and are made while blocks of this host have free addresses"
            left = sum(free_addresses(runtime.store).values())
            evidence = (f"free addresses: {left}", problem.message)
            hint = "hvtx cluster status tells which endpoints answer"
            yield Finding("cluster", "warning", f"no etcd answers: {words}", evidence, hint)
            return
        except HvtxError as problem:
            yield Finding("cluster", "error", problem.message, (), problem.hint)
            return
    networks = {network.name: engine.pool_of(network) for network in runtime.read(records.networks)}
    useless = tuple(decide.unused(runtime.settings.cluster.blocks, networks))
    if useless:
        words = "[cluster.blocks] names what no network of this host uses"
        hint = "correct it in the configuration; hvtx network ls lists the networks"
        yield Finding("cluster", "warning", words, useless, hint)
    lost = [block for block in known if block.state is BlockState.LOST and block.used]
    found = found._replace(lost=(*found.lost, *lost))
    yield from _apart(found)
    late = [block for block in known if block.state in (BlockState.INTENDED, BlockState.RELEASING)]
    if late:
        words = f"claims or returns of blocks were interrupted: {len(late)}"
        yield Finding("cluster", "warning", words, (), _RECOVER)
    if not (late or found.lost or found.unrecorded or useless):
        yield Finding("cluster", "ok", f"it answers; blocks of this host: {len(known)}")


def _apart(found: decide.Difference) -> Iterator[Finding]:
    for block in found.lost:
        words = f"block {block.cidr} of network {block.pool.network} is not this host's any more"
        evidence = (f"{block.used} addresses of it are VMs', and others may have them too",)
        yield Finding("cluster", "error", words, evidence, "hvtx vm ls; stop and remove these VMs")
    for held in found.unrecorded:
        words = f"block {held.cidr} of network {held.network} is this host's, and not on record"
        hint = f"if no VM has an address of it: hvtx cluster forget {held.cidr} --yes"
        yield Finding("cluster", "warning", words, (), hint)
