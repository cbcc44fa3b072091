"""Blocks in the store: a claim is there before its block, a block with leases does not go back."""

from __future__ import annotations

import sqlite3

import pytest

from hvtx.errors import Conflict, HvtxError, NoRoom
from hvtx.model.block import Block, BlockState, Pool
from hvtx.store import blocks, leases, records

from .shelf import Shelf, add_network, enter, network, vm

POOL = Pool("lab", "10.64.0.0/16", 30)


def claimed(sql: sqlite3.Connection, cidr: str) -> Block:
    block = blocks.intend(sql, POOL, "aa")
    assert blocks.commit(sql, block, cidr)
    return next(one for one in blocks.blocks(sql) if one.id == block.id)


def fill(sql: sqlite3.Connection, name: str, address: str | None = None) -> str:
    lab = records.get_network(sql, "lab")
    made = vm(name)
    records.add_vm(sql, made, 1)
    mac = "02:00:00:00:00:" + name[-2:]
    (found,) = leases.claim(sql, made.id, [leases.Claim(lab, mac, address, None)])
    assert found.ipv4 is not None
    return found.ipv4


@pytest.fixture
def sql(shelf: Shelf):
    with shelf.opened() as store:
        enter(store)
        add_network(
            store,
            network("lab")._replace(
                subnets=("10.64.0.0/16",), gateways=("10.64.0.1",), gateway6=None, block_size=30
            ),
        )
        with store.transaction() as connection:
            yield connection


def test_guests_get_addresses_of_blocks_only(sql: sqlite3.Connection) -> None:
    with pytest.raises(NoRoom):
        fill(sql, "vm-00")


def test_a_block_is_filled_but_for_what_no_guest_can_have(sql: sqlite3.Connection) -> None:
    claimed(sql, "10.64.0.0/30")
    claimed(sql, "10.64.255.252/30")
    got = [fill(sql, f"vm-0{n}") for n in range(5)]
    assert got == ["10.64.0.2", "10.64.0.3", "10.64.255.252", "10.64.255.253", "10.64.255.254"]
    with pytest.raises(NoRoom):
        fill(sql, "vm-05")
    assert [block.used for block in blocks.blocks(sql)] == [2, 3]


def test_an_address_that_is_asked_for_is_of_a_block_of_ours(sql: sqlite3.Connection) -> None:
    claimed(sql, "10.64.9.0/30")
    assert fill(sql, "vm-01", "10.64.9.2") == "10.64.9.2"
    with pytest.raises(Conflict, match="in no block"):
        fill(sql, "vm-02", "10.64.9.4")


def test_a_block_with_leases_does_not_go_back(sql: sqlite3.Connection) -> None:
    used, empty = claimed(sql, "10.64.9.0/30"), claimed(sql, "10.64.9.4/30")
    fill(sql, "vm-01")
    assert [block.id for block in blocks.release(sql, [used, empty])] == [empty.id]
    with pytest.raises(sqlite3.IntegrityError, match="with leases"):
        sql.execute("UPDATE block SET state = 'releasing' WHERE id = ?", (used.id,))


def test_what_an_older_store_had_does_not_go_back_by_itself(sql: sqlite3.Connection) -> None:
    block = claimed(sql, "10.64.9.0/30")
    blocks.keep(sql, kept=True, which=[block])
    assert blocks.release(sql, [block]) == []
    with pytest.raises(sqlite3.IntegrityError, match="older store"):
        sql.execute("UPDATE block SET state = 'releasing'")
    blocks.keep(sql, kept=False, which=[block])
    assert blocks.release(sql, [block])


@pytest.mark.parametrize("state", ["intended", "releasing", "lost"])
def test_only_what_is_committed_is_leased_from(sql: sqlite3.Connection, state: str) -> None:
    block = claimed(sql, "10.64.9.0/30")
    if state == "releasing":
        blocks.release(sql, [block])
    elif state == "lost":
        blocks.lose(sql, [block])
    else:
        sql.execute("DELETE FROM block")
        blocks.intend(sql, POOL, "bb")
    with pytest.raises(NoRoom):
        fill(sql, "vm-01")


def test_blocks_of_an_earlier_network_of_the_name_are_not_leased_from(
    sql: sqlite3.Connection,
) -> None:
    """It had another subnet: as far from its beginning is an address that nobody granted."""
    block = blocks.intend(sql, POOL._replace(subnet="10.128.0.0/16"), "aa")
    assert blocks.commit(sql, block, "10.128.9.0/30")
    with pytest.raises(NoRoom):
        fill(sql, "vm-01")
    with pytest.raises(Conflict, match="in no block"):
        fill(sql, "vm-02", "10.64.9.1")


def test_a_lost_block_that_is_granted_again_is_leased_from(sql: sqlite3.Connection) -> None:
    """Guests that the store does not know may have addresses of it still."""
    lost = claimed(sql, "10.64.9.0/30")
    blocks.keep(sql, kept=True, which=[lost])
    blocks.lose(sql, [lost])
    again = claimed(sql, "10.64.9.0/30")
    assert [(one.id, one.kept) for one in blocks.blocks(sql)] == [(again.id, True)]
    assert fill(sql, "vm-01") == "10.64.9.0"


def test_of_an_older_store_nothing_is_leased_until_the_cluster_was_asked(
    sql: sqlite3.Connection,
) -> None:
    claimed(sql, "10.64.9.0/30")
    blocks.doubt(sql)
    with pytest.raises(NoRoom):
        fill(sql, "vm-01")
    with pytest.raises(Conflict):
        fill(sql, "vm-02", "10.64.9.1")
    blocks.doubt(sql, doubted=False)
    assert fill(sql, "vm-03") == "10.64.9.0"


def test_numbers_of_claims_are_never_given_twice(sql: sqlite3.Connection) -> None:
    """By the number the cluster knows what was asked later."""
    first = blocks.intend(sql, POOL, "aa")
    blocks.forget(sql, first)
    second = blocks.intend(sql, POOL, "aa")
    assert second.id > first.id
    blocks.skip_to(sql, 40)
    third = blocks.intend(sql, POOL, "aa")
    assert third.id == 41
    assert first.token < second.token < third.token
    blocks.skip_to(sql, 3)
    assert blocks.intend(sql, POOL, "aa").id == 42


def test_arrows_that_there_are_not(sql: sqlite3.Connection) -> None:
    block = claimed(sql, "10.64.9.0/30")
    blocks.release(sql, [block])
    for state in ("committed", "lost", "intended"):
        with pytest.raises(sqlite3.IntegrityError):
            sql.execute("UPDATE block SET state = ? WHERE id = ?", (state, block.id))
    assert not blocks.commit(sql, block, "10.64.9.4/30")
    assert blocks.blocks(sql)[0].state is BlockState.RELEASING


def test_a_restored_store_doubts_its_blocks(shelf: Shelf, tmp_path) -> None:
    from hvtx.store import backup

    with shelf.opened() as store:
        enter(store)
        with store.transaction() as sql:
            assert not blocks.is_doubted(sql)
        content, _ = backup.content_of(store, "copy")
    copy = tmp_path / "copy.db"
    copy.write_bytes(content)
    copy.chmod(0o600)
    draft = str(tmp_path / "draft.db")
    backup.draft_of(str(copy), draft)
    found = sqlite3.connect(draft)
    doubted = blocks.is_doubted(found)
    found.close()
    assert doubted


def test_an_accepted_rollback_doubts_them_too(shelf: Shelf) -> None:
    from hvtx.store import trust

    with shelf.opened() as store:
        enter(store)
        trust.accept_rollback(store)
        with store.reading() as sql:
            assert blocks.is_doubted(sql)


def test_one_block_is_on_record_once(shelf: Shelf) -> None:
    with shelf.opened() as store:
        enter(store)
        with pytest.raises(HvtxError), store.transaction() as sql:
            claimed(sql, "10.64.9.0/30")
            claimed(sql, "10.64.9.0/30")


def test_a_reader_of_an_older_store_finds_none(shelf: Shelf, monkeypatch) -> None:
    from hvtx import migrations
    from hvtx.store import connection, creating

    older = len(migrations.MIGRATIONS) - 1
    with monkeypatch.context() as then:
        for module in (migrations, creating):
            then.setattr(module, "MIGRATIONS", migrations.MIGRATIONS[:older])
        then.setattr(connection, "SCHEMA", older)
        shelf.open().close()
    with shelf.opened(writable=False) as store, store.reading() as sql:
        assert blocks.blocks(sql) == []
        assert blocks.seen(sql) == (None, 0)
        assert not blocks.is_doubted(sql)


def test_what_is_free_is_what_is_leased_next(sql: sqlite3.Connection) -> None:
    """In the order of the blocks; without the ends, the gateway and what is taken."""
    lab = records.get_network(sql, "lab")

    def free() -> list[int]:
        return list(blocks.free(sql, lab, leases.never_leased(lab, ["10.64.255.253"])))

    assert free() == []
    claimed(sql, "10.64.255.252/30")
    claimed(sql, "10.64.0.0/30")
    assert free() == [0xFFFC, 0xFFFE, 2, 3]
    fill(sql, "vm-01")
    assert free() == [0xFFFE, 2, 3]
    blocks.doubt(sql)
    assert free() == []
