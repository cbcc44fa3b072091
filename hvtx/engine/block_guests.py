"""Whether a guest on record may have its addresses of a cluster's blocks: before its VM starts."""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.engine import block_machine
from hvtx.engine.runtime import Runtime
from hvtx.errors import Busy, Conflict
from hvtx.model.block import BlockState
from hvtx.model.vm import Network, Vm
from hvtx.planner.blocks import block_of
from hvtx.store import blocks as rows


def need_own(runtime: Runtime, vm: Vm, networks: Mapping[str, Network]) -> None:
    """Refuse a VM whose addresses may be another host's guest's by now; nobody is asked.

    ``networks`` are those of its interfaces, by id. Raises Refused (another machine has the blocks
    on record), Busy (the store is an older one, and the cluster was not asked since), Conflict.
    """
    names = {n.name: n.id for n in networks.values() if n.block_size is not None}
    if not names:
        return
    block_machine.refuse_elsewhere(runtime)
    if runtime.read(rows.is_doubted):
        raise Busy(
            f"VM {vm.name!r} has addresses of a cluster's blocks, which may be others' by now: the"
            " store is an older one, or its host was given up",
            hint="hvtx recover asks the cluster, and says which",
            code="blocks-doubted",
        )
    blocks = [block for block in runtime.read(rows.blocks) if block.state is BlockState.LOST]
    for block in blocks:
        network = names.get(block.pool.network)
        for interface in vm.interfaces:
            if interface.network != network or block.cidr is None:
                continue
            for address in interface.addresses:
                if block_of(address, [block.cidr]):
                    raise Conflict(
                        f"VM {vm.name!r} has {address} of block {block.cidr}, which is not this"
                        " host's any more: another guest may have it",
                        hint=f"hvtx vm rm {vm.name}, and make it again: it gets another address",
                    )
