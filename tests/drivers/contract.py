"""The contract of the drivers: written once, run on the fake kernel and on the real one.

A driver joins by being registered in ``hvtx.engine.registry.DRIVERS``; `CASES` must then say how a row
of its kind looks. Whoever collects these tests gives the fixture ``world``, whose others are
those of the state machine.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from hvtx.drivers.base import Host
from hvtx.engine.registry import DRIVERS, driver_name
from hvtx.errors import Conflict, HvtxError
from hvtx.model.mark import make_mark
from hvtx.model.place import nft_place
from hvtx.model.resource import Resource
from tests.machine.world import World

INSTALLATION = "abcdefghij"
BRIDGE, INDEX = "hvbrcontract", 1 << 24
TAP, TAP_INDEX = "hvcontracttap", (1 << 24) + 1
VETH, VETH_INDEX, NSID = "hvcontractveth", (1 << 24) + 2, 4711
GUEST = "10.77.0.2"

Bench = tuple[Any, list[Resource]]


def mark(number: int, nonce: bytes = b"a") -> str:
    """A mark of this installation."""
    return make_mark(INSTALLATION, number, nonce * 10)


def row(number: int, kind: str, key: str, spec: dict[str, Any], **more: Any) -> Resource:
    """A row as the store would hold it."""
    return Resource(
        number, kind, key, "intended", mark(number), spec, {}, 1, 1, None, None
    )._replace(**more)


def bridge_row() -> Resource:
    addresses = ["10.77.0.1/24"]
    spec = {"device": BRIDGE, "ifindex": INDEX, "mac": "02:00:00:00:00:01", "mtu": 1500}
    return row(1, "bridge", BRIDGE, {**spec, "addresses": addresses})


def tap_row() -> Resource:
    spec = {"device": TAP, "ifindex": TAP_INDEX, "bridge": BRIDGE, "master": INDEX}
    return row(2, "tap", TAP, {**spec, "mtu": 1500, "mac": "fe:00:00:00:00:02"})


def netns_row(world: World) -> Resource:
    return row(11, "netns", "namespace", {"nsid": NSID, "path": world.container()})


def veth_row(world: World) -> Resource:
    spec = {"device": VETH, "ifindex": VETH_INDEX, "bridge": BRIDGE, "master": INDEX, "mtu": 1500}
    peer = {"peer": "eth0", "peer_mac": "02:00:00:00:00:0c", "netns": world.container()}
    addresses = [[f"{GUEST}/24", "10.77.0.1"]]
    more = {"mac": "fe:00:00:00:00:0c", "peer_addresses": addresses, "nsid": NSID}
    return row(12, "veth", VETH, {**spec, **peer, **more})


def address_row() -> Resource:
    spec = {"device": BRIDGE, "ifindex": INDEX, "owner": mark(1), "address": "10.77.0.1/24"}
    return row(3, "address", spec["address"], spec)  # type: ignore[arg-type]


def base_row(backend: str) -> Resource:
    return row(4, "filter", f"{backend} base", {"backend": backend, "what": "base"})


def guest_row(backend: str, number: int = 5, address: str = GUEST) -> Resource:
    spec = {"backend": backend, "what": "masquerade", "address": address, "bridge": BRIDGE}
    return row(number, "masquerade", address, spec)


def sysctl_row() -> Resource:
    spec = {"path": "net/ipv4/ip_forward", "value": "1", "before": "0"}
    return row(6, "sysctl", "net.ipv4.ip_forward", spec)


def file_row(world: World) -> Resource:
    path = str(world.runs / INSTALLATION / "vms" / "one")
    return row(7, "file", path, {"path": path})


def directory_row(world: World) -> Resource:
    path = str(world.runs / INSTALLATION / "networks" / "one")
    return row(8, "file", path, {"path": path}, network="one")


def reservation_row(world: World) -> Resource:
    path = f"{directory_row(world).key}/hosts/vm-0"
    own = {"name": "web", "mac": "02:00:00:00:00:09", "ipv4": GUEST, "ipv6": None}
    return row(9, "file", path, {"path": path, "reservation": own}, vm="vm", network="one")


def dnsmasq_row(world: World) -> Resource:
    spec = {"hypervisor": "dnsmasq", "directory": directory_row(world).key, "bridge": BRIDGE}
    more = {"mtu": 1500, "subnets": ["10.77.0.0/24"], "gateways": ["10.77.0.1"]}
    return row(10, "process", "dnsmasq net", {**spec, **more}, network="one")


def zone_row() -> Resource:
    spec = {"backend": "firewalld", "what": "passage", "bridge": BRIDGE}
    return row(13, "filter", f"zone hvtx of {BRIDGE}", spec)


# what must be there before, and the row itself
CASES: dict[str, Callable[[World], tuple[list[Resource], Resource]]] = {
    "bridge": lambda world: ([], bridge_row()),
    "tap": lambda world: ([bridge_row()], tap_row()),
    "netns": lambda world: ([], netns_row(world)),
    "veth": lambda world: ([bridge_row(), netns_row(world)], veth_row(world)),
    "address": lambda world: ([bridge_row()], address_row()),
    "sysctl": lambda world: ([], sysctl_row()),
    "file": lambda world: ([], file_row(world)),
    "reservation": lambda world: ([directory_row(world)], reservation_row(world)),
    "dnsmasq": lambda world: (
        [bridge_row(), address_row(), directory_row(world)],
        dnsmasq_row(world),
    ),
    "nftables": lambda world: ([base_row("nftables")], guest_row("nftables")),
    "iptables": lambda world: ([base_row("iptables")], guest_row("iptables")),
    "firewalld": lambda world: ([bridge_row()], zone_row()),
}


def driver(world: World, name: str) -> Any:
    """A fresh driver, as the engine makes it."""
    module, _, attribute = DRIVERS[name].partition(":")
    host = Host(INSTALLATION, str(world.runs / INSTALLATION), str(world.state), 10.0)
    made = getattr(import_module(module), attribute)(host)
    world.closing.callback(_close, made)
    return made


def _close(subject: Any) -> None:
    """Close the sockets that a driver keeps for as long as its process lives."""
    for kept in (getattr(subject, "_links", None), subject):
        if hasattr(kept, "close"):
            kept.close()


def name_of(resource: Resource) -> str:
    return driver_name(resource)


def make(world: World, resource: Resource) -> Resource:
    """Make a row; it comes back as committed, with what was observed."""
    observed = driver(world, name_of(resource)).create([resource])
    assert set(observed) == {resource.id}
    return resource._replace(state="committed", observed=dict(observed[resource.id]))


def view(world: World, subject: Any) -> tuple[object, ...]:
    """The whole host, and what a firewall driver sees besides.

    But for the ids of namespaces: the kernel takes none back while its namespace is there.
    """
    seen = subject.observe() if hasattr(subject, "observe") else ()
    return (*world.look()._replace(ids=frozenset()).place(), sorted(map(repr, seen)))


def release(world: World, resource: Resource) -> Any:
    return driver(world, name_of(resource)).release([resource])[resource.id]


@pytest.fixture(params=DRIVERS)
def bench(request: pytest.FixtureRequest, world: World) -> tuple[Any, Resource]:
    """A driver of each kind, with what its row needs in place, and the row."""
    if request.param not in world.drivers:
        pytest.skip(f"the fake kernel has no {request.param}")
    before, resource = CASES[request.param](world)
    for other in before:
        make(world, other)
    return driver(world, request.param), resource


# -- every driver ----------------------------------------------------------------------------------


def test_every_driver_has_a_case() -> None:
    assert set(CASES) == set(DRIVERS)


def test_what_is_made_is_released_and_nothing_else(world: World, bench: Any) -> None:
    subject, resource = bench
    before = view(world, subject)
    made = make(world, resource)
    if made.kind != "sysctl":  # settings stay on
        assert view(world, subject) != before or made.kind in ("file", "process", "netns")
    assert subject.release([made]) == {made.id: (True, "", "")}
    assert view(world, subject) == before


def test_absent_is_gone(world: World, bench: Any) -> None:
    subject, resource = bench
    before = view(world, subject)
    assert subject.release([resource])[resource.id].gone
    assert view(world, subject) == before
    subject.release([make(world, resource)])
    assert subject.release([resource])[resource.id].gone


def test_what_exists_is_refused_and_left_alone(world: World, bench: Any) -> None:
    subject, resource = bench
    make(world, resource)
    if resource.kind == "sysctl" or name_of(resource) == "iptables":
        return  # a setting that is on is on; a rule beside an equal one is another rule
    if resource.kind in ("process", "netns"):
        return  # one that waits has no port yet; an id is given once, and found from then on
    before = view(world, subject)
    again = resource._replace(id=90, mark=mark(90))
    if resource.kind == "address":  # on a bridge with our mark an equal one is ours
        subject.create([again])
    else:
        with pytest.raises(HvtxError):
            subject.create([again])
    assert view(world, subject) == before


def test_another_mark_releases_nothing(world: World, bench: Any) -> None:
    subject, resource = bench
    if resource.kind in ("process", "netns"):
        return  # it is known by boot, pid and start, or by its id, and carries no mark
    made = make(world, resource)
    before = view(world, subject)
    other = made._replace(mark=mark(made.id, b"b"))
    if made.kind == "address":  # its mark is that of its device
        other = made._replace(spec={**made.spec, "owner": other.mark})
    outcome = subject.release([other])[made.id]
    assert view(world, subject) == before
    if made.kind != "sysctl" and name_of(made) != "iptables":
        assert (outcome.gone, outcome.reason) == (False, "mark-mismatch")
        assert outcome.message
    assert subject.release([made])[made.id].gone


# -- drivers that exchange -------------------------------------------------------------------------

EXCHANGING = ("nftables", "iptables")


@pytest.fixture(params=EXCHANGING)
def firewall(request: pytest.FixtureRequest, world: World) -> tuple[str, list[Resource]]:
    """A backend with its base, and three guests' rows, of which the first two are made."""
    backend = str(request.param)
    if backend not in world.drivers:
        pytest.skip(f"the fake kernel has no {backend}")
    make(world, base_row(backend))
    rows = [guest_row(backend, number, f"10.77.0.{number}") for number in (5, 6, 7)]
    return backend, [*(make(world, row) for row in rows[:2]), rows[2]]


def marks_of(world: World, backend: str) -> list[str]:
    found = driver(world, backend).observe()
    own = {mark(number) for number in (5, 6, 7, 90)}
    return sorted(entry.mark for entry in found if entry.mark in own)


def test_some_take_the_place_of_others(world: World, firewall: Any) -> None:
    """What is on neither side stays; given again, nothing changes."""
    backend, (goes, stays, comes) = firewall
    subject = driver(world, backend)
    for _ in range(2):
        assert set(subject.exchange([goes], [comes])) == {comes.id}
        assert marks_of(world, backend) == [stays.mark, comes.mark]
    made = comes._replace(observed=dict(subject.exchange([], [comes])[comes.id]))
    assert subject.release([made, stays]) == {made.id: (True, "", ""), stays.id: (True, "", "")}
    assert marks_of(world, backend) == []


def test_the_same_place_changes_hands(world: World, firewall: Any) -> None:
    """A row with what another has, and a mark of its own, while that one goes."""
    backend, (goes, stays, _) = firewall
    subject = driver(world, backend)
    heir = goes._replace(id=90, mark=mark(90), observed={})
    for _ in range(2):
        subject.exchange([goes], [heir])
        assert marks_of(world, backend) == [stays.mark, heir.mark]
    subject.exchange([heir._replace(observed=goes.observed)], [goes])
    assert marks_of(world, backend) == [goes.mark, stays.mark]


def test_what_is_killed_half_way_goes_as_a_whole(world: World, firewall: Any) -> None:
    """Both rows of one place are released together: it carries the mark of one of them."""
    backend, (goes, stays, _) = firewall
    subject = driver(world, backend)
    heir = goes._replace(id=90, mark=mark(90), observed={})
    subject.exchange([goes], [heir])
    outcomes = subject.release([goes, heir])
    assert all(outcome.gone for outcome in outcomes.values()), outcomes
    assert marks_of(world, backend) == [stays.mark]


def test_what_is_gone_already_is_no_obstacle(world: World, firewall: Any) -> None:
    backend, (goes, stays, comes) = firewall
    subject = driver(world, backend)
    assert subject.release([goes])[goes.id].gone
    subject.exchange([goes], [comes])
    assert marks_of(world, backend) == [stays.mark, comes.mark]
    assert subject.exchange([goes], []) == {}


def test_nothing_changes_where_another_has_the_place(world: World) -> None:
    """Of nftables, where a place holds one element: neither comes nor goes anything."""
    make(world, base_row("nftables"))
    goes, other = (guest_row("nftables", number, f"10.77.0.{number}") for number in (5, 6))
    goes, other = make(world, goes), make(world, other)
    subject = driver(world, "nftables")
    comes = other._replace(id=90, mark=mark(90), observed={})
    before = view(world, subject)
    with pytest.raises(Conflict):
        subject.exchange([goes], [comes])
    theirs = make_mark("zzzzzzzzzz", 6, b"b" * 10)
    with pytest.raises(Conflict):  # what was made, and carries somebody else's mark by now
        subject.exchange([other._replace(mark=theirs)], [])
    subject.exchange([other._replace(mark=mark(6, b"b"))], [])  # another row's of ours by now
    assert view(world, subject) == before


# -- devices ---------------------------------------------------------------------------------------


@pytest.fixture
def device(world: World) -> Resource:
    """A TAP device that is made, a port of its bridge."""
    make(world, bridge_row())
    return make(world, tap_row())


def link(world: World, index: int = TAP_INDEX) -> Any:
    return world.look().links.get(index)


def test_a_device_is_made_as_recorded(world: World, device: Resource) -> None:
    seen = link(world)
    assert (seen.name, seen.kind, seen.alias) == (TAP, "tun", device.mark)
    assert (seen.master, seen.mtu, seen.mac) == (INDEX, 1500, "fe:00:00:00:00:02")
    assert (seen.up, seen.persistent, seen.tun_flags) == (True, True, 0x5002)
    bridge = link(world, INDEX)
    assert (bridge.kind, bridge.alias, bridge.mac) == ("bridge", mark(1), "02:00:00:00:00:01")
    assert (bridge.up, bridge.group) == (True, 0x68767478)


def test_a_held_device_stays(world: World, device: Resource) -> None:
    world.act("hold", device=TAP)
    outcome = release(world, device)
    assert (outcome.gone, outcome.reason) == (False, "in-use")
    assert link(world).alias == device.mark
    busy = driver(world, "tap")
    assert busy.attach([device])[device.id].reason == "in-use"
    busy.detach()
    world.act("let_go", device=TAP)
    assert link(world) is not None
    assert release(world, device).gone
    assert link(world) is None


def test_who_opened_it_last_may_have_changed_its_flags(world: World, device: Resource) -> None:
    world.act("hold", device=TAP)
    world.act("let_go", device=TAP)
    assert link(world).tun_flags == 0x1002
    assert release(world, device).gone


def test_a_seized_device_is_nobody_elses(world: World, device: Resource) -> None:
    subject = driver(world, "tap")
    assert subject.attach([device]) == {}
    other = driver(world, "tap")
    assert other.attach([device])[device.id].reason == "in-use"
    other.detach()
    subject.detach()
    assert link(world) is not None
    assert subject.attach([device]) == {}
    assert subject.release([device])[device.id].gone
    subject.detach()
    assert link(world) is None


def test_a_renamed_device_is_still_ours(world: World, device: Resource) -> None:
    world.act("rename", device=TAP, name="moved")
    assert (link(world).name, link(world).alias) == ("moved", device.mark)
    world.act("tap", name=TAP)
    assert release(world, device).gone
    names = {seen.name for seen in world.look().links.values()}
    assert TAP in names
    assert "moved" not in names


def test_a_device_that_took_the_name_stays(world: World, device: Resource) -> None:
    world.act("delete", device=TAP)
    world.act("tap", name=TAP)
    before = world.look().place()
    assert release(world, device).reason == "mark-mismatch"
    assert world.look().place() == before


@pytest.mark.parametrize("alias", ["", "hvtx:1:zzzzzzzzzz:9.aaaaaaaaaaaaaaaa", "plain"])
def test_without_our_mark_a_device_stays(world: World, device: Resource, alias: str) -> None:
    world.act("alias", device=TAP, mark=alias)
    assert link(world).alias == (alias or None)
    before = world.look().place()
    assert release(world, device).reason == "mark-mismatch"
    assert driver(world, "tap").attach([device]) == {}
    assert world.look().place() == before


def test_a_device_with_others_things_on_it_stays(world: World, device: Resource) -> None:
    world.act("vlan", device=TAP, name="upper")
    if len(world.look().links) == 4:  # some kernels have no VLANs
        assert release(world, device).reason == "foreign-dependents"
        assert release(world, bridge_row()).reason == "foreign-dependents"
        world.act("delete", device="upper")
    world.act("address", device=TAP, address="198.51.100.1/24")
    assert release(world, device).reason == "foreign-dependents"
    world.act("no_address", device=TAP, address="198.51.100.1/24")
    assert release(world, device).gone
    assert release(world, bridge_row()).gone


def test_a_bridge_with_a_strangers_port_or_address_stays(world: World, device: Resource) -> None:
    assert release(world, device).gone
    world.act("tap", name="other")
    world.act("plug", name="other", device=BRIDGE)
    assert release(world, bridge_row()).reason == "foreign-dependents"
    world.act("delete", device="other")
    world.act("address", device=BRIDGE, address="198.51.100.1/24")
    assert release(world, bridge_row()).reason == "foreign-dependents"
    world.act("no_address", device=BRIDGE, address="198.51.100.1/24")
    assert release(world, bridge_row()).gone


def test_a_bridge_takes_its_ports_membership_with_it(world: World, device: Resource) -> None:
    world.act("delete", device=BRIDGE)
    assert link(world).master == 0
    assert link(world, INDEX) is None


def test_no_bridge_no_device(world: World) -> None:
    with pytest.raises(HvtxError):
        make(world, tap_row())
    assert link(world) is None  # it lived as long as its descriptor


# -- namespaces of others --------------------------------------------------------------------------


@pytest.fixture
def pair(world: World) -> Resource:
    """A veth pair that is made, a port of its bridge."""
    make(world, bridge_row())
    make(world, netns_row(world))
    return make(world, veth_row(world))


def test_a_pair_is_made_as_recorded(world: World, pair: Resource) -> None:
    seen = link(world, VETH_INDEX)
    assert (seen.name, seen.kind, seen.alias) == (VETH, "veth", pair.mark)
    assert (seen.master, seen.mtu, seen.mac) == (INDEX, 1500, "fe:00:00:00:00:0c")
    assert (seen.up, seen.group) == (True, 0x68767478)
    cookie = pair.observed["cookie"]  # of the namespace that the peer is in
    assert pair.observed == {
        "ifindex": VETH_INDEX, "mac": "fe:00:00:00:00:0c", "guarded": False, "cookie": cookie
    }  # fmt: skip
    assert cookie > 0


def test_before_its_alias_stands_a_pair_is_told_by_mac_and_group(
    world: World, pair: Resource
) -> None:
    """As ADR 4 has it of bridges; not once it was committed, nor with another MAC address."""
    world.act("alias", device=VETH, mark="")
    assert release(world, pair).reason == "mark-mismatch"
    intended = pair._replace(state="intended")
    other = intended._replace(spec={**pair.spec, "mac": "fe:00:00:00:00:0d"})
    assert release(world, other).reason == "mark-mismatch"
    assert release(world, intended).gone
    assert link(world, VETH_INDEX) is None


def test_a_pair_with_others_things_on_it_stays(world: World, pair: Resource) -> None:
    world.act("address", device=VETH, address="198.51.100.1/24")
    assert release(world, pair).reason == "foreign-dependents"
    world.act("no_address", device=VETH, address="198.51.100.1/24")
    assert release(world, pair).gone


def test_whether_a_pair_stands_is_told_and_changes_nothing(world: World, pair: Resource) -> None:
    """Before its rules go: as long as anything may be its port, they stay."""
    veth = driver(world, "veth")
    before = view(world, veth)
    assert veth.standing([pair])[pair.id].reason == "in-use"
    world.act("alias", device=VETH, mark="theirs")
    assert veth.standing([pair])[pair.id].reason == "mark-mismatch"
    world.act("alias", device=VETH, mark=pair.mark)
    assert view(world, veth) == before
    assert release(world, pair).gone
    assert veth.standing([pair]) == {}


def test_a_pair_goes_to_the_namespace_of_its_row_alone(world: World, pair: Resource) -> None:
    """A path that leads elsewhere by now is no proof of anything."""
    assert release(world, pair).gone
    elsewhere = pair._replace(spec={**pair.spec, "nsid": NSID + 1}, state="intended")
    with pytest.raises(HvtxError, match="another network namespace"):
        make(world, elsewhere)
    assert link(world, VETH_INDEX) is None


def test_a_namespace_keeps_the_id_that_it_has(world: World, pair: Resource) -> None:
    again = netns_row(world)._replace(
        id=90, mark=mark(90), spec={**netns_row(world).spec, "nsid": 9}
    )
    with pytest.raises(HvtxError, match="by somebody else"):
        make(world, again)


# -- nf_tables -------------------------------------------------------------------------------------


@pytest.fixture
def rules(world: World) -> list[Resource]:
    """A base and a guest's element that are made."""
    return [make(world, base_row("nftables")), make(world, guest_row("nftables"))]


def observed(world: World) -> list[tuple[str, str, str | None]]:
    return sorted(
        (str(entry.place), entry.text, entry.mark or "")
        for entry in driver(world, "nftables").observe()
    )


def expected(world: World, rows: list[Resource]) -> list[tuple[str, str, str | None]]:
    say = driver(world, "nftables").expected
    return sorted((str(e.place), e.text, e.mark or "") for one in rows for e in say(one))


def test_what_is_expected_is_observed(world: World, rules: list[Resource]) -> None:
    assert observed(world) == expected(world, rules)


def test_rules_saved_and_restored_are_the_same(world: World, rules: list[Resource]) -> None:
    world.act("save")
    world.act("flush")
    assert observed(world) == []
    world.act("restore")
    assert observed(world) == expected(world, rules)


def test_rules_loaded_twice_have_copies(world: World, rules: list[Resource]) -> None:
    base, guest = rules
    world.act("save")
    world.act("load")
    whole = expected(world, rules)
    seen = observed(world)
    doubled = [entry for entry in whole if len(entry[0].split()) == 4 and entry[2] == base.mark]
    assert sorted([*whole, *doubled]) == seen
    assert driver(world, "nftables").remove_copies(base).gone
    assert observed(world) == whole
    assert release(world, guest).gone
    assert release(world, base).gone


def test_an_element_that_was_dropped_is_gone_and_fixed(world: World, rules: list[Resource]) -> None:
    table = f"hvtx-{INSTALLATION}"
    world.act("drop_element", table=table, address=GUEST)
    assert observed(world) == expected(world, rules[:1])
    assert release(world, rules[1]).gone
    subject = driver(world, "nftables")
    assert set(subject.repair([rules[1]])) == {rules[1].id}
    assert observed(world) == expected(world, rules)


def test_an_element_without_its_mark_is_left_alone(world: World, rules: list[Resource]) -> None:
    table = f"hvtx-{INSTALLATION}"
    world.act("strip_element", table=table, address=GUEST)
    before = world.look().place()
    assert release(world, rules[1]).reason == "mark-stripped"
    with pytest.raises(Conflict):
        driver(world, "nftables").repair([rules[1]])
    assert release(world, rules[0]).reason == "foreign-dependents"
    assert world.look().place() == before


def test_a_batch_is_whole_or_not_at_all(world: World, rules: list[Resource]) -> None:
    before = world.look().place()
    fresh = guest_row("nftables", 8, "10.77.0.9")
    with pytest.raises(Conflict):
        driver(world, "nftables").create([fresh, guest_row("nftables", 9)])
    assert world.look().place() == before


def test_a_base_with_others_rules_stays(world: World, rules: list[Resource]) -> None:
    assert release(world, rules[1]).gone
    world.act("rule_in_ours", table=f"hvtx-{INSTALLATION}")
    before = world.look().place()
    assert release(world, rules[0]).reason == "foreign-dependents"
    assert world.look().place() == before


def test_a_base_that_lost_a_table_is_fixed(world: World, rules: list[Resource]) -> None:
    world.act("drop_table", table=f"hvtx-{INSTALLATION}")
    assert len(observed(world)) < len(expected(world, rules))
    subject = driver(world, "nftables")
    subject.repair([rules[0]])
    subject.repair([rules[1]])
    assert observed(world) == expected(world, rules)


def test_elements_without_their_table_are_refused(world: World, rules: list[Resource]) -> None:
    world.act("flush")
    with pytest.raises(HvtxError, match="gone"):
        make(world, guest_row("nftables", 8, "10.77.0.9"))
    assert [release(world, one).gone for one in reversed(rules)] == [True, True]


def test_strangers_nat_rules_are_seen_and_not_ours(world: World, rules: list[Resource]) -> None:
    world.act("own_rules", subnet="10.77.0.0/24")
    theirs = [e for e in driver(world, "nftables").observe() if e.nat]
    assert [(e.place, e.mark) for e in theirs] == [(nft_place("ip", "strange", "nat"), None)]
    assert "10.77.0.0/24" in theirs[0].text
    assert driver(world, "nftables").remove(theirs[0]).reason == "foreign"


def test_a_copied_mark_is_removed_only_as_what_was_seen(
    world: World, rules: list[Resource]
) -> None:
    world.act("copied_mark", subnet="10.77.0.0/24", mark=rules[1].mark)
    copy = next(e for e in driver(world, "nftables").observe() if e.place.table == "strange")
    assert copy.mark == rules[1].mark
    assert release(world, rules[1]).gone
    assert any("strange" in place for place, _, _ in observed(world))
    assert driver(world, "nftables").remove(copy).gone
    assert not any("strange" in place for place, _, _ in observed(world))
