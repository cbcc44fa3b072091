"""What crashes left is released from one look at the host, whether VMs are settled in it or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine import resolve as module
from hvtx.engine.resolve import resolve
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.snapshot import take_snapshot
from hvtx.model.plan import Plan
from tests.machine.fake_world import FakeWorld

pytestmark = pytest.mark.slow

VMS = ("api", "db", "web")
_NOTHING: Callable[[], None] = lambda: None  # noqa: E731


@contextmanager
def world(place: Path, *crashed: str) -> Iterator[FakeWorld]:
    """A fake host with running VMs, of which these have crashed; and a rule with a mark of one."""
    place.mkdir()
    made = FakeWorld(place)
    try:
        does(made, "network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
        for number, name in enumerate(VMS):
            port = ("-p", f"192.0.2.9:{8080 + number}:80")
            does(made, "vm", "create", name, "--network", "net", *port, "--", "sleep", "600")
            does(made, "vm", "start", name)
        for name in crashed:
            (process,) = [row for row in made.record().of(name) if row.kind == "process"]
            made.kernel.end(int(process.observed["pid"]))
        yield made
    finally:
        made.close()


def does(world: FakeWorld, *argv: str) -> None:
    ran = world.run(argv, "", _NOTHING)
    assert ran.code == 0, ran


def left(world: FakeWorld) -> str:
    """The host, and the live rows, wherever this world has its directories."""
    rows = [(r.kind, r.key, r.state, r.vm, r.mark) for r in world.record().rows]
    return f"{rows} {world.look().place()}".replace(str(world.place), "")


@contextmanager
def runtime_of(world: FakeWorld) -> Iterator[Runtime]:
    settings = Settings(str(world.state), str(world.runs), "nftables")
    with world.kernel.run():
        opened = Runtime(settings, writable=True)
        opened.enter()
        try:
            yield opened
        finally:
            opened.close()


def resolved(world: FakeWorld, *calls: tuple[str, ...]) -> list[Plan]:
    with runtime_of(world) as runtime:
        for name in VMS:
            runtime.lock("vm", name)
        return [resolve(runtime, *names) for names in calls]


def looks(patch: pytest.MonkeyPatch, *, settle: bool = True) -> list[int]:
    """Let each look of `resolve` settle VMs or none; how many VMs each settled."""
    counts: list[int] = []

    def look(runtime: Runtime, **asked: bool) -> Any:
        assert asked == {"settle": True}
        snapshot = take_snapshot(runtime, settle=settle)
        counts.append(len(snapshot.settled.vms))
        return snapshot

    patch.setattr(module, "take_snapshot", look)
    return counts


@pytest.mark.parametrize("crashed", [("web",), ("api", "web"), VMS])
def test_the_outcome_is_the_same_whether_vms_are_settled_or_not(
    tmp_path: Path, crashed: tuple[str, ...]
) -> None:
    found = []
    for settle in (True, False):
        with (
            pytest.MonkeyPatch.context() as patch,
            world(tmp_path / str(settle), *crashed) as made,
        ):
            counts = looks(patch, settle=settle)
            plans = resolved(made, *((name,) for name in crashed))
            items = [str(item) for plan in plans for item in plan.items]
            found.append((str(items).replace(str(made.place), ""), left(made)))
            assert counts[0] == (len(VMS) - len(crashed) if settle else 0)
    assert found[0] == found[1]


def test_several_go_as_each_alone(tmp_path: Path) -> None:
    """By one operation that is of no single VM, and what is asked about is all that goes."""
    found = []
    for calls in ([("api", "db")], [("api",), ("db",)]):
        with world(tmp_path / str(len(calls)), *VMS) as made:
            resolved(made, *calls)
            found.append(left(made))
            assert {row.vm for row in made.record().rows if row.kind == "tap"} == {
                made.record().vms["web"]
            }
            assert made.record().open == []
    assert found[0] == found[1]


def test_a_start_of_several_looks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at all of the host, so not one for each VM that crashed."""
    with world(tmp_path / "w", "api", "web") as made:
        counts = looks(monkeypatch)
        ran = made.run(("vm", "start", "api", "web"), "", _NOTHING)
        assert (ran.code, counts) == (0, [1]), ran
        assert all(made.record().of(name) for name in VMS)


def test_a_look_that_fails_for_several_is_tried_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps one of them from starting keeps no other."""
    with world(tmp_path / "w", "api", "web") as made:
        asked: list[tuple[str, ...]] = []

        def refuses(runtime: Runtime, *names: str) -> Plan:
            asked.append(names)
            if len(names) > 1:
                raise OSError(12, "no memory")
            return resolve(runtime, *names)

        monkeypatch.setattr(module, "resolve", refuses)
        ran = made.run(("vm", "start", "api", "web"), "", _NOTHING)
        assert ran.code == 0, ran
        assert asked == [("api", "web"), ("api",), ("web",)]


def test_a_start_that_was_killed_late_is_completed_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path / "w", "web") as made:
        does(made, "vm", "stop", "--force", "db")
        made.run(("vm", "start", "db"), "opened:kill", _NOTHING)
        counts = looks(monkeypatch)
        ran = made.run(("vm", "start", "db", "web"), "", _NOTHING)
        assert ran.code == 9, ran  # one of them runs already
        assert counts == [1]
        assert {row.state for row in made.record().rows} == {"committed"}
