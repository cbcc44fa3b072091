"""What egress policies have refused to guests, as the kernel has counted it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hvtx.engine.runtime import Runtime
from hvtx.errors import HvtxError
from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import FIREWALL_KINDS, Resource, State
from hvtx.model.typed import NamedTuple

ROLE = "egress"


class Refused(NamedTuple):
    """Packets, and the bytes of them, since the VM was started."""

    packets: int
    bytes: int


def refused(runtime: Runtime, rows: Iterable[Resource]) -> Mapping[str, Refused]:
    """What was refused, by the MAC address of the guest's interface; nothing that is not counted.

    A guest without a policy, and without a network that has one, has no counter; and nobody without
    CAP_NET_ADMIN may read one.
    """
    counted = [
        row
        for row in rows
        if row.kind in FIREWALL_KINDS and row.role == ROLE and "mac" in firewall_spec(row)
        if row.state == State.COMMITTED and row.life == runtime.life.id
    ]
    if not counted:
        return {}
    try:
        found = runtime.nftables().counted(counted)
    except (HvtxError, OSError):
        return {}
    macs = {row.id: firewall_spec(row)["mac"] for row in counted}
    return {macs[row]: Refused(*numbers) for row, numbers in found.items()}
