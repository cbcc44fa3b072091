"""The tables ``block`` and ``cluster``: blocks of addresses that are this host's in a cluster."""

from __future__ import annotations

import _sqlite3 as sqlite3
import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from hvtx.model.block import Block, BlockState, Pool
from hvtx.model.vm import Network
from hvtx.store import history

_COLUMNS = "id, nonce, network, subnet, size, cidr, state, since, kept"
_USED = (
    "(SELECT count(*) FROM network n JOIN lease l ON l.network = n.id WHERE n.name = b.network"
    " AND l.offset BETWEEN b.start AND b.start + b.length - 1)"
)


def _found(sql: sqlite3.Connection, where: str, values: Sequence[object] = ()) -> list[Block]:
    rows = sql.execute(
        f"SELECT {_COLUMNS}, {_USED} FROM block b WHERE {where} ORDER BY network, id", values
    )
    return [
        Block(
            row[0],
            row[1],
            Pool(row[2], row[3], row[4]),
            row[5],
            BlockState(row[6]),
            row[7],
            bool(row[8]),
            row[9],
        )
        for row in rows
    ]


def blocks(sql: sqlite3.Connection) -> list[Block]:
    """All of them, by network and age."""
    return _found(sql, "1")


def blocks_of(sql: sqlite3.Connection, network: str) -> list[Block]:
    """Those of a network (by name), the oldest first."""
    return _found(sql, "network = ?", (network,))


def intend(sql: sqlite3.Connection, pool: Pool, nonce: str) -> Block:
    """Write down a claim before anybody is asked."""
    length = Block(0, nonce, pool, None, BlockState.INTENDED, "").addresses
    row = sql.execute(
        "INSERT INTO block (nonce, network, subnet, size, length, state, since)"
        " VALUES (?,?,?,?,?,'intended',?) RETURNING id",
        (nonce, *pool, length, history.now()),
    ).fetchone()
    return _found(sql, "id = ?", (row[0],))[0]


def commit(sql: sqlite3.Connection, block: Block, cidr: str) -> bool:
    """The claim was answered with a block; False if it is not ``intended`` any more.

    One that was lost is this host's again by it: that row goes, what is known of its guests stays.
    """
    base = ipaddress.ip_network(block.pool.subnet).network_address
    start = int(ipaddress.ip_network(cidr).network_address) - int(base)
    again = sql.execute(
        "DELETE FROM block WHERE cidr = ? AND state = 'lost' RETURNING kept", (cidr,)
    ).fetchall()
    kept = int(block.kept or any(row[0] for row in again))
    moved = sql.execute(
        "UPDATE block SET state = 'committed', cidr = ?, start = ?, since = ?, kept = ?"
        " WHERE id = ? AND state = 'intended'",
        (cidr, start, history.now(), kept, block.id),
    )
    return moved.rowcount == 1


def release(sql: sqlite3.Connection, which: Iterable[Block]) -> list[Block]:
    """Those of these that are empty are not leased from any more; what moved."""
    moved = []
    for block in which:
        now = _found(sql, "id = ?", (block.id,))
        movable = now and now[0].state in (BlockState.COMMITTED, BlockState.LOST)
        if movable and not now[0].used and not now[0].kept:
            sql.execute("UPDATE block SET state = 'releasing' WHERE id = ?", (block.id,))
            moved.append(now[0]._replace(state=BlockState.RELEASING))
    return moved


def lose(sql: sqlite3.Connection, which: Iterable[Block]) -> None:
    """The cluster says that these are not this host's: nothing is leased from them any more."""
    sql.executemany(
        "UPDATE block SET state = 'lost' WHERE id = ? AND state = 'committed'",
        [(block.id,) for block in which],
    )


def keep(sql: sqlite3.Connection, kept: bool, which: Iterable[Block]) -> None:
    """Say of these whether they stay whatever the store has leased from them."""
    sql.executemany(
        "UPDATE block SET kept = ? WHERE id = ?", [(int(kept), block.id) for block in which]
    )


def forget(sql: sqlite3.Connection, block: Block) -> None:
    """The claim was refused, or the block is back."""
    sql.execute(
        "DELETE FROM block WHERE id = ? AND state IN ('intended', 'releasing')", (block.id,)
    )


def skip_to(sql: sqlite3.Connection, number: int) -> None:
    """The next claim gets a number above ``number``, which the cluster has seen."""
    sql.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'block', 0"
        " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'block')"
    )
    sql.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'block'", (number,))


def seen(sql: sqlite3.Connection) -> tuple[str | None, int]:
    """Which etcd was spoken to (its cluster id), and the newest revision of it."""
    identity, revision = sql.execute("SELECT identity, revision FROM cluster").fetchone()
    return identity, revision


def see(sql: sqlite3.Connection, identity: str, revision: int) -> None:
    """Remember the same."""
    sql.execute("UPDATE cluster SET identity = ?, revision = ?", (identity, revision))


def machine(sql: sqlite3.Connection) -> str | None:
    """Whose the blocks are: a digest of that machine's id; None: not on record."""
    found = sql.execute("SELECT machine FROM cluster").fetchone()[0]
    return None if found is None else str(found)


def belong_to(sql: sqlite3.Connection, machine: str) -> None:
    """Remember the same."""
    sql.execute("UPDATE cluster SET machine = ?", (machine,))


def newest(sql: sqlite3.Connection) -> int:
    """The highest number that a claim was ever given; 0: there was none."""
    found = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'block'").fetchone()
    return int(found[0]) if found else 0


def is_doubted(sql: sqlite3.Connection) -> bool:
    """Whether the store is an older one, whose blocks may be others' by now."""
    return bool(sql.execute("SELECT doubted FROM cluster").fetchone()[0])


def doubt(sql: sqlite3.Connection, doubted: bool = True) -> None:
    """Lease nothing from blocks until the cluster was asked; or it was."""
    sql.execute("UPDATE cluster SET doubted = ?", (int(doubted),))


def free(sql: sqlite3.Connection, network: Network, excluded: Iterable[int]) -> Iterator[int]:
    """The offsets in this host's blocks of a network that are free, as they are leased.

    ``excluded`` are offsets that no guest can have. Blocks of an earlier network of its name, which
    had another subnet, are not its.
    """
    if is_doubted(sql):
        return
    never = set(excluded)
    for start, length in sql.execute(
        "SELECT start, length FROM block WHERE (network, subnet, size) = (?,?,?)"
        " AND state = 'committed' ORDER BY id",
        _pool(network),
    ).fetchall():
        leased = {
            row[0]
            for row in sql.execute(
                "SELECT offset FROM lease WHERE network = ? AND offset BETWEEN ? AND ?",
                (network.id, start, start + length - 1),
            )
        }
        for offset in range(start, start + length):
            if offset not in leased and offset not in never:
                yield offset


def _pool(network: Network) -> tuple[object, ...]:
    return network.name, network.subnets[0], network.block_size


def holds(sql: sqlite3.Connection, network: Network, offset: int) -> bool:
    """Whether this host has the block that an address (by its offset) of a network is in."""
    found = sql.execute(
        "SELECT EXISTS (SELECT 1 FROM block WHERE (network, subnet, size) = (?,?,?)"
        " AND state = 'committed' AND ? BETWEEN start AND start + length - 1)",
        (*_pool(network), offset),
    )
    return bool(found.fetchone()[0]) and not is_doubted(sql)
