"""The worlds that measurements are made in: filled, asked, and gone again. No time is asserted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench import harness, measure
from bench.figures import Samples
from bench.measure import Place

NAMESPACES = ("net", "mnt", "pid")


def test_a_world_is_measured_and_its_end_too(tmp_path: Path) -> None:
    build = harness.Build("hvtx", sys.executable, str(harness.TOP))
    samples = Samples()
    place = Place(samples, "hvtx", 2)
    with harness.workers() as every:
        worker = harness.worker_of(build, tmp_path / "world", 2)
        every.append(worker)
        measure.fill([(worker, place)], 2)
        measure.one_world(worker, place)
        with pytest.raises(harness.Failed, match=r"hvtx vm start nobody: exit 3"):
            worker.ask("commands", commands=[["hvtx", "vm", "start", "nobody"]])
        measure.restarted(worker, place)
        measure.collected(worker, place)
    for figure in (measure.START, measure.STOP, measure.PLAN):
        assert samples.of(figure, "hvtx", 2)[0] > 0
        assert samples.of(figure, measure.floor_of("hvtx"), 2)[0] > 0
        assert samples.of(figure + measure.PROCESSOR, "hvtx", 2)[0] > 0
    for name in measure.COMMANDS:
        who = "hvtx" if name.startswith("hvtx") else measure.floor_of("hvtx")
        assert samples.of(name, who, 2)[0] > 0
        assert samples.of(name + measure.PEAK, who, 2)[0] > 1
    for name in (measure.MADE, measure.COLLECTED, measure.RESTARTED + "hvtx vm ls"):
        assert len(samples.of(name, "hvtx", 2)) == 1
    assert any(figure.startswith(measure.PART) for figure in samples.figures())


def test_a_worker_has_namespaces_of_its_own_and_they_end_with_it(tmp_path: Path) -> None:
    build = harness.Build("hvtx", sys.executable, str(harness.TOP))
    found = harness.worker_of(build, tmp_path / "world", 1)
    below = _children(found._process.pid)
    try:
        (first,) = below
        own = {name: os.stat(f"/proc/{first}/ns/{name}").st_ino for name in NAMESPACES}
        ours = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in NAMESPACES}
        assert all(own[name] != ours[name] for name in NAMESPACES)
        found.ask("grow", number=1)
    finally:
        found.close()
    assert not os.path.exists(f"/proc/{first}")


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
