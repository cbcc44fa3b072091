"""A bridge's own address in its table, as the kernel tells of it."""

from __future__ import annotations

import errno
import struct

import pytest

from hvtx.host.neigh import NeighbourTable
from hvtx.host.netlink import Channel, KernelError
from tests.fuzz.parsers import Told

MAC = "02:00:00:00:00:aa"


def entry(state: int) -> bytes:
    """The body of what the kernel says of an address of the bridge 5."""
    return struct.pack("=BxxxiHBB", 7, 5, state, 0, 0)


def knows_itself(kernel: Channel) -> bool:
    """What is made of what a kernel says."""
    table = NeighbourTable()
    table._channel = kernel
    return table.knows_itself(5, MAC)


class Refusing(Told):
    """A kernel that has no such entry, or none of a kind that it tells of."""

    def __init__(self, refusal: int) -> None:
        """Refuse each question so."""
        super().__init__()
        self._refusal = refusal

    def get(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """Nothing."""
        raise KernelError(self._refusal, "")


@pytest.mark.parametrize(
    ("kernel", "knows"),
    [
        (Told([entry(0x80)]), True),
        (Told([entry(0x02)]), False),  # learned: behind a port
        (Refusing(errno.ENOENT), False),
        (Refusing(errno.EOPNOTSUPP), True),
        (Refusing(errno.ENODEV), True),
    ],
)
def test_a_bridge_knows_its_own_address(kernel: Channel, *, knows: bool) -> None:
    assert knows_itself(kernel) is knows


def test_other_refusals_are_told() -> None:
    with pytest.raises(KernelError):
        knows_itself(Refusing(errno.EPERM))
