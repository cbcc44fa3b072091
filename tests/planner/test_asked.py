"""Whom a question can be about; and that an answer says the same with the other VMs settled."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hvtx.model.plan import Snapshot
from hvtx.model.resource import Kind, RawResource
from hvtx.model.vm import Liveness
from hvtx.planner.asked import concerned
from hvtx.planner.gc import plan_gc
from hvtx.planner.identify import asks_for_rules, identify
from hvtx.planner.settled import without_settled
from hvtx.planner.subjects import ExplainFacts
from tests.planner.scene import Scene, link
from tests.planner.test_identify import PLACES, RULES
from tests.planner.test_properties import scenes
from tests.planner.test_settled import VM, raw, without

CALM = ("calm0", "calm1", "calm2")
_SPECS: dict[Kind, dict[str, Any]] = {
    Kind.PUBLISH: {"protocol": "tcp", "host_ip": None, "guest_port": 80},
}


def add_calm(scene: Scene, number: int) -> None:
    """A VM that runs with all of its things as recorded."""
    name = CALM[number]
    vm = scene.vm(name, Liveness.ALIVE)
    for kind in VM:
        more = dict(_SPECS.get(kind, {}))
        if kind == Kind.PUBLISH:
            more["host_port"] = 8080 + number
        if kind in (Kind.FILTER, Kind.PUBLISH, Kind.MASQUERADE):
            more["backend"] = "nftables"
        scene.show(scene.row(kind, vm=vm, network="net-lan", **more))
    lease = next(i for i, r in enumerate(scene.rows) if r.vm == vm and r.kind == Kind.LEASE)
    scene.rows[lease] = scene.rows[lease]._replace(key=f"10.77.0.{20 + number}")


def sight(snapshot: Snapshot) -> ExplainFacts:
    plan = plan_gc(without_settled(snapshot), everything=True)
    return ExplainFacts(snapshot, plan, (), (), RULES, PLACES, frozenset({("tcp", "::", 22)}))


def asked_of(whole: Snapshot, text: str) -> set[str]:
    rows: list[RawResource] = [raw(row) for row in whole.rows]
    heads = [(vm, facts.name, "command", False) for vm, facts in whole.vms.items()]
    return concerned(text, rows, heads, whole.links)


def texts(whole: Snapshot) -> set[str]:
    """Whatever in a world has a name."""
    found = {"22", "8080", "8081/tcp", "10.77.0.21", "10.77.0.99", "10.77.0.0/24", "net-lan", "lan"}
    found |= {word for row in whole.rows for word in (row.key, row.mark)}
    found |= {word for one in whole.links for word in (one.name, one.mac.upper(), *one.altnames)}
    found |= {word for vm, facts in whole.vms.items() for word in (vm, facts.name)}
    return found - {""}


@settings(max_examples=40, deadline=None)
@given(scenes(), st.integers(1, 3))
def test_what_is_not_asked_for_changes_no_word(scene: Scene, calm: int) -> None:
    assume(not scene.failures)
    for number in range(calm):
        add_calm(scene, number)
    whole = scene.snapshot()
    judged = sight(whole)
    told = 0
    for text in sorted(texts(whole)):
        about = {whole.vms[vm].name for vm in asked_of(whole, text)}
        narrow = sight(without(whole, *(name for name in CALM[:calm] if name not in about)))
        assert asks_for_rules(narrow, text) == asks_for_rules(judged, text)
        if not asks_for_rules(narrow, text):
            assert identify(narrow, text) == identify(judged, text)
            told += 1
    assert told > calm * len(VM)


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.network()
    for number in range(3):
        add_calm(made, number)
    return made


def _names(scene: Scene, text: str) -> set[str]:
    whole = scene.snapshot()
    return {whole.vms[vm].name for vm in asked_of(whole, text)}


@pytest.mark.parametrize(
    "text",
    ["calm1", "id-calm1", "10.77.0.21", "10.77.0.21/32", "8081", "8081/tcp", "0.0.0.0:8081"],
)  # fmt: skip
def test_a_question_is_about_one_vm(scene: Scene, text: str) -> None:
    assert _names(scene, text) == {"calm1"}


def test_each_thing_of_a_vm_is_about_it(scene: Scene) -> None:
    for row in scene.rows:
        for word in (row.key, row.mark):
            assert _names(scene, word) == {scene.vms[str(row.vm)].name}, word


def test_a_device_is_about_its_vm_by_whatever_name_it_has(scene: Scene) -> None:
    """By an alternative name, a MAC address, and where somebody has renamed it."""
    at, tap = next((i, one) for i, one in enumerate(scene.links) if one.kind == "tun")
    scene.links[at] = tap._replace(name="other", altnames=("second",), mac="fe:00:00:00:00:09")
    for text in ("other", "second", "fe:00:00:00:00:09", "FE-00-00-00-00-09"):
        assert _names(scene, text) == {"calm0"}, text


@pytest.mark.parametrize("text", ["lan", "hvbr1", "10.77.0.0/24", "22", "nft ip nat", "tap9", ""])
def test_others_and_networks_are_about_no_vm(scene: Scene, text: str) -> None:
    scene.links.append(link(900, "tap9"))
    assert _names(scene, text) == set()


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("nft ip nat", True), ("DOCKER", True), ("tcp dport 22", True), ("nowhere", True),
        ("calm1", False), ("10.77.0.21", False), ("8081", False),
    ],
)  # fmt: skip
def test_a_rule_is_asked_for_by_its_place_or_where_nothing_else_fits(
    scene: Scene, text: str, asks: bool
) -> None:
    """Only then are the elements of our own tables compared with the record."""
    assert asks_for_rules(sight(scene.snapshot()), text) is asks
