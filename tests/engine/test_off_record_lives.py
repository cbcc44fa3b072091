"""Who lives and is on no record, and what is said where that cannot be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hvtx.engine import off_record_lives
from hvtx.engine.off_record_lives import OffRecordLives
from hvtx.host.installation_processes import Users
from hvtx.host.openfiles import Holder, Holders
from hvtx.model.resource import Kind, Link, Outcome, Resource, State
from hvtx.store import records
from tests.planner.scene import OURS, THEIRS, link, mark

OWN = Resource(1, Kind.TAP, "own", State.COMMITTED, mark(1), {}, {}, 1, 1, "web", None)
LINKS = (
    link(3, "own", alias=mark(1)),
    link(4, "lost", alias=mark(2)),
    link(5, "lost2", alias=mark(3)),
    link(6, "theirs", alias=mark(2, installation=THEIRS)),
    link(7, "pair", "veth", mark(4, installation=THEIRS)),
    link(8, "strange"),
)


class FakeRuntime:
    """A record with one device, and devices of which somebody may hold some."""

    def __init__(self) -> None:
        self.tombstones: dict[str, Any] = {}
        self.held: set[str] = set()
        self.attached: list[str] = []

    def read(self, ask: Any, *_: Any) -> Any:
        return [OWN] if ask is records.resources_of_kind else self.tombstones

    def devices(self) -> FakeRuntime:
        return self

    def attach(self, rows: Sequence[Resource]) -> dict[int, Outcome]:
        self.attached += [row.key for row in rows]
        busy = [row for row in rows if row.key in self.held]
        return {row.id: Outcome(False, "in-use", f"{row.key} is held open") for row in busy}

    def detach(self) -> None:
        self.attached.append("let go")


class World:
    """What the looks see."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.links: tuple[Link, ...] = LINKS
        self.started: Users | OSError = Users((), True)
        self.holders = Holders({}, True)
        patch.setattr(off_record_lives.devices, "every", lambda: self.links)
        patch.setattr(off_record_lives.installation_processes, "with_other_taps", self._started)
        patch.setattr(off_record_lives.openfiles, "tap_holders", lambda _: self.holders)
        patch.setattr(off_record_lives, "_FRESH", -1.0)

    def _started(self, _: Any) -> Users:
        if isinstance(self.started, OSError):
            raise self.started
        return self.started


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def lives_of(runtime: FakeRuntime) -> OffRecordLives:
    made: Any = runtime.devices
    return OffRecordLives(OURS, runtime.read, made)


def said(lives: OffRecordLives) -> tuple[str, str]:
    found = lives.objection()
    return ("", "") if found is None else (found.reason, found.message)


def test_where_nobody_lives_each_device_was_attached_to_once(world: World) -> None:
    """Only this installation's that are on no record."""
    runtime = FakeRuntime()
    lives = lives_of(runtime)
    assert lives.objection() is None
    assert lives.objection() is None
    assert runtime.attached == ["lost", "lost2", "let go"]


def test_a_device_that_is_held_unseen_keeps_all(world: World) -> None:
    runtime = FakeRuntime()
    runtime.held = {"lost2"}
    lives = lives_of(runtime)
    for _ in range(2):
        assert said(lives) == ("in-use", "stays: lost2 is held open")
    runtime.held = set()
    assert lives.objection() is None


def test_who_holds_a_device_is_named(world: World) -> None:
    world.holders = Holders({"lost": (Holder(7, "qemu"),)}, False)
    assert said(lives_of(FakeRuntime()))[1].endswith("lives: qemu (pid 7)")


def test_processes_that_cannot_be_looked_into_are_not_none(world: World) -> None:
    """One that was started as a VM may have no device open; who has one is met by attaching."""
    world.holders = Holders({}, False)
    assert lives_of(FakeRuntime()).objection() is None
    world.started = Users((), False)
    runtime = FakeRuntime()
    reason, words = said(lives_of(runtime))
    assert (reason, "run hvtx as root" in words) == ("observe-failed", True)
    assert runtime.attached == []


def test_a_look_that_fails_is_not_nobody(world: World) -> None:
    world.started = OSError(105, "No buffer space available")
    reason, words = said(lives_of(FakeRuntime()))
    assert (reason, "No buffer space" in words) == ("observe-failed", True)


def test_a_pair_of_a_container_keeps_all_but_one_that_was_released(world: World) -> None:
    world.links = (*LINKS, link(9, "hvpair", "veth", mark(9)))
    runtime = FakeRuntime()
    reason, words = said(lives_of(runtime))
    assert (reason, words) == (
        "in-use",
        "stays as long as a VM or container that is not on record lives: the container of hvpair",
    )
    runtime.tombstones = {mark(9): OWN}
    assert lives_of(runtime).objection() is None


def test_a_device_that_could_not_be_taken_keeps_the_rest(world: World) -> None:
    """But not where it is nobody's, and only stays for what others put on it."""
    lives = lives_of(FakeRuntime())
    lives.device_stays(Outcome(False, "foreign-dependents", "lost: vlan7"))
    assert lives.objection() is None
    lives.device_stays(Outcome(False, "in-use", "lost is held open"))
    assert said(lives) == ("in-use", "stays: lost is held open")
