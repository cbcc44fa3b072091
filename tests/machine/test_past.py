"""The state machine with as short a past as can be: each row is buried as soon as it is released.

What a restore brings back is known by what is left of the row; with a wrong rule it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.store import retention, tombstone
from tests.machine.fake_world import FakeWorld, run
from tests.machine.found import FOUND, play
from tests.machine.test_machine import FakeMachine, worlds

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operation that ends looks at the past, and of that nothing is kept whole."""
    monkeypatch.setattr(retention, "EVERY", 1)
    monkeypatch.setattr(retention, "WHOLE", 0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    """A fake host with a network `net` and the VM `web`, which ran and was stopped since a save."""
    made = FakeWorld(tmp_path)
    run(made, "network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    run(made, "vm", "create", "web", "--network", "net", "--", "sleep", "600")
    run(made, "vm", "start", "web")
    made.do("save", {})
    run(made, "vm", "stop", "web")
    yield made
    made.close()


def restored(world: FakeWorld) -> set[str]:
    """Which marks of the restored rules are there after gc."""
    world.do("restore", {})
    run(world, "gc", "--apply")
    record = world.record()
    return {comment for _, comment in world.look().elements.values() if comment} & record.marks


def test_what_a_restore_brings_back_is_known(world: FakeWorld) -> None:
    """By its mark and its place, though its rows were let go: gc collects it."""
    record = world.record()
    assert record.closed  # buried
    assert not restored(world) & record.closed


@pytest.mark.parametrize("name", FOUND)
def test_found(tmp_path: Path, name: str) -> None:
    """No law is broken by a past that is short."""
    FakeMachine.make_world = staticmethod(worlds(tmp_path))  # type: ignore[assignment]
    play(FakeMachine(), name)


@pytest.mark.parametrize("wrong", ["all of it", "its words"])
def test_a_wrong_rule_is_found(
    world: FakeWorld, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what is kept of a row, what a restore brings back stays for good."""
    closed = world.record().closed
    if wrong == "all of it":
        monkeypatch.setattr(tombstone, "by_mark", lambda sql, marks: {})
    else:
        whole = tombstone.by_mark

        def bare(sql: object, marks: object) -> object:
            found = whole(sql, marks)  # type: ignore[arg-type]
            spec = {"backend": "nftables", "what": "masquerade", "address": "10.77.9.9"}
            return {mark: row._replace(spec=spec) for mark, row in found.items()}

        monkeypatch.setattr(tombstone, "by_mark", bare)
    assert restored(world) & closed
