"""What of a lost installation may go: all of it, or nothing; never what others stand on."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.model.place import parse_place
from hvtx.model.plan import Action
from hvtx.model.reason import Reason
from hvtx.model.resource import Address, Entry
from hvtx.model.vm import Identity
from hvtx.planner.lost import (
    Remains,
    Service,
    containers,
    installations,
    own_addresses,
    plan_lost,
)
from tests.planner.scene import OURS, THEIRS, link, mark

TAP, BRIDGE, BASE, OWN = (mark(n, installation=THEIRS) for n in (1, 2, 3, 4))
LINKS = (
    link(10, "hvbrx", "bridge", BRIDGE),
    link(11, "hvtap", "tun", TAP, master=10),
    link(12, "ours", "tun", mark(1)),
    link(13, "strange", "tun"),
)
ENTRIES = (
    Entry("nftables", parse_place(f"nft bridge hvtx-{THEIRS}"), "table", BASE),
    Entry("nftables", parse_place(f"nft bridge hvtx-{THEIRS} guard"), "abc", BASE, 7),
    Entry("nftables", parse_place(f"nft inet hvtx-{THEIRS} masq4"), "10.0.0.2", OWN),
    Entry("nftables", parse_place(f"nft inet hvtx-{OURS} masq4"), "10.1.0.2", mark(5)),
    Entry("iptables", parse_place("iptables nat POSTROUTING"), "-j MASQUERADE", None, 0, True),
)
ADDRESSES = (Address(10, "10.77.0.1/24"), Address(10, "fe80::1/64"), Address(10, "fd77::1/64"))


def remains(**more: Any) -> Remains:
    values: dict[str, Any] = {
        "installation": THEIRS, "links": LINKS, "addresses": ADDRESSES, "filtered": (),
        "entries": ENTRIES, "holders": {}, "objections": (), **more,
    }  # fmt: skip
    return Remains(**values)


def verdicts(seen: Remains) -> dict[str, tuple[Action, Reason]]:
    return {item.key: (item.action, item.reason) for item in plan_lost(seen).items}


DELETE = (Action.DELETE, Reason.OTHER_INSTALLATION)
KEEP = (Action.SKIP, Reason.OTHER_INSTALLATION)


def test_all_of_it_and_nothing_else_in_order() -> None:
    """TAPs, elements, bridges, and the tables last; of others, ours among them, nothing."""
    plan = plan_lost(remains())
    table = f"nft bridge hvtx-{THEIRS}: table"
    element = f"nft inet hvtx-{THEIRS} masq4: 10.0.0.2"
    assert [item.key for item in plan.items] == ["hvtap", element, "hvbrx", table]
    assert set(verdicts(remains()).values()) == {DELETE}
    assert [len(item.more) for item in plan.items] == [0, 0, 0, 1]


def test_a_dnsmasq_of_it_goes_before_its_rules() -> None:
    """It is listed, by what it reads; what speaks for the installation keeps it too."""
    path = f"/run/hvtx/{THEIRS}/networks/n/dnsmasq.conf"
    serving = (Service(Identity("boot", 77, 1234), path),)
    assert serving[0].run_directory == "/run/hvtx"
    plan = plan_lost(remains(services=serving))
    assert [item.key for item in plan.items][:2] == ["hvtap", "dnsmasq, pid 77"]
    first = plan.items[1]
    assert (first.kind, first.action, first.reason, first.mark) == ("process", *DELETE, None)
    assert first.evidence == (f"it reads {path}", "it started at tick 1234")
    kept = plan_lost(remains(services=serving, objections=("its store is /x/hvtx.db",)))
    assert kept.items[1].action is Action.SKIP
    assert kept.items[1].message == "it stays: its store is /x/hvtx.db"


def test_one_objection_keeps_all() -> None:
    seen = remains(objections=("its store is /x/hvtx.db",))
    assert set(verdicts(seen).values()) == {KEEP}
    assert all("/x/hvtx.db" in item.message for item in plan_lost(seen).items)


def test_a_held_device_is_named() -> None:
    seen = remains(holders={"hvtap": ("qemu (pid 7)",)})
    assert verdicts(seen)["hvtap"] == (Action.SKIP, Reason.IN_USE)
    assert verdicts(seen)[f"nft bridge hvtx-{THEIRS}: table"] == KEEP


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"addresses": (*ADDRESSES, Address(10, "192.0.2.9/24"))}, "hvbrx"),
        ({"addresses": (*ADDRESSES, Address(10, "192.0.2.1/24"))}, "hvbrx"),  # two candidates
        ({"addresses": (*ADDRESSES, Address(11, "10.9.9.9/32"))}, "hvtap"),
        ({"links": (*LINKS, link(20, "vlan", "vlan", lower=11))}, "hvtap"),
        ({"links": (*LINKS, link(20, "eth1", "veth", master=10))}, "hvbrx"),
        ({"filtered": (11,)}, "hvtap"),
    ],
)
def test_what_others_put_on_top_keeps_it(more: dict[str, Any], key: str) -> None:
    found = verdicts(remains(**more))
    assert found[key] == (Action.SKIP, Reason.FOREIGN_DEPENDENTS)
    assert found[f"nft bridge hvtx-{THEIRS}: table"] == KEEP  # it tells whose the rest is
    assert found[f"nft inet hvtx-{THEIRS} masq4: 10.0.0.2"] == DELETE


def test_a_containers_interface_is_a_port_of_its_own_and_speaks_for_its_life() -> None:
    """It is listed, and keeps all; its bridge has no port of somebody else's."""
    pair = link(14, "hvpair", "veth", mark(6, installation=THEIRS), master=10)
    ours = link(15, "ours2", "veth", mark(7), master=10)
    words = containers((*LINKS, pair, ours), THEIRS)
    assert words == ["a container has an interface of it: hvpair"]
    seen = remains(links=(*LINKS, pair), objections=tuple(words))
    assert verdicts(seen)["hvpair"] == KEEP
    assert verdicts(seen)["hvbrx"] == KEEP
    listed = next(item for item in plan_lost(seen).items if item.key == "hvpair")
    assert (listed.kind, listed.message) == ("veth", f"it stays: {words[0]}")


def test_a_bridges_own_addresses() -> None:
    assert own_addresses(["10.77.0.1/24", "fd77::1/64", "fe80::9/64"]) == [
        "10.77.0.1/24", "fd77::1/64", "fe80::9/64",
    ]  # fmt: skip
    assert own_addresses(["10.77.0.7/24"]) == []
    assert own_addresses(["10.77.0.1/24", "10.78.0.1/24"]) == []


def test_who_is_named() -> None:
    assert installations(LINKS, ENTRIES) == {OURS, THEIRS}
