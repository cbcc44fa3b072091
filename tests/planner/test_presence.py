"""Is what a row speaks of there? One verdict for each row; what could not be read is unknown."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import Any

import pytest

from hvtx.model.place import nft_place
from hvtx.model.plan import Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import BRIDGE_GROUP, Address, Entry, Kind, Resource, State
from hvtx.planner.gc import plan_gc
from hvtx.planner.presence import Presence, index, presence
from tests.fake.calls import counted
from tests.planner.scene import NOW, OURS, Scene, link, mark

MAC = "02:00:00:00:00:01"
PLACE, TEXT = nft_place("inet", "mine", "set"), "10.77.0.2"


def row(kind: str, state: str = State.COMMITTED, **spec: Any) -> Resource:
    key = str(spec.get("device") or spec.get("path") or kind)
    return Resource(10, kind, key, state, mark(10), spec, {}, 1, NOW.id, "vm", None)


def snapshot(**seen: Any) -> Snapshot:
    nothing: dict[str, Any] = {
        **dict.fromkeys(("links", "addresses", "entries"), ()),
        **dict.fromkeys(("expected", "files", "failures", "holders"), MappingProxyType({})),
        **dict.fromkeys(("tombstones", "vms", "networks", "operations"), MappingProxyType({})),
    }
    return Snapshot(**{**nothing, "filtered": frozenset(), **seen, "installation": OURS,
                       "life": NOW, "rows": ()})  # fmt: skip


def verdict(of: Resource, **seen: Any) -> Presence:
    taken = snapshot(**seen)
    return presence(of, taken, index(taken))


TAP = row(Kind.TAP, device="hvtap0", ifindex=5)
BRIDGE = row(Kind.BRIDGE, State.INTENDED, device="hvbr0", ifindex=5, mac=MAC)
RULES = row(Kind.FILTER, backend="nftables")
ADDRESS = row(Kind.ADDRESS, ifindex=5, address="10.77.0.1/24", device="hvbr0", owner=mark(9))
FILE = row(Kind.FILE, path="/etc/x.conf")


@pytest.mark.parametrize(
    ("of", "area"),
    [(TAP, "links"), (BRIDGE, "links"), (RULES, "nftables"), (ADDRESS, "addresses"),
     (ADDRESS, "links"), (FILE, "/etc/x.conf")],
)  # fmt: skip
def test_what_could_not_be_read_is_unknown_and_never_absent(of: Resource, area: str) -> None:
    found = verdict(of, failures={area: "EPERM"})
    assert (found.here, found.evidence, found.problem) == (None, ("EPERM",), None)


@pytest.mark.parametrize("of", [TAP, BRIDGE, RULES, ADDRESS, FILE])
def test_what_was_read_and_not_found_is_absent(of: Resource) -> None:
    found = verdict(of)
    assert (found.here, found.problem) == (False, None)


def test_a_row_without_an_object_of_its_own_is_there() -> None:
    assert verdict(row(Kind.LEASE), failures={"links": "EPERM"}) == Presence(True, ())


def test_a_device_is_there_with_its_index_kind_and_mark() -> None:
    for name, words in (("hvtap0", 0), ("renamed", 1)):
        found = verdict(TAP, links=(link(5, name, alias=TAP.mark),))
        assert (found.here, found.problem, found.complete) == (True, None, True)
        assert ("renamed to renamed" in found.evidence) is bool(words)


@pytest.mark.parametrize(
    "other",
    [
        link(5, "hvtap0"),
        link(5, "hvtap0", alias=mark(11)),
        link(5, "hvtap0", "bridge", mark(10)),
        link(6, "hvtap0", alias=mark(10)),
    ],
    ids=["no mark", "another mark", "another kind", "another index"],
)
def test_a_device_that_is_not_proven_the_one_of_the_row_is_a_mismatch(other: Any) -> None:
    found = verdict(TAP, links=(other,))
    assert (found.here, found.problem, found.link) == (None, Reason.MARK_MISMATCH, other)


def test_a_bridge_before_its_mark_is_known_by_group_and_mac_until_it_is_committed() -> None:
    seen = link(5, "hvbr0", "bridge", group=BRIDGE_GROUP, mac=MAC)
    found = verdict(BRIDGE, links=(seen,))
    assert (found.here, found.complete) == (True, False)
    for of, other in (
        (BRIDGE._replace(state=State.COMMITTED), seen),
        (BRIDGE, seen._replace(mac="02:00:00:00:00:02")),
        (BRIDGE, seen._replace(group=0)),
    ):
        assert verdict(of, links=(other,)).problem is Reason.MARK_MISMATCH


def test_rules_are_complete_where_every_expected_entry_has_the_mark() -> None:
    one = Entry("nftables", PLACE, TEXT, RULES.mark)
    two = one._replace(place=nft_place("inet", "mine", "other"))
    for seen, here, complete in (
        ((one, two), True, True),
        ((one,), True, False),
        ((), False, True),
    ):
        found = verdict(RULES, entries=seen, expected={10: (one, two)})
        assert (found.here, found.complete, found.problem) == (here, complete, None)


@pytest.mark.parametrize(
    ("carried", "reason"), [(None, Reason.MARK_STRIPPED), (mark(11), Reason.MARK_MISMATCH)]
)
def test_an_entry_of_the_same_shape_without_our_mark_is_told(
    carried: str | None, reason: Reason
) -> None:
    one = Entry("nftables", PLACE, TEXT, RULES.mark)
    found = verdict(RULES, entries=(one._replace(mark=carried),), expected={10: (one,)})
    assert (found.here, found.problem) == (None, reason)


def test_a_changed_copy_of_an_imported_rule_is_told_and_of_our_own_is_absent() -> None:
    one = Entry("nftables", PLACE, TEXT, RULES.mark)
    changed = one._replace(text="10.77.0.3")
    imported = RULES._replace(spec={"backend": "nftables", "imported": True})
    assert (
        verdict(imported, entries=(changed,), expected={10: (one,)}).problem is Reason.EDITED_COPY
    )
    assert verdict(RULES, entries=(changed,), expected={10: (one,)}).here is False


def test_an_element_of_ours_that_leads_elsewhere_is_not_gone() -> None:
    """Its key is taken; another key with the mark is a copy beside it, which is nobody's obstacle."""
    one = Entry("nftables", PLACE, "tcp 80 -> 10.77.0.2:80", RULES.mark)
    two = one._replace(text="tcp 81 -> 10.77.0.2:80")
    edited, beside = (
        one._replace(text="tcp 80 -> 10.77.0.9:80"),
        one._replace(text="tcp 9 -> 10.77.0.2:80"),
    )
    for seen, problem in (
        ((edited,), Reason.EDITED_COPY),
        ((edited, two), Reason.EDITED_COPY),
        ((beside,), None),
        ((edited._replace(mark=mark(11)),), None),
    ):
        found = verdict(RULES, entries=seen, expected={10: (one, two)})
        assert (found.here, found.problem) == (None if problem else False, problem)


def test_an_address_is_ours_on_a_device_with_its_networks_mark() -> None:
    seen = (Address(5, "10.77.0.1/24"),)
    bridge = link(5, "hvbr0", "bridge", mark(9))
    assert verdict(ADDRESS, addresses=seen, links=(bridge,)).here is True
    for links in ((), (bridge._replace(alias=None),)):
        assert verdict(ADDRESS, addresses=seen, links=links).problem is Reason.MARK_MISMATCH
    assert verdict(ADDRESS, addresses=(Address(6, "10.77.0.1/24"),), links=(bridge,)).here is False


def test_a_file_is_ours_with_its_mark() -> None:
    assert verdict(FILE, files={"/etc/x.conf": FILE.mark}).here is True
    assert verdict(FILE, files={"/etc/x.conf": ""}).problem is Reason.MARK_MISMATCH


def test_rules_of_a_table_that_are_as_recorded_cost_a_plan_no_call_each() -> None:
    """Every host has some 250 of them, without a single VM."""
    few = [_calls_of_a_plan(_with_rules(20)) for _ in range(3)]  # the first also fill what is kept
    assert _calls_of_a_plan(_with_rules(200)) <= few[-1] + 20  # a finalizer of somebody's may run


def _with_rules(number: int) -> Snapshot:
    """Handles are the kernel's, which no row knows."""
    where = nft_place("inet", "mine", "chain")
    wanted = tuple(Entry("nftables", where, f"rule {n}", RULES.mark) for n in range(number))
    seen = tuple(entry._replace(handle=n + 1) for n, entry in enumerate(wanted))
    return snapshot(entries=seen, expected={RULES.id: wanted})._replace(rows=(RULES,))


def test_a_dead_vm_costs_a_plan_so_many_calls_whatever_the_tables() -> None:
    """Those that a base row's users are told by are looked through once, not for each table."""
    for _ in range(3):
        _calls_of_a_plan(_dead(20, tables=3))  # fills what is kept
    one, three = ((_calls_of_a_plan(_dead(120, tables=n)) - _calls_of_a_plan(_dead(20, tables=n))) / 100
                  for n in (1, 3))  # fmt: skip
    assert three <= one + 0.2
    assert one <= 125, one  # for six rows


def _dead(number: int, *, tables: int) -> Snapshot:
    scene = Scene()
    network = scene.network()
    scene.show(*[scene.row(Kind.FILTER, what="base", families=["inet"]) for _ in range(tables)])
    for n in range(number):
        own: dict[str, Any] = {"vm": scene.vm(f"vm{n}"), "network": network}
        kinds = (Kind.TAP, Kind.FILTER, Kind.PUBLISH, Kind.MASQUERADE, Kind.PROCESS)
        scene.show(*[scene.row(kind, **own) for kind in kinds])
    return scene.snapshot()


def _calls_of_a_plan(taken: Snapshot) -> int:
    """Calls of Python's own functions."""
    plan, made = counted(partial(plan_gc, taken))
    assert len(plan.items) == len(taken.rows)
    return made
