"""The tables of a run and the places of the page that they are written to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import goals, report
from bench import measure as m
from bench.figures import SCHEMA, Samples
from bench.inside.traffic import FLOWS

MACHINE = {
    "kernel": "6.18", "python": "3.11.7", "cpus": 2, "load": 1.5, "file_system": "ext4",
    "date": "2026-11-29 07:00", "load_after": 1.7,
}  # fmt: skip


def against(samples: Samples) -> dict[str, Any]:
    return {
        "schema": SCHEMA, "kind": "against", "machine": MACHINE, "before": "old", "after": "now",
        "commits": {"before": "a193942", "after": "1234567+"}, "problems": [], "cycles": 1000,
        "samples": samples.document(),
    }  # fmt: skip


def beside(samples: Samples, **more: Any) -> dict[str, Any]:
    return {
        "schema": SCHEMA, "kind": "beside", "machine": MACHINE, "commit": "1234567", "seconds": 600,
        "commands": list(m.COMMANDS), "missing": {}, "lacks": {}, "problems": [],
        "samples": samples.document(), **more,
    }  # fmt: skip


def line_of(text: str, *begin: str) -> list[str]:
    """The cells of the one line of a table that begins with these."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
    (found,) = [row for row in rows if row[: len(begin)] == list(begin)]
    return found


def test_a_row_of_two_commits_has_medians_the_ratio_and_multiples_of_the_floor_of_its_own_world() -> (
    None
):
    samples = Samples()
    for before, after, floor in ((9.0, 3.0, 1.0), (18.0, 6.0, 2.0), (9.0, 4.5, 1.5)):
        samples.add(m.START, "old", 1000, before)
        samples.add(m.START, m.floor_of("old"), 1000, floor)
        samples.add(m.START, "now", 1000, after)
        samples.add(m.START, m.floor_of("now"), 1000, floor / 2)
    found = line_of(report.against_text(against(samples)), m.START, "1,000")
    assert found[2:9] == ["ms", "9.00", "4.50", "0.33 (0.33-0.42)", "9.00", "6.00", "3"]
    assert "2.0 at 1,000" in found[9]


def test_packets_are_multiples_of_plain() -> None:
    samples = Samples()
    flow = next(iter(FLOWS))
    for who, value in (("plain", 10.0), ("old", 3.0), ("now", 9.0)):
        samples.add(f"{flow}, iptables", who, 500, value, "Gbit/s")
    found = line_of(report.against_text(against(samples)), f"{flow}, iptables", "500")
    assert found[3:8] == ["3.00", "9.00", "3.00 (3.00-3.00)", "0.30", "0.90"]


def test_a_backend_is_a_multiple_of_the_other_one_in_the_same_rounds() -> None:
    samples = Samples()
    for suffix, value in ((m.IPTABLES, 90.0), (m.BESIDE_IPTABLES, 60.0)):
        samples.add("hvtx vm start" + suffix, "old", 500, 2 * value)
        samples.add("hvtx vm start" + suffix, "now", 500, value + (suffix == m.IPTABLES) * 30)
    found = line_of(report.against_text(against(samples)), "hvtx vm start, iptables", "500")
    assert found[3:8] == ["180", "120", "0.67 (0.67-0.67)", "1.50", "2.00"]


def test_what_one_commit_could_not_do_is_a_dash_and_what_was_left_out_is_said() -> None:
    samples = Samples()
    samples.add(m.BOOT, "now", 1000, 2500.0)
    found = against(samples) | {"problems": ["old, 1000 VMs: the worker ended"]}
    text = report.against_text(found)
    assert line_of(text, m.BOOT, "1,000")[3:6] == ["-", "2,500", "-"]
    assert "Left out: old, 1000 VMs: the worker ended" in text


def test_peers_are_told_of_ours_and_who_is_missing_is_named() -> None:
    samples = Samples()
    for who, start, stop in ((goals.OURS, 40.0, 60.0), ("netavark", 150.0, 100.0)):
        samples.add("start, whole processes", who, 0, start)
        samples.add("stop, whole processes", who, 0, stop)
    samples.add(m.START, "hvtx, iptables", 500, 9.0)  # no column of a table without it
    found = beside(
        samples, missing={"libvirt": "no libvirtd here"}, lacks={"netavark": "no liveness"}
    )
    text = report.beside_text(found)
    assert line_of(text, "netavark", "0")[2:5] == ["150", "100", "2.50 (2.50-2.50)"]
    assert line_of(text, "libvirt")[4] == "missing: no libvirtd here"
    assert "- netavark: no liveness." in text
    assert "500 VMs" not in text


def test_a_peer_without_a_stop_has_no_ratio() -> None:
    samples = Samples()
    samples.add("start, whole processes", goals.OURS, 0, 40.0)
    samples.add("stop, whole processes", goals.OURS, 0, 60.0)
    samples.add("start, whole processes", "libvirt", 0, 50.0)
    assert line_of(report.beside_text(beside(samples)), "libvirt", "0")[2:5] == ["50.0", "-", "-"]


def test_packets_of_a_world_are_ratios_to_plain() -> None:
    samples = Samples()
    flow = next(iter(FLOWS))
    samples.add(flow, "plain", 0, 10.0, "Gbit/s")
    samples.add(flow, goals.OURS, 5000, 9.5, "Gbit/s")
    text = report.beside_text(beside(samples))
    assert line_of(text, "plain", "-")[2] == "10.0"
    assert line_of(text, goals.OURS, "5,000")[2] == "x 0.95 (0.95-0.95)"


def test_every_command_that_is_asked_about_is_measured() -> None:
    """A row of the comparison that no program fills would always be left out in silence."""
    bare = {asked.figure for asked in goals.ASKED}
    known = {m.START, m.STOP, m.PLAN, m.MADE, m.LATE, m.COLLECTED, m.SIZE, m.SIZE_A_CYCLE}
    known |= {m.MADE_USED, m.COLLECTED_USED}
    known |= {m.SEVERAL + "start", m.SEVERAL + "stop"}
    known |= {m.RECOVER, m.BOOT, m.FIRST, *m.COMMANDS}
    known |= {m.RESTARTED + " ".join(words[:3]) for words in m._RESTARTED}
    known |= {name + suffix for name in known for suffix in (m.PROCESSOR, m.PEAK)}
    known |= {name + ", iptables" for name in (*known, *FLOWS)}
    assert bare - known == set()


def test_a_place_of_the_page_is_written_again_and_nothing_else() -> None:
    page = "# A\n<!-- bench beside: generated -->\nold\n<!-- end of bench beside -->\nkept\n"
    once = report.place(page, "beside", "new\n")
    assert once.startswith("# A\n<!-- bench beside: generated -->\n\nnew\n\n<!-- end")
    assert once.endswith("-->\nkept\n")
    assert report.place(once, "beside", "new") == once
    with pytest.raises(ValueError, match="no place for against"):
        report.place(page, "against", "new")


def test_the_page_has_a_place_for_each_kind() -> None:
    for kind in ("beside", "against"):
        assert report.place(report.PAGE.read_text(), kind, "x")


def test_without_matplotlib_it_is_said_that_there_are_no_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bench.plots", None)
    monkeypatch.delattr("bench.plots", raising=False)
    assert report.draw(beside(Samples()), tmp_path) == []
    assert "no plots" in capsys.readouterr().err


def test_plots_are_written_where_there_are_values_and_are_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench`: `tox -e bench` runs this")
    samples = Samples()
    for vms in (0, 100):
        for value in (1.0, 2.0, 3.0):
            samples.add(m.START, goals.OURS, vms, value)
            samples.add(m.START, m.floor_of(goals.OURS), vms, value / 2)
    found = json.loads(json.dumps(beside(samples)))
    first = {path.name: path.read_bytes() for path in report.draw(found, tmp_path / "a")}
    again = {path.name: path.read_bytes() for path in report.draw(found, tmp_path / "b")}
    assert sorted(first) == ["one-vm.png", "one-vm.svg"]
    assert first == again
