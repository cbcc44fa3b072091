"""Numbers are of one look: each process is looked at once, and each row is read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvtx.commands import metrics
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.vm_state import read_moment, states_of
from hvtx.store import records
from tests.machine.fake_world import FakeWorld

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[FakeWorld]:
    """A VM that runs, one that crashed, one that is down, one whose start was killed."""
    made = FakeWorld(tmp_path)
    run(made, "network", "create", "net", "--subnet", "10.77.0.0/24", "--egress", "internet")
    for name in ("api", "db", "idle", "web"):
        policy = ("--egress", "none") if name == "api" else ()
        run(made, "vm", "create", name, "--network", "net", *policy, "--", "sleep", "600")
    for name in ("api", "db"):
        run(made, "vm", "start", name)
    made.run(("vm", "start", "web"), "acted:tap:kill", lambda: None)
    (process,) = [row for row in made.record().of("db") if row.kind == "process"]
    made.kernel.end(int(process.observed["pid"]))
    yield made
    made.close()


def run(world: FakeWorld, *argv: str) -> None:
    ran = world.run(argv, "", lambda: None)
    assert ran.code == 0, ran


@contextmanager
def reading(world: FakeWorld) -> Iterator[Runtime]:
    settings = Settings(str(world.state), str(world.runs), "nftables")
    with world.kernel.run():
        opened = Runtime(settings, writable=False)
        try:
            yield opened
        finally:
            opened.close()


def values(gauges: list[metrics.Gauge], name: str) -> dict[tuple[str, ...], float]:
    return dict(next(gauge.values for gauge in gauges if gauge.name == name))


def test_states_are_those_that_a_list_tells(world: FakeWorld) -> None:
    with reading(world) as runtime:
        with runtime.reading() as sql:
            vms, moment = records.vms(sql), read_moment(sql)
            rows = records.raw_resources(sql)
        told = Counter(state.value for state, _, _ in states_of(runtime, vms, moment))
        found = metrics.gauges(runtime)
    assert told == {"running": 1, "crashed": 2, "defined": 1}
    states = values(found, "hvtx_vms")
    assert {state: states[state,] for state in told} == told
    counts = Counter((row[1], row[3]) for row in rows)
    resources = values(found, "hvtx_resources")
    assert {key: number for key, number in resources.items() if number} == counts
    assert values(found, "hvtx_operations") == {("running",): 0, ("interrupted",): 1}


def test_rows_are_read_once_and_looked_at_once(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reading(world) as runtime:
        statements: list[str] = []
        looks: list[int] = []
        process_looks = metrics.plan_beside

        def counted(*asked: object) -> object:
            looks.append(1)
            return process_looks(*asked)  # type: ignore[arg-type]

        monkeypatch.setattr(metrics, "plan_beside", counted)
        monkeypatch.setattr(metrics, "states_of", None)  # it would look again
        runtime.store.connection.set_trace_callback(statements.append)
        metrics.gauges(runtime)
        runtime.store.connection.set_trace_callback(None)
    assert looks == [1]
    whole = [one for one in statements if "FROM resource" in one and one.endswith("ORDER BY id")]
    wide = [one for one in whole if "kind =" not in one and "WHERE state <> 'released'" in one]
    assert len(wide) == 1, wide
