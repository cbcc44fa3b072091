"""What an operation makes and removes: by which drivers, in which order, and what it says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from hvtx.engine import effects
from hvtx.errors import HostRefused
from hvtx.model.plan import Action, Item
from hvtx.model.reason import Reason
from hvtx.model.resource import GONE, Kind, Outcome, Resource, State
from hvtx.store import records
from tests.planner.scene import link

MARK = "hvtx:1:aaaaaaaaaa:7:abcdefghijklmnop"


class Driver:
    """Says of each row what it was told to say, and notes the batches."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.batches: list[list[Resource]] = []

    def create(self, rows: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        self.batches.append(list(rows))
        return {row.id: {"made": row.key} for row in rows}

    def release(self, rows: Sequence[Resource]) -> Mapping[int, Outcome]:
        self.batches.append(list(rows))
        if self.problem is not None:
            raise self.problem
        return {row.id: GONE for row in rows}


class FakeRuntime:
    """The drivers of one operation; nothing is on record."""

    def __init__(self, **drivers: Driver) -> None:
        self.drivers = self
        self._made = drivers
        self.order: list[str] = []
        self.runtime = self

    def raise_pending_interrupt(self) -> None:
        """Nobody pressed Ctrl-C."""

    def made(self, name: str) -> Driver:
        """The driver of that name."""
        return self._made[name]

    def of(self, name: str) -> Driver:
        self.order.append(name)
        return self._made.setdefault(name, Driver())


def row(number: int, kind: Kind, **spec: Any) -> Resource:
    key = f"{kind}{number}"
    return Resource(number, kind, key, State.RELEASING, "", spec, {}, 1, 1, None, None)


BRIDGE = row(1, Kind.BRIDGE)
ADDRESS = row(2, Kind.ADDRESS, device=BRIDGE.key)
FILE = row(3, Kind.FILE)


def test_create_gives_each_driver_its_batch_in_order() -> None:
    operation: Any = FakeRuntime()
    observed = effects.create(operation, [ADDRESS, BRIDGE, FILE, row(4, Kind.LEASE)])
    assert operation.order == ["file", "bridge", "address"]
    assert observed == {n: {"made": r.key} for n, r in ((1, BRIDGE), (2, ADDRESS), (3, FILE))}


def test_remove_orders_its_rows_itself_and_counts_what_is_only_on_record_as_gone() -> None:
    operation: Any = FakeRuntime()
    outcomes = effects.remove(operation, [row(4, Kind.LEASE), FILE, ADDRESS, BRIDGE])
    assert operation.order == ["bridge", "address", "file"]
    assert outcomes == dict.fromkeys((1, 2, 3, 4), GONE)


def test_remove_goes_on_past_a_driver_that_fails_and_keeps_an_address_with_its_bridge() -> None:
    operation: Any = FakeRuntime(bridge=Driver(HostRefused("no")))
    outcomes = effects.remove(operation, [FILE, ADDRESS, BRIDGE])
    assert outcomes[1] == Outcome(False, "host-refused", "no")
    assert outcomes[2].reason == "foreign-dependents"
    assert outcomes[3] == GONE
    assert operation.order == ["bridge", "file"]


@pytest.mark.parametrize(
    ("problem", "kept"),
    [
        (HostRefused("no", code="cannot-observe"), Outcome(False, "cannot-observe", "no")),
        (
            OSError(24, "Too many open files"),
            Outcome(
                False,
                "observe-failed",
                "bridge could not be worked on: [Errno 24] Too many open files",
            ),
        ),
    ],
)
def test_an_error_of_a_driver_is_an_outcome(problem: Exception, kept: Outcome) -> None:
    """Also where no row stands for the thing: the other items of the plan are still to be done."""
    driver: Any = Driver(problem)
    assert effects.released_by(driver, [BRIDGE]) == {1: kept}
    assert effects.remove_seen(driver, seen()) == kept


class Pairs(Driver):
    """The driver of containers' ports, some of which are there."""

    def __init__(self, **standing: str) -> None:
        super().__init__()
        self.there = standing

    def release(self, rows: Sequence[Resource]) -> Mapping[int, Outcome]:
        super().release(rows)
        return {row.id: self._looked_at(row) or GONE for row in rows}

    def standing(self, rows: Sequence[Resource]) -> Mapping[int, Outcome]:
        return {row.id: why for row in rows if (why := self._looked_at(row)) is not None}

    def _looked_at(self, row: Resource) -> Outcome | None:
        why = self.there.get(row.vm or "")
        return None if why is None else Outcome(False, why, f"{row.key} stays")


class Containers(FakeRuntime):
    """The same with containers' ports on record, of this life of the host and of an earlier one."""

    def __init__(self, pairs: Pairs, *recorded: Resource, **drivers: Driver) -> None:
        super().__init__(veth=pairs, nftables=Driver(), **drivers)
        self.recorded = recorded
        self.reads: list[str] = []
        self.life = SimpleNamespace(id=1)

    def read(self, what: Any, vm: str) -> list[Resource]:
        assert what is records.resources_of_vm
        self.reads.append(vm)
        return [row for row in self.recorded if row.vm == vm]


def of_vm(vm: str, number: int, kind: Kind, **spec: Any) -> Resource:
    return row(number, kind, **spec)._replace(vm=vm)


RULES = {"backend": "nftables", "what": "guard"}
PORT = of_vm("c0", 20, Kind.VETH)
GUARDS = [of_vm("c0", 21, Kind.FILTER, **RULES), of_vm("c0", 22, Kind.LEASE)]


@pytest.mark.parametrize("named", [True, False], ids=["with its port", "without its port"])
@pytest.mark.parametrize("why", ["foreign-dependents", "mark-mismatch", "observe-failed"])
def test_a_port_that_stays_keeps_its_rules_and_its_addresses(named: bool, why: str) -> None:
    """Whether a plan wants the port to go too, or takes the rest without it."""
    operation: Any = Containers(Pairs(c0=why), PORT)
    outcomes = effects.remove(operation, [*GUARDS, PORT] if named else GUARDS)
    assert {number: outcomes[number].reason for number in (21, 22)} == dict.fromkeys((21, 22), why)
    assert outcomes[21].message == "filter21 is kept: veth20 stays"
    assert operation.made("nftables").batches == []
    assert operation.reads == ([] if named else ["c0"])


def test_where_the_port_is_gone_the_rest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another container's port keeps its own only; a port of an earlier life keeps nothing."""
    monkeypatch.setattr(effects.flows, "end", lambda addresses, later: None)
    old = of_vm("c1", 30, Kind.VETH)._replace(life=0)
    others = [of_vm("c1", 31, Kind.FILTER, **RULES), of_vm("c1", 32, Kind.LEASE)]
    operation: Any = Containers(Pairs(c1="foreign-dependents"), PORT, old)
    assert effects.remove(operation, [*GUARDS, *others]) == dict.fromkeys((21, 22, 31, 32), GONE)


def seen(kind: Kind = Kind.BRIDGE) -> Item:
    device = link(5, "hvbr", "bridge", alias=MARK)
    return Item(
        Action.DELETE,
        Reason.UNRECORDED,
        kind,
        device.name,
        None,
        0,
        None,
        (),
        "",
        MARK,
        link=device,
    )


def test_what_no_row_stands_for_goes_by_its_alias_alone() -> None:
    """A bridge that is being made is known by MAC and group too: not one that a person made."""
    driver = Driver()
    assert effects.remove_seen(driver, seen(), ["10.77.0.1/24"]) == GONE  # type: ignore[arg-type]
    thing = driver.batches[0][0]
    assert (thing.state, thing.mark) == (State.COMMITTED, MARK)
    assert thing.spec["ifindex"] == thing.observed["ifindex"] == 5
    assert thing.spec["addresses"] == ["10.77.0.1/24"]
