"""Which block a host asks for, what an answer means, and which blocks go back. Pure.

The rules that two hosts never have one block by are in docs/protocol.md ("Blocks of a cluster").
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum

from hvtx.errors import NoRoom, UsageError
from hvtx.model.address import family_of
from hvtx.model.block import Block, BlockState, Held, Pool
from hvtx.model.typed import NamedTuple

PROBES = 8  # blocks that are tried before all that are held are listed
_LARGEST = {4: 20, 6: 116}  # prefix lengths of blocks, as Calico has them
_SMALLEST = {4: 32, 6: 128}
_MOST = 24  # bits: blocks of a network
_EXAMPLE = "hvtx network create lab --subnet {} --block-size {}"


def parse_block_size(text: str, subnets: Sequence[str]) -> int:
    """The prefix length of a network's blocks: ``26`` or ``/26``. Raises UsageError."""
    digits = text.removeprefix("/")
    if not re.fullmatch("[0-9]{1,3}", digits):
        raise UsageError(
            f"--block-size {text!r} is not a prefix length",
            hint=f"for instance: {_EXAMPLE.format('10.64.0.0/16', 26)}",
        )
    if len(subnets) != 1:
        raise UsageError(
            "--block-size is for a network of one subnet",
            hint="make a network for each family; a VM may have several: --network N --network M",
        )
    family, length = family_of(subnets[0]), ipaddress.ip_network(subnets[0]).prefixlen
    size = int(digits)
    if not _LARGEST[family] <= size <= _SMALLEST[family]:
        raise UsageError(
            f"--block-size {text} is not between {_LARGEST[family]} and {_SMALLEST[family]}",
            hint=f"64 addresses: {_EXAMPLE.format(subnets[0], 26 if family == 4 else 122)}",
        )
    if not 0 < size - length <= _MOST:
        hint = "choose a --block-size that is longer than the subnet's prefix length"
        if size > length:
            hint = f"choose a smaller subnet: a /{size - _MOST} has that many blocks of /{size}"
        raise UsageError(
            f"{subnets[0]} cannot be divided into blocks of /{size}: it is to have 2 to 2^{_MOST}",
            hint=hint,
        )
    return size


def addresses_of(size: int, family: int) -> int:
    """How many addresses a block has."""
    return int(1 << ((32 if family == 4 else 128) - size))


def start_of(pool: Pool, cidr: str) -> int:
    """How far a block is from the beginning of its subnet, in addresses."""
    first = ipaddress.ip_network(cidr).network_address
    return int(first) - int(ipaddress.ip_network(pool.subnet).network_address)


def is_of(pool: Pool, cidr: str) -> bool:
    """Whether this is a block of a pool: in its subnet, and as large as its blocks are."""
    try:
        block, subnet = ipaddress.ip_network(cidr), ipaddress.ip_network(pool.subnet)
    except ValueError:
        return False
    if block.version != subnet.version or block.prefixlen != pool.size:
        return False
    return overlaps(cidr, pool.subnet)


def unused(
    named: Mapping[str, Iterable[str]], networks: Mapping[str, Pool | None]
) -> Iterator[str]:
    """What a configuration names of blocks that serves no network of this host, in words.

    ``networks``: those on record, by name, each with what its blocks are (None: it has none).
    """
    for name, cidrs in named.items():
        pool = networks.get(name)
        if name not in networks:
            yield f"{name}: no network of that name is on record"
        elif pool is None:
            yield f"{name}: the network was made without --block-size"
        else:
            for cidr in cidrs:
                if not is_of(pool, cidr):
                    yield f"{name}: {cidr} is no /{pool.size} in {pool.subnet}"


def overlaps(one: str, other: str) -> bool:
    """Whether two prefixes share addresses."""
    first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
    return first.version == second.version and first.overlaps(second)


def _count(pool: Pool) -> int:
    return int(1 << (pool.size - ipaddress.ip_network(pool.subnet).prefixlen))


def _at(pool: Pool, index: int) -> str:
    subnet = ipaddress.ip_network(pool.subnet)
    first = subnet.network_address + index * addresses_of(pool.size, subnet.version)
    return f"{first}/{pool.size}"


def candidates(pool: Pool, token: str) -> Iterator[str]:
    """Blocks to try for a claim, the same each time that it is asked again.

    They are scattered: two hosts that ask at once ask for different ones, and nobody has to list
    what is held while less than nine tenths of a network are.
    """
    count = _count(pool)
    seen = set()
    for turn in range(PROBES):
        digest = hashlib.sha256(f"{token} {turn}".encode()).digest()
        index = int.from_bytes(digest[:8]) % count
        if index not in seen:
            seen.add(index)
            yield _at(pool, index)


def free_block(pool: Pool, held: Iterable[str], token: str) -> str | None:
    """A block that nobody has, where only a few are free: the next free one from a scattered place.

    None: all are held.
    """
    base = ipaddress.ip_network(pool.subnet)
    each = addresses_of(pool.size, base.version)
    taken = {start_of(pool, cidr) // each for cidr in held}
    count = _count(pool)
    begin = int.from_bytes(hashlib.sha256(token.encode()).digest()[:8]) % count
    for step in range(count):
        index = (begin + step) % count
        if index not in taken:
            return _at(pool, index)
    return None


class Verdict(Enum):
    """What the cluster's answer to a claim means."""

    OURS = "the block is this claim's"
    TAKEN = "somebody else has this block: try another"
    UNREGISTERED = "this installation is not registered yet"
    UNDEFINED = "nobody has said yet what this network is"
    OTHER_NETWORK = "the network is another on other hosts"
    CLONED = "this installation is registered by another machine"
    FORGOTTEN = "a person said that this host is gone"
    SPENT = "a later claim of this installation is known: the store was rolled back"
    AGAIN = "what stood in the way has gone meanwhile: ask again"


FORGOTTEN = "forgotten"  # in the place of the machine of a host that was given up


class Answer(NamedTuple):
    """What the cluster has now, of what a claim looks at; None: nothing."""

    claimed: str | None  # the block of this very claim
    machine: str | None  # whose the installation is
    last: str | None  # the newest claim of the installation
    definition: str | None  # of the network
    holder: str | None  # of the block that was asked for


def verdict(answer: Answer, *, number: str, machine: str, definition: str) -> Verdict:
    """What a refused claim is to be taken for.

    A claim that is known is answered with its block: the same token again gives the same answer.
    But not to another machine, nor to a host that was given up.
    """
    if answer.machine == FORGOTTEN:
        return Verdict.FORGOTTEN
    if answer.machine is not None and answer.machine != machine:
        return Verdict.CLONED
    if answer.claimed is not None:
        return Verdict.OURS
    if answer.machine is None:
        return Verdict.UNREGISTERED
    if answer.definition != definition:
        return Verdict.UNDEFINED if answer.definition is None else Verdict.OTHER_NETWORK
    if answer.last is not None and answer.last >= number:
        return Verdict.SPENT
    return Verdict.AGAIN if answer.holder is None else Verdict.TAKEN


class Difference(NamedTuple):
    """Where the store and the cluster do not agree."""

    lost: tuple[Block, ...]  # on record as ours, and not ours
    unrecorded: tuple[Held, ...]  # ours, and not on record: never used


def difference(blocks: Iterable[Block], mine: Sequence[Held]) -> Difference:
    """Compare the store's blocks with what the cluster has for this host."""
    rows = list(blocks)
    held = {(one.cidr, one.token) for one in mine}
    known = {row.token for row in rows}
    lost = [
        row
        for row in rows
        if row.state is BlockState.COMMITTED and (row.cidr, row.token) not in held
    ]
    return Difference(tuple(lost), tuple(one for one in mine if one.token not in known))


def no_block_left(pool: Pool, hint: str) -> NoRoom:
    """The error of a network all of whose blocks are held; ``hint`` is the source's."""
    words = f"network {pool.network!r} has no block of /{pool.size} left in {pool.subnet}"
    return NoRoom(words, hint=hint.format(name=pool.network, size=pool.size))


def newest_granted(known: Iterable[Block]) -> Block | None:
    """Of the blocks on record the one with the highest number of a claim that was granted."""
    had = [block for block in known if block.state is not BlockState.INTENDED]
    return max(had, key=lambda block: block.id, default=None)


def went_back(known: Iterable[Block], last: int) -> str | None:
    """Why an etcd whose newest claim of this host is number ``last`` is not to be believed.

    One that was put back from a snapshot has the id that it had, by the same configuration, and its
    revision is a high one soon. A host's number never goes down in one. None: it may be believed.
    """
    had = newest_granted(known)
    if had is None or had.id <= last:
        return None
    return (
        f"etcd knows no claim of this host above number {last}, and block {had.cidr} of network"
        f" {had.pool.network} is by number {had.id}; what it grants may be had already"
    )


def never_granted(blocks: Iterable[Block], mine: Sequence[Held], last: int) -> list[Block]:
    """Claims that were not granted and cannot be any more: the cluster has a later one."""
    granted = {one.token for one in mine}
    return [
        block
        for block in blocks
        if block.state is BlockState.INTENDED and block.id <= last and block.token not in granted
    ]


def to_return(blocks: Sequence[Block], networks: Collection[Pool]) -> list[Block]:
    """The blocks that are to go back: of networks that are gone, spare ones, and lost ones.

    A network that was made anew with another subnet is another one. One empty block of a network
    stays while it is the only one with room: the next VM should not wait for the cluster, and a VM
    that is made and removed by turns should not claim each time.
    """
    spent = [block for block in blocks if block.state is BlockState.LOST]
    going = [block for block in spent if not block.used and not block.kept]
    for network in sorted({block.pool for block in blocks}):
        own = [b for b in blocks if b.pool == network and b.state is BlockState.COMMITTED]
        empty = [block for block in own if not block.used and not block.kept]
        if network not in networks:
            going += empty
            continue
        roomy = sum(_has_room(block) for block in own if block.used)
        going += empty if roomy else empty[1:]
    return going


def _has_room(block: Block) -> bool:
    """Whether half of a block is free."""
    return 2 * block.used <= block.addresses


def block_of(address: str, blocks: Iterable[str]) -> str | None:
    """Which of these blocks an address is in."""
    wanted = ipaddress.ip_address(address)
    return next((cidr for cidr in blocks if wanted in ipaddress.ip_network(cidr)), None)
