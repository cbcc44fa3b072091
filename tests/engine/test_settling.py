"""What is settled is found from bytes, and taken back: a plan says the same in every case."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hvtx.drivers.nftables.own_elements import OwnElements
from hvtx.engine.settling import Settling
from hvtx.host.netlink import attribute
from hvtx.host.nfbulk import Bulk, read_bulk, tail_of
from hvtx.host.nfmessages import add_element
from hvtx.host.nfnumbers import LIST_ELEMENTS
from hvtx.host.nfttext import renderer
from hvtx.model.place import nft_place
from hvtx.model.plan import Snapshot
from hvtx.model.resource import Entry, Kind, RawResource, Resource
from hvtx.model.vm import Liveness
from hvtx.planner.gc import plan_gc
from hvtx.planner.settled import carried
from hvtx.rulesets.nftables_elements import unplaced
from tests.fake.calls import counted
from tests.host.test_nfbulk import elements_in
from tests.planner.scene import Scene, link

PORT = {"what": "publish", "protocol": "tcp", "host_ip": None, "guest_port": 80}


def raw(row: Resource) -> RawResource:
    texts = (json.dumps(row.spec), json.dumps(row.observed))
    return (row.id, row.kind, row.key, row.state, row.mark, *texts, *row[7:])  # type: ignore[return-value]


class World:
    """VMs that run, each with a TAP and a published port, as the kernel has them."""

    def __init__(self, *ports: int) -> None:
        self.scene = Scene()
        self.network = self.scene.network()
        self.sets: dict[tuple[str, str], dict[bytes, tuple[bytes, str]]] = {}
        for port in ports:
            vm = self.scene.vm(f"vm{port}", Liveness.ALIVE)
            more: dict[str, Any] = {"vm": vm, "network": self.network}
            self.scene.show(self.scene.row(Kind.TAP, **more), self.scene.row(Kind.PROCESS, **more))
            row = self.row(port, vm)
            for p in unplaced(row.spec):  # type: ignore[arg-type]
                self.sets.setdefault((p.family, p.set), {})[p.key] = (p.data, row.mark)

    def row(self, port: int, vm: str, **more: Any) -> Resource:
        spec = {**PORT, "backend": "nftables", "host_port": port, "ipv4": f"10.77.0.{port}", **more}
        row = self.scene.row(Kind.PUBLISH, vm=vm, network=self.network, **spec)
        self.scene.expected[row.id] = self.wanted(row)
        return row

    def wanted(self, row: Resource) -> tuple[Entry, ...]:
        return tuple(
            self.entry(p.family, p.set, p.key, p.data, row.mark)
            for p in unplaced(row.spec)  # type: ignore[arg-type]
        )

    @staticmethod
    def entry(family: str, name: str, key: bytes, data: bytes, mark: str) -> Entry:
        where, text = nft_place(family, "hvtx-x", name), renderer(family, name)(key, data)
        return Entry("nftables", where, text, mark)

    def elements(self) -> OwnElements:
        found = OwnElements("hvtx-x")
        for (family, name), there in self.sets.items():
            columns = [(key, data, tail_of(m.encode())) for key, (data, m) in there.items()]
            assert found.add(family, name, Bulk(*map(list, zip(*columns, strict=True))))
        return found

    def whole(self) -> Snapshot:
        """As it is judged row by row."""
        self.scene.entries = sorted(self.elements().entries())
        return self.scene.snapshot()

    def settling(self) -> Settling:
        rows: dict[str, list[RawResource]] = {}
        for row in self.scene.rows:
            if row.vm:
                rows.setdefault(row.vm, []).append(raw(row))
        found, elements = Settling(self.elements()), self.elements()
        found.compare(rows, carried(self.scene.links, elements.marks(), ()))
        return found

    def brief(self, settling: Settling) -> Snapshot:
        """As it is judged with what is settled put together."""
        whole, marks = self.whole(), settling.marks
        rows = tuple(row for row in whole.rows if row.vm not in settling.vms)
        entries = tuple(entry for entry in whole.entries if entry.mark not in marks)
        return whole._replace(rows=rows, entries=entries, settled=settling.result())


def test_vms_as_recorded_are_settled_and_can_be_taken_back() -> None:
    world = World(1, 2, 3)
    settling = world.settling()
    assert {*settling.vms} == {"id-vm1", "id-vm2", "id-vm3"}
    assert list(plan_gc(world.brief(settling)).items) == list(plan_gc(world.whole()).items)
    rows, entries = settling.take_back(["id-vm2", "id-of-nobody"])
    assert {row.vm for row in rows} == {"id-vm2"}
    assert [entry.mark for entry in entries] == [r.mark for r in rows if r.kind == Kind.PUBLISH]
    assert {*settling.vms} == {"id-vm1", "id-vm3"}
    assert len(settling.links) == 2
    assert list(plan_gc(world.brief(settling)).items) == list(plan_gc(world.whole()).items)


@pytest.mark.parametrize("change", ["mark", "data", "gone", "twice", "device", "other"])
def test_what_is_not_as_recorded_is_not_settled(change: str) -> None:
    world = World(1, 2)
    there = world.sets["inet", "dnat4_any"]
    key = next(iter(there))
    data, mark = there[key]
    if change == "mark":
        there[key] = (data, mark[:-1] + "z")
    elif change == "data":
        there[key] = (data[:-3] + b"\x51\0\0", mark)
    elif change == "gone":
        del there[key]
    elif change == "twice":
        there[key[:-3] + b"\x77\0\0"] = (data, mark)
    elif change == "device":
        world.scene.links[0] = link(4711, "elsewhere", alias=world.scene.links[0].alias)
    else:
        world.scene.links.append(link(4711, "copy", alias=mark))
    assert {*world.settling().vms} == {"id-vm2"}
    assert list(plan_gc(world.brief(world.settling())).items) == list(plan_gc(world.whole()).items)


def test_what_two_rows_claim_is_judged_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look for a second claim a plan would say that the thing is gone: it is not."""
    world = World(1, 2)
    dead = world.scene.vm("dead")
    row = world.row(1, dead)

    def plans() -> tuple[list[Any], list[Any]]:
        settling = world.settling()
        settling.take_back(settling.claimed([row]))
        return list(plan_gc(world.brief(settling)).items), list(plan_gc(world.whole()).items)

    one, other = plans()
    assert one == other
    monkeypatch.setattr(Settling, "claimed", lambda self, rows: set())
    weakened, other = plans()
    assert weakened != other


def test_where_no_vm_is_left_settled_no_element_is_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A plan of a thousand dead VMs takes all of them back; nothing is anybody else's then."""
    world = World(1, 2)
    settling = world.settling()
    rows, _ = settling.take_back(list(settling.vms))

    def unasked(*_: object) -> Any:
        pytest.fail("an element was looked up")

    monkeypatch.setattr(OwnElements, "holders", unasked)
    assert settling.claimed(rows) == set()


def test_an_element_that_is_listed_twice_is_told() -> None:
    piece = unplaced({**PORT, "host_port": 1, "ipv4": "10.0.0.1"})[0]  # type: ignore[typeddict-item]
    body = elements_in(add_element(piece, "hvtx:1:x:1").body)
    raw_twice = [
        bytes(4) + attribute(LIST_ELEMENTS, body),
        bytes(4) + attribute(LIST_ELEMENTS, body),
    ]
    assert not OwnElements("hvtx-x").add("inet", "dnat4_any", read_bulk(raw_twice))


def test_the_catch_all_element_of_a_stranger_keeps_its_value() -> None:
    """`*` in a map of ours: what is without an element of its own goes where it says."""
    found = OwnElements("hvtx-x")
    assert found.add(
        "inet", "snat4", Bulk([b"\n\0\0\2", b""], [b"\n\0\0\1", b"\n\0\0\3"], [b"", b""])
    )
    assert [entry.text for entry in found.entries()] == ["10.0.0.2 -> 10.0.0.1", "* -> 0a000003"]


def test_an_element_more_is_the_same_few_calls_more() -> None:
    def calls(number: int) -> int:
        keys = [bytes((10, 77, n >> 8, n & 0xFF)) for n in range(number)]
        found = OwnElements("hvtx-x")
        assert found.add("inet", "masq4", Bulk(keys, [b""] * number, [b""] * number))
        found.entries()
        entries, made = counted(found.entries)
        assert len(entries) == number
        return made

    assert calls(1000) - calls(1) == 2 * 999  # the text, and the Entry
