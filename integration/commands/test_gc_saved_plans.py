"""Saved plans of gc: applied, stale, not plans."""

from __future__ import annotations

import json
from pathlib import Path

from hvtx import Host
from integration import lab
from integration.lab.program import Program
from integration.lab.verbs import SLEEP, conflict, hvtx, network, state

__all__ = ["hvtx"]  # the fixture


def crashed(hvtx: Program, name: str) -> None:
    hvtx("vm", "run", name, "--network", "net", *SLEEP)
    lab.end(hvtx.vm(name)["pid"])


def test_saved_plans(hvtx: Program, tmp_path: Path) -> None:
    """Applied as reviewed; new items do not make it stale, and are not done either."""
    network(hvtx)
    crashed(hvtx, "one")
    saved = str(tmp_path / "plan")
    shown = hvtx("gc", "--plan", "--out", saved, "--json").json()
    assert json.loads(Path(saved).read_text()) == shown
    crashed(hvtx, "two")
    done = hvtx("gc", "--apply", saved, "--json").json()
    assert {i["vm"] for i in done["items"] if i["action"] != "skip"} == {"one"}
    assert {i["outcome"] for i in done["items"]} == {"done", "skipped"}
    assert {i["reason"] for i in done["items"] if i["action"] == "skip"} == {"reserved"}
    assert [state(hvtx, n) for n in ("one", "two")] == ["defined", "crashed"]
    stale = conflict(hvtx, "gc", "--apply", saved, code=8)
    assert any(item["key"] in stale.err for item in shown["items"] if item["action"] == "delete"), (
        stale.err
    )


def test_what_is_newer_than_a_saved_plan_is_told(hvtx: Program, tmp_path: Path) -> None:
    network(hvtx)
    crashed(hvtx, "one")
    hvtx("gc", "--plan", "--out", str(tmp_path / "plan"))
    crashed(hvtx, "two")
    assert (
        "more to do since the plan was saved" in hvtx("gc", "--apply", str(tmp_path / "plan")).err
    )


def unknown(hvtx: Program, number: int) -> str:
    """A device with a mark of this installation, of which the store knows nothing; its name."""
    name = f"hv{'a' * 11}{number}"
    mark = hvtx("network", "show", "net", "--json").json()["resources"][0]["mark"]
    lab.run("ip", "tuntap", "add", "dev", name, "mode", "tap")
    token = f"{999990 + number}.{'a' * 16}"
    lab.run("ip", "link", "set", name, "alias", f"{mark.rpartition(':')[0]}:{token}")
    return name


def test_of_what_is_not_on_record_goes_what_was_reviewed(hvtx: Program, tmp_path: Path) -> None:
    """By a person's word, and not without; what came up since stays, and is told."""
    network(hvtx)
    first, saved = unknown(hvtx, 1), str(tmp_path / "plan")
    hvtx("gc", "--plan", "--out", saved)
    ran = hvtx("gc", "--apply", saved)
    assert first in lab.run("ip", "-o", "link")
    assert "more to do" not in ran.err
    second = unknown(hvtx, 2)
    ran = hvtx("gc", "--apply", "--unrecorded", saved)
    assert "1 more to do since the plan was saved" in ran.err
    there = lab.run("ip", "-o", "link")
    assert (first in there, second in there) == (False, True)
    stale = conflict(hvtx, "gc", "--apply", "--unrecorded", saved, code=8)
    assert first in stale.err
    with Host() as host:
        report = host.gc.plan()
        done = host.gc.apply(report, unrecorded=True)
    assert done.newer == 0
    assert second not in lab.run("ip", "-o", "link")


def test_a_saved_plan_without_its_store_is_stale(hvtx: Program, tmp_path: Path) -> None:
    """A state directory that is not mounted has nothing of what was reviewed."""
    network(hvtx)
    crashed(hvtx, "one")
    saved = str(tmp_path / "plan")
    shown = hvtx("gc", "--plan", "--out", saved)
    assert f"run `hvtx gc --apply {saved}` to apply" in shown.out
    conflict(hvtx, "--state-dir", str(tmp_path / "none"), "gc", "--apply", saved, code=8)
    assert not (tmp_path / "none").exists()


def test_one_mode_of_gc_at_a_time(hvtx: Program) -> None:
    network(hvtx)
    crashed(hvtx, "one")
    for modes in (("--plan", "--apply"), ("--apply", "--schema"), ("--schema", "--plan"), ()):
        conflict(hvtx, "gc", *modes, code=2)
    assert state(hvtx, "one") == "crashed"


def test_a_stale_plan_does_nothing(hvtx: Program, tmp_path: Path) -> None:
    """One acting item that would be planned otherwise spoils all of it, and is named."""
    network(hvtx)
    crashed(hvtx, "one")
    crashed(hvtx, "two")
    saved = str(tmp_path / "plan")
    hvtx("gc", "--plan", "--out", saved)
    device = hvtx.device("two")
    lab.run("ip", "link", "set", device, "alias", "mine")
    ran = conflict(hvtx, "gc", "--apply", saved, code=8)
    assert device in ran.err
    told = hvtx("gc", "--apply", saved, "--json", code=8)
    assert device in json.loads(told.err)["error"]["message"]
    assert [state(hvtx, n) for n in ("one", "two")] == ["crashed", "crashed"]


def test_plans_that_are_none(hvtx: Program, tmp_path: Path) -> None:
    network(hvtx)
    path = tmp_path / "plan"
    for text in ("", "{", "[]", "null", '"x"', "{}", '{"schema": "hvtx/vm/1"}', '{"schema": "hvtx/gc/1"}',
                 '{"schema": "hvtx/gc/1", "items": 1}', '{"schema": "hvtx/gc/1", "items": [1]}',
                 '{"schema": "hvtx/gc/1", "items": [{"action": "delete"}]}',
                 ('{"schema": "hvtx/gc/1", "items": [{"action": "delete", "reason": "vm-dead", "kind": "tap", '
                 '"key": [], "record": 1, "mark": {}}]}'), "\0", "\xff"):  # fmt: skip
        path.write_bytes(text.encode("latin-1"))
        conflict(hvtx, "gc", "--apply", str(path), code=2)
    conflict(hvtx, "gc", "--apply", str(tmp_path), code=2)
    conflict(hvtx, "gc", "--apply", str(tmp_path / "none"), code=3)
    exits = ("--detailed-exitcode",)  # whose 2 is not that of a file which cannot be written
    conflict(hvtx, "gc", "--plan", *exits, "--out", str(tmp_path / "no/such/place"), code=3)
