"""What networks and VMs are set to comes back as it was written; what is default takes no room."""

from __future__ import annotations

import sqlite3

from hvtx.model.policy import EgressRule, Limits, Policy
from hvtx.store import records, settings

from .shelf import Shelf, add_network, enter, network, vm

POLICY = Policy(
    "internet",
    (
        EgressRule("deny", "203.0.113.0/24"),
        EgressRule("allow", "example.org", 443, 445, "tcp"),
    ),
)
NETWORK = network()._replace(
    dhcp=True, policy=POLICY, uplink="eth1", sources=("192.0.2.7",), passage=False
)
VM = vm("web")._replace(
    number=7,
    queues=4,
    limits=Limits(100_000_000, None),
    policy=POLICY,
    user_data="/root/user-data",
    ssh_keys=("ssh-ed25519 AAAA me",),
    user="nobody",
)


def test_a_network_comes_back_as_it_was_set(shelf: Shelf) -> None:
    """All its settings; and as it was set anew."""
    with shelf.opened() as store:
        add_network(store, NETWORK)
        with store.reading() as sql:
            assert records.get_network(sql, "lan") == NETWORK
        changed = NETWORK._replace(dhcp=False, uplink=None)
        with store.transaction() as sql:
            records.set_network(sql, changed)
        with store.reading() as sql:
            assert records.get_network(sql, "lan") == changed


def test_a_vm_comes_back_as_it_was_set(shelf: Shelf) -> None:
    """All its settings; and as it was set anew."""
    with shelf.opened() as store:
        operation = enter(store)
        with store.transaction() as sql:
            records.add_vm(sql, VM, operation)
        with store.reading() as sql:
            assert records.get_vm(sql, "web") == VM
        with store.transaction() as sql:
            records.set_vm(sql, VM._replace(queues=1))
        with store.reading() as sql:
            assert records.get_vm(sql, "web") == VM._replace(queues=1)


def test_defaults_are_not_written() -> None:
    """So an older row and a new one of no settings are the same."""
    assert settings.of_network(network()) == {}
    assert settings.of_vm(vm("web")) == {}
    assert settings.network_fields({}) == {
        key: getattr(network(), key) for key in settings.network_fields({})
    }
    assert settings.vm_fields({}) == {
        key: getattr(vm("web"), key) for key in settings.vm_fields({})
    }


def test_several_addresses_of_a_family(shelf: Shelf) -> None:
    """The first of each is the guest's address; the others follow, that of IPv4 first."""
    with shelf.opened() as store:
        add_network(store, network())
        operation = enter(store)
        with store.transaction() as sql:
            records.add_vm(sql, vm("web"), operation)
            _lease(sql, ["10.77.0.5", "10.77.0.9", "fd77::5", "fd77::9"])
        with store.reading() as sql:
            found = records.get_vm(sql, "web").interfaces[0]
    assert (found.ipv4, found.ipv6) == ("10.77.0.5", "fd77::5")
    assert found.more == ("10.77.0.9", "fd77::9")


def _lease(sql: sqlite3.Connection, addresses: list[str]) -> None:
    interface = sql.execute(
        "INSERT INTO interface (vm, position, network, mac)"
        " VALUES ('id-web', 0, 'net-lan', '02:00:00:00:00:05') RETURNING id"
    ).fetchone()[0]
    for number, address in enumerate(addresses):
        sql.execute(
            "INSERT INTO lease (address, interface, network, family, position)"
            " VALUES (?, ?, 'net-lan', ?, ?)",
            (address, interface, 6 if ":" in address else 4, number % 2),
        )
