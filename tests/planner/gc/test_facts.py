"""Facts of many networks are looked up, and are those that a search through all rows finds."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hvtx.model.resource import Address, Kind, Resource
from hvtx.planner.gc.facts import Facts
from tests.planner.scene import Scene, link

_FEW = st.integers(1, 3)


@st.composite
def scenes(draw: Any) -> Scene:
    """Bridges and addresses of few indexes, so that some collide, with things that others put on."""
    scene = Scene()
    for number in range(draw(st.integers(0, 4))):
        network = scene.network(f"net{number}", f"10.{number}.0.0/24")
        index = draw(_FEW)
        bridge = scene.row(Kind.BRIDGE, network=network, ifindex=index)
        spec = {"ifindex": index, "device": bridge.key, "owner": bridge.mark}
        for _ in range(draw(st.integers(0, 2))):
            address = f"10.{draw(st.integers(0, 2))}.0.1/24"
            scene.row(Kind.ADDRESS, network=network, **spec, address=address)
    for index in draw(st.sets(_FEW)):
        scene.links.append(link(index, f"br{index}", kind="bridge"))
        scene.links.append(link(10 + index, f"eth{index}", kind="", master=index))
    for index, number in draw(st.lists(st.tuples(_FEW, st.integers(0, 2)), max_size=4)):
        scene.addresses.append(Address(index, f"10.{number}.0.1/24"))
    return scene


@given(scenes())
def test_what_is_looked_up_is_what_a_search_finds(scene: Scene) -> None:
    facts = Facts(scene.snapshot())
    rows = facts.snapshot.rows
    bridges = [row for row in rows if row.kind == Kind.BRIDGE]
    for row in rows:
        seen = facts.presences[row.id]
        if row.kind == Kind.ADDRESS:
            first = next((b for b in bridges if b.ifindex == row.ifindex), None)
            assert facts.others_on(row, seen) == on(facts, first)
            there = any(
                (a.ifindex, a.address) == (row.spec["ifindex"], row.spec["address"])
                for a in facts.snapshot.addresses
            )
            assert (seen.here is False) == (not there)


def on(facts: Facts, bridge: Resource | None) -> list[str]:
    return [] if bridge is None else facts.dependents(bridge, facts.presences[bridge.id].link)
