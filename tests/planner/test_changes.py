"""What a change of something living exchanges."""

from __future__ import annotations

from typing import Any

from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Publish
from hvtx.planner import changes, provision
from hvtx.planner.changes import WantedRow
from hvtx.planner.provision import ResourceSpec

from .test_provision import DEVICES, DMZ, LAN, VM

NETWORKS = {LAN.id: LAN, DMZ.id: DMZ}


def row(number: int, each: WantedRow, **more: Any) -> Resource:
    want = each.want
    return Resource(
        number, want.kind, want.key, State.COMMITTED, f"mark {number}", want.spec, {}, 1, 1,
        each.vm, each.network,
    )._replace(**more)  # fmt: skip


def up() -> list[Resource]:
    """The rows of the VM as it was started."""
    wants = provision.want_vm(
        VM, NETWORKS, bridges={LAN.id: 1, DMZ.id: 2}, devices=DEVICES, directory=None,
        process=True, flows=77,
    )  # fmt: skip
    return [row(n, WantedRow(want, VM.id, net)) for n, (want, net) in enumerate(wants, 1)]


def test_what_is_wanted_of_a_vm_that_is_up_is_what_it_has() -> None:
    """By its own devices, and with what it was started with of flows."""
    rows = up()
    own = [r for r in rows if r.kind not in (Kind.TAP, Kind.PROCESS)]
    assert [(w.want.key, w.want.spec) for w in changes.of_vm(VM, NETWORKS, rows)] == [
        (r.key, r.spec) for r in own
    ]


def test_a_vm_without_all_its_devices_has_nothing_to_be_changed() -> None:
    assert changes.of_vm(VM, NETWORKS, [r for r in up() if r.key != DEVICES[0][0]]) == []


def test_only_what_differs_is_exchanged() -> None:
    rows = up()
    first = VM.interfaces[0]
    wanted = VM._replace(
        interfaces=(
            first._replace(publish=(first.publish[1], Publish("tcp", None, 9090, 90))),
            VM.interfaces[1],
        )
    )
    before, after = (changes.of_vm(vm, NETWORKS, rows) for vm in (VM, wanted))
    gone, made = changes.difference(rows, before, after)
    assert [r.key for r in gone] == ["8080/tcp"]
    assert [w.want.key for w in made] == ["9090/tcp"]
    assert changes.difference(rows, before, before) == ((), ())


def test_rows_of_an_earlier_version_stay_as_they_are() -> None:
    """What is compared is what this version wants, not what an earlier one had made."""
    old = [r._replace(spec={**r.spec, "of old": 1}) for r in up()]
    before = changes.of_vm(VM, NETWORKS, old)
    assert changes.difference(old, before, before) == ((), ())


def _wanted(key: str, value: int) -> WantedRow:
    return WantedRow(ResourceSpec(Kind.FILTER, key, {"value": value}), "vm", "net")


def test_the_same_key_with_another_value_is_replaced() -> None:
    rows = [row(1, _wanted("a", 1)), row(2, _wanted("b", 1))]
    gone, made = changes.difference(
        rows, [_wanted("a", 1), _wanted("b", 1)], [_wanted("a", 2), _wanted("b", 1)]
    )
    assert ([r.id for r in gone], list(made)) == ([1], [_wanted("a", 2)])


def test_what_goes_and_is_not_on_record_has_gone() -> None:
    assert changes.difference([], [_wanted("a", 1)], []) == ((), ())
    moving = row(1, _wanted("a", 1), state=State.RELEASING)
    assert changes.difference([moving], [_wanted("a", 1)], []) == ((), ())


def test_what_comes_and_is_there_under_its_name_is_replaced() -> None:
    rows = [row(1, _wanted("a", 3))]
    assert changes.difference(rows, [], [_wanted("a", 2)]).gone == tuple(rows)


def test_a_network() -> None:
    rows = [row(1, WantedRow(want, None, LAN.id)) for want in provision.network_rules(LAN, 99)]
    before = changes.of_network(LAN, rows)
    gone, made = changes.difference(
        rows, before, changes.of_network(LAN._replace(isolate=not LAN.isolate), rows)
    )
    assert list(gone) == rows
    assert made[0].want.spec == {**rows[0].spec, "isolate": not LAN.isolate}
