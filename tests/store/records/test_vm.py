"""VMs and networks come back as they went in, and go with what is theirs."""

from __future__ import annotations

import multiprocessing

import pytest

from hvtx.errors import Conflict, HvtxError
from hvtx.store import records
from hvtx.store.database import Store
from tests.store.shelf import add_network, claim, network

ALONE = ("unshare", "-m", "sh", "-c")
_FORK = multiprocessing.get_context("fork")


def test_vms_and_networks_are_read_as_they_were_written(store: Store) -> None:
    """Every field, in a store that was closed and opened in between."""
    lan, dmz = network("lan", "10.77.0.0/24", "fd00:7::/64"), network("dmz", "10.78.0.0/24")
    add_network(store, lan, dmz)
    interfaces = claim(store, "web", lan, dmz)
    found = records.get_vm(store.connection, "web")
    assert found.interfaces == interfaces
    assert (found.disks, found.command, found.autostart) == (("/a", "/b"), ("sleep", "1"), True)
    assert records.networks(store.connection) == [dmz, lan]
    assert records.users_of_network(store.connection, lan.id) == ["web"]
    assert records.networks_by_id(store.connection, [lan.id]) == {lan.id: lan}


def test_what_is_not_there_is_named(store: Store) -> None:
    """NotFound, exit 3, with the name in the message."""
    for get in (records.get_vm, records.get_network):
        with pytest.raises(HvtxError) as caught:
            get(store.connection, "nobody")
        assert caught.value.exit_code == 3
        assert "nobody" in caught.value.message


def test_a_vm_is_forgotten_with_its_leases_and_ports(store: Store) -> None:
    """All of it, and its address is free again."""
    lan = network()
    add_network(store, lan)
    claim(store, "web", lan, ip="10.77.0.9")
    with store.transaction() as sql:
        records.remove_vm(sql, "id-web")
    for table in ("vm", "interface", "lease", "port"):
        assert store.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0
    claim(store, "db", lan, ip="10.77.0.9")


def test_a_network_in_use_cannot_be_forgotten(store: Store) -> None:
    """A foreign key sees to it, whatever the caller thinks."""
    lan = network()
    add_network(store, lan)
    claim(store, "web", lan)
    with pytest.raises(Conflict), store.transaction() as sql:
        records.remove_network(sql, lan.id)
    assert records.find_network(store.connection, "lan") is not None
