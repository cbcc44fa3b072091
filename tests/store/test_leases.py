"""Addresses, MACs and ports: the lowest free one, once each, by the schema's constraints."""

from __future__ import annotations

import ipaddress
import sqlite3
from functools import partial
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtx.errors import Conflict, UsageError
from hvtx.model.resource import Kind, State
from hvtx.model.vm import Publish
from hvtx.store import intents, leases, records
from hvtx.store.database import Store
from tests.fake.calls import counted

from .shelf import Shelf, add_network, claim, claim_in, enter, intend, network, vm


def ipv4(store: Store, name: str, *more: object) -> str | None:
    return claim(store, name, network())[0].ipv4


@pytest.fixture
def lan(store: Store) -> Store:
    """A store with the network `lan`, 10.77.0.0/24."""
    add_network(store, network())
    return store


# -- addresses -----------------------------------------------------------------------------------------


def test_the_lowest_free_address_is_given(lan: Store) -> None:
    """.1 is the gateway's; what was freed is the lowest again."""
    assert [ipv4(lan, f"vm{n}") for n in range(3)] == ["10.77.0.2", "10.77.0.3", "10.77.0.4"]
    with lan.transaction() as sql:
        records.remove_vm(sql, "id-vm1")
    assert ipv4(lan, "new") == "10.77.0.3"
    assert ipv4(lan, "next") == "10.77.0.5"


def test_a_chosen_address_is_skipped_later(lan: Store) -> None:
    """Chosen ones and given ones never meet."""
    claim(lan, "chosen", network(), ip="10.77.0.3")
    assert [ipv4(lan, f"vm{n}") for n in range(2)] == ["10.77.0.2", "10.77.0.4"]


def test_a_gateway_in_the_middle_is_skipped(store: Store) -> None:
    """The gateway is wherever the network says."""
    odd = network()._replace(gateways=("10.77.0.3",))
    add_network(store, odd)
    found = [claim(store, f"vm{n}", odd)[0].ipv4 for n in range(3)]
    assert found == ["10.77.0.1", "10.77.0.2", "10.77.0.4"]


def test_a_taken_address_names_its_owner(lan: Store) -> None:
    """Conflict, exit 4; nothing of the second VM is on record."""
    claim(lan, "web", network(), ip="10.77.0.9")
    with pytest.raises(Conflict, match="web"):
        claim(lan, "db", network(), ip="10.77.0.9")
    assert records.find_vm(lan.connection, "db") is None


def test_an_exhausted_subnet_says_so(store: Store) -> None:
    """A /30 has room for one guest: the broadcast address is never given."""
    small = network("small", "10.9.0.0/30")
    add_network(store, small)
    assert claim(store, "one", small)[0].ipv4 == "10.9.0.2"
    with pytest.raises(Conflict, match="no free address") as caught:
        claim(store, "two", small)
    assert "small" in caught.value.message
    assert caught.value.hint
    with store.transaction() as sql:
        records.remove_vm(sql, "id-one")
    assert claim(store, "two", small)[0].ipv4 == "10.9.0.2"


def test_ipv6_has_no_broadcast_address(store: Store) -> None:
    """A /126 holds two guests besides the gateway."""
    six = network("six", "fd00:9::/126")
    add_network(store, six)
    assert [claim(store, f"vm{n}", six)[0].ipv6 for n in range(2)] == ["fd00:9::2", "fd00:9::3"]
    with pytest.raises(Conflict, match="no free address"):
        claim(store, "last", six)


def test_both_families_are_given(store: Store) -> None:
    """Each from its own subnet, each the lowest."""
    both = network("both", "10.77.0.0/24", "fd00:7::/64")
    add_network(store, both)
    claim(store, "four", both, ip="10.77.0.2", ip6="fd00:7::3")
    found = claim(store, "next", both)[0]
    assert (found.ipv4, found.ipv6) == ("10.77.0.3", "fd00:7::2")


def test_the_far_end_of_a_huge_subnet_can_be_chosen(store: Store) -> None:
    """Offsets beyond 62 bits do not fit the store's integers, and do not disturb the search."""
    six = network("six", "fd00:7::/64")
    add_network(store, six)
    far = "fd00:7::ffff:ffff:ffff:fffe"
    assert claim(store, "far", six, ip6=far)[0].ipv6 == far
    assert claim(store, "near", six)[0].ipv6 == "fd00:7::2"
    with pytest.raises(Conflict, match="far"):
        claim(store, "thief", six, ip6=far)


def test_an_address_of_a_family_that_is_not_there_is_a_usage_error(lan: Store) -> None:
    """Exit 2: it could never be had."""
    with pytest.raises(UsageError, match="IPv6"):
        claim(lan, "web", network(), ip6="fd00::5")


def test_networks_have_addresses_of_their_own(store: Store) -> None:
    """The search in one does not see the other's leases."""
    one, two = network("one", "10.1.0.0/24"), network("two", "10.2.0.0/24")
    add_network(store, one, two)
    found = claim(store, "web", one, two)
    assert [interface.ipv4 for interface in found] == ["10.1.0.2", "10.2.0.2"]
    assert [interface.position for interface in found] == [0, 1]


@pytest.mark.slow
def test_thousands_of_leases_cost_no_more_statements(store: Store) -> None:
    """The 5,001st lease takes as many statements as the first, and one pass over an index."""
    large = network("large", "10.64.0.0/16")
    add_network(store, large)
    seen: list[str] = []
    store.connection.set_trace_callback(seen.append)
    claim(store, "first", large)
    few = len(seen)
    store.connection.set_trace_callback(None)
    with store.transaction() as sql:
        for number in range(4999):
            claim_in(sql, f"vm{number}", large)
    seen.clear()
    store.connection.set_trace_callback(seen.append)
    assert claim(store, "last", large)[0].ipv4 == str(ipaddress.ip_address("10.64.0.1") + 5001)
    store.connection.set_trace_callback(None)
    assert len(seen) == few
    plan = store.connection.execute(
        "EXPLAIN QUERY PLAN SELECT offset FROM lease WHERE network = ? AND family = ?", ("x", 4)
    ).fetchall()
    assert "lease_offset" in str(plan)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(["claim", "free", "choose"]), max_size=25), st.randoms())
@pytest.mark.slow
def test_no_address_is_ever_leased_twice(tmp_path_factory, steps: list[str], random) -> None:
    """Any order of claims, choices and frees: distinct, inside, never the gateway's, lowest first."""
    shelf = Shelf(tmp_path_factory.mktemp("leases"))
    small = network("small", "10.9.0.0/28")
    held: dict[str, str] = {}
    with shelf.opened() as store:
        add_network(store, small)
        for number, step in enumerate(steps):
            name = f"vm{number}"
            free = [f"10.9.0.{n}" for n in range(2, 15) if f"10.9.0.{n}" not in held.values()]
            if step == "free":
                if held:
                    gone = random.choice(sorted(held))
                    with store.transaction() as sql:
                        records.remove_vm(sql, f"id-{gone}")
                    del held[gone]
                continue
            choice = random.choice(free) if step == "choose" and free else None
            try:
                found = claim(store, name, small, ip=choice)[0].ipv4
            except Conflict:
                assert not free
                continue
            assert found == (choice or free[0])
            held[name] = str(found)


# -- MAC addresses and names ---------------------------------------------------------------------------


def test_a_mac_is_had_once(lan: Store) -> None:
    """By a VM of any network, or by a bridge."""
    claim(lan, "web", network(), mac="02:00:00:00:00:99")
    with pytest.raises(Conflict, match="web"):
        claim(lan, "db", network(), mac="02:00:00:00:00:99")
    with pytest.raises(Conflict, match="bridge"):
        claim(lan, "db", network(), mac=network().mac)
    with pytest.raises(sqlite3.IntegrityError):
        lan.connection.execute("UPDATE interface SET mac = 'x'; ")
        lan.connection.execute(
            "INSERT INTO interface (vm, position, network, mac) VALUES ('id-web', 1, 'net-lan', 'x')"
        )


@pytest.mark.parametrize(
    "change",
    [
        {"id": "n2", "bridge": "br2", "mac": "02:00:00:00:02:02", "subnets": ("10.5.0.0/24",)},
        {"id": "n2", "name": "n2", "mac": "02:00:00:00:02:02", "subnets": ("10.5.0.0/24",)},
        {"id": "n2", "name": "n2", "bridge": "br2", "subnets": ("10.5.0.0/24",)},
        {"id": "n2", "name": "n2", "bridge": "br2", "mac": "02:00:00:00:02:02"},
    ],
    ids=["name", "bridge", "mac", "subnet"],
)
def test_what_networks_have_once_is_unique(lan: Store, change: dict[str, object]) -> None:
    """Name, bridge, MAC, subnet: the schema refuses the second, whoever inserts it."""
    with pytest.raises(Conflict), lan.transaction() as sql:
        records.add_network(sql, network()._replace(**change), 1)  # type: ignore[arg-type]


def test_device_names_are_unique_only_while_live(store: Store) -> None:
    """A TAP and a bridge cannot share one; a removed device's name is free."""
    operation = enter(store)
    first = intend(store, operation, (Kind.TAP, "hv1"), (Kind.FILTER, "hv1"), (Kind.FILE, "hv1"))
    for kind in (Kind.TAP, Kind.BRIDGE):
        with pytest.raises(Conflict):
            intend(store, operation, (kind, "hv1"))
    with store.transaction() as sql:
        intents.release(sql, first, operation)
    with pytest.raises(Conflict):
        intend(store, operation, (Kind.TAP, "hv1"))
    with store.transaction() as sql:
        intents.forget(sql, first)
    again = intend(store, operation, (Kind.TAP, "hv1"))
    assert again[0].mark != first[0].mark
    assert again[0].state == State.INTENDED


def test_a_mark_is_had_once(store: Store) -> None:
    """Even by a tombstone."""
    operation = enter(store)
    row = intend(store, operation, (Kind.TAP, "hv1"))
    with store.transaction() as sql:
        intents.forget(sql, row)
    with pytest.raises(Conflict), store.transaction() as sql:
        intents.intend(
            sql,
            [intents.NewRow(Kind.TAP, "hv2", {}, None, None)],
            operation=operation,
            life=1,
            mark=lambda _: row[0].mark,
        )


# -- ports -----------------------------------------------------------------------------------------------

HOSTS = [None, "192.0.2.1", "192.0.2.2", "2001:db8::1"]


@pytest.mark.parametrize(("first", "second"), list(product(HOSTS, HOSTS)))
@pytest.mark.parametrize("same", ["all", "protocol differs", "port differs"])
def test_ports_collide_as_the_interface_says(
    lan: Store, first: str | None, second: str | None, same: str
) -> None:
    """Same protocol and port, and either host address absent or both equal; both ways round."""
    one = Publish("tcp", first, 8080, 80)
    other = Publish(
        "udp" if same == "protocol differs" else "tcp",
        second,
        8081 if same == "port differs" else 8080,
        90,
    )
    collide = same == "all" and (first is None or second is None or first == second)
    claim(lan, "web", network(), ports=(one,))
    assert leases.port_holder(lan.connection, other) == ("web" if collide else None)
    if not collide:
        claim(lan, "db", network(), ports=(other,))
        return
    with pytest.raises(Conflict, match="web"):
        claim(lan, "db", network(), ports=(other,))
    with pytest.raises(sqlite3.IntegrityError, match="port taken"):
        lan.connection.execute(
            "INSERT INTO port (interface, protocol, host_ip, host_port, guest_port)"
            " VALUES (1, ?, ?, ?, ?)",
            other,
        )


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_the_schema_knows_no_other_ports(lan: Store, port: int) -> None:
    """1 to 65535, for host and guest, by CHECK."""
    claim(lan, "web", network())
    for values in ((port, 80), (80, port)):
        with pytest.raises(sqlite3.IntegrityError):
            lan.connection.execute(
                "INSERT INTO port (interface, protocol, host_port, guest_port)"
                " VALUES (1, 'tcp', ?, ?)",
                values,
            )


def test_a_second_port_of_the_same_vm_collides_too(lan: Store) -> None:
    """Each host port is published once, whoever has it."""
    with pytest.raises(Conflict):
        claim(
            lan,
            "web",
            network(),
            ports=(Publish("tcp", None, 80, 80), Publish("tcp", "192.0.2.1", 80, 81)),
        )
    assert records.find_vm(lan.connection, "web") is None


def test_the_ports_of_a_vm_are_exchanged_whole(lan: Store) -> None:
    """What stays stays in its order; another VM's is refused, and nothing is kept then."""
    one, two, three = (Publish("tcp", None, 8080 + n, 80 + n) for n in range(3))
    interface = claim(lan, "web", network(), ports=(one, two))[0]
    claim(lan, "other", network(), ports=(three,))
    moved = one._replace(guest_port=90)
    with lan.transaction() as sql:
        leases.set_ports(sql, "id-web", [interface._replace(publish=(two, moved))])
    with lan.reading() as sql:
        assert records.get_vm(sql, "web").interfaces[0].publish == (two, moved)
    with pytest.raises(Conflict, match="other"), lan.transaction() as sql:
        leases.set_ports(sql, "id-web", [interface._replace(publish=(moved, three))])
    with lan.reading() as sql:
        assert records.get_vm(sql, "web").interfaces[0].publish == (two, moved)
    with lan.transaction() as sql:
        leases.set_ports(sql, "id-web", [interface._replace(publish=())])
    with lan.reading() as sql:
        assert records.get_vm(sql, "web").interfaces[0].publish == ()


def test_a_port_goes_from_one_interface_to_another(store: Store) -> None:
    """In one transaction: it is never its own conflict."""
    add_network(store, network())
    back = network("back", "10.78.0.0/24")
    add_network(store, back)
    port = Publish("tcp", None, 8080, 80)
    first, second = claim(store, "web", network(), back)
    with store.transaction() as sql:
        leases.set_ports(sql, "id-web", [first._replace(publish=(port,)), second])
    moved = [first._replace(publish=()), second._replace(publish=(port,))]
    with store.transaction() as sql:
        leases.set_ports(sql, "id-web", moved)
    with store.reading() as sql:
        shown = records.get_vm(sql, "web").interfaces
    assert [i.publish for i in shown] == [(), (port,)]


@given(
    st.sets(st.integers(1, 14)),
    st.lists(st.integers(-2, 16) | st.sampled_from([1 << 62, 1 << 70]), max_size=5),
)
@settings(max_examples=150)
def test_counting_finds_what_listing_would(leased: set[int], taken: list[int]) -> None:
    """The smallest offset from 1 that nobody has, also where the host has one that is leased."""
    sql = sqlite3.connect(":memory:")
    sql.execute("CREATE TABLE lease (network TEXT, family INTEGER, offset INTEGER)")
    sql.executemany("INSERT INTO lease VALUES ('id-lan', 4, ?)", [(n,) for n in leased])
    sql.executemany("INSERT INTO lease VALUES (?, ?, ?)", [("id-lan", 6, 1), ("other", 4, 2)])
    lan = network()._replace(id="id-lan")
    expected = next(n for n in range(1, 99) if n not in leased and n not in taken)
    assert leases._lowest_free(sql, lan, 4, sorted(taken)) == expected
    sql.close()


# -- what it costs -------------------------------------------------------------------------------------


def test_a_further_vm_of_a_network_takes_few_calls_and_statements(lan: Store) -> None:
    """A thousand VMs made at once pay each of them: what all have in common is read once."""
    claim(lan, "first", network())
    statements: list[str] = []
    with lan.transaction() as sql:
        records.add_vm(sql, vm("second"), 1)
        sql.set_trace_callback(statements.append)
        wanted = [leases.Claim(network(), "06:00:00:00:00:99", None, None)]
        try:
            found, calls = counted(partial(leases.claim, sql, "id-second", wanted))
        finally:
            sql.set_trace_callback(None)
    assert found[0].ipv4 == "10.77.0.3"
    assert calls <= 50, calls  # 93 where addresses are read again for each
    assert len(statements) <= 7, statements
