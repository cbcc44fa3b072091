"""Who goes on past failures ends with an error that names the first of them, how many, and a fix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from hvtx.cli.failures import (
    raise_for_import,
    raise_for_plan,
    raise_for_recovery,
    raise_for_repair,
)
from hvtx.cli.main import run
from hvtx.commands.recover import Recovery
from hvtx.engine.gc_plan import Report
from hvtx.engine.imported import Import, ImportedThing, ImportedVm
from hvtx.engine.repaired import Failed, Repair, Repaired
from hvtx.errors import PartialFailure
from hvtx.model.block import BlockStep
from hvtx.model.plan import Action, Item, Plan, Result
from hvtx.model.reason import Reason
from hvtx.planner.adoption import Why


def _item(key: str, outcome: Result | None, reason: Reason = Reason.VM_DEAD) -> Item:
    action = Action.SKIP if outcome is None else Action.DELETE
    words = f"words of {key}"
    return Item(action, reason, "tap", key, "web", 1, "committed", (), words, outcome=outcome)


def _report(*items: Item, blocks: Sequence[BlockStep] = ()) -> Report:
    return Report(Plan(items), True, None, "boot", 1, "now", blocks=tuple(blocks))


def _block(outcome: str) -> BlockStep:
    return BlockStep("give-back", "r", "lan", "10.0.0.0/26", "1", "no etcd answers", outcome)


def _told(raised: pytest.ExceptionInfo[PartialFailure]) -> tuple[str, str, int, str | None]:
    problem = raised.value
    return problem.message, problem.code, problem.exit_code, problem.hint


def test_a_plan_that_was_carried_out_whole() -> None:
    raise_for_plan(_report(_item("hv1", Result.DONE), _item("hv2", Result.SKIPPED)), "h")
    raise_for_plan(_report(_item("hv3", None), blocks=[_block("done")]), "h")


def test_a_guess_that_could_not_be_read_is_left_alone_and_is_no_failure() -> None:
    unread = _item("rule", None, Reason.OBSERVE_FAILED)
    raise_for_plan(_report(_item("hv1", Result.DONE), unread)._replace(heuristic=True), "h")
    with pytest.raises(PartialFailure):
        raise_for_plan(_report(_item("hv1", Result.FAILED), unread)._replace(heuristic=True), "h")


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (_report(_item("hv1", Result.DONE), _item("hv2", Result.FAILED)),
         "tap hv2 was not collected: words of hv2"),
        (_report(_item("hv1", Result.FAILED), _item("hv2", Result.FAILED), _item("hv3", None)),
         "tap hv1 and 1 more were not collected: words of hv1"),
        (_report(_item("hv1", Result.DONE), _item("hv2", None, Reason.OBSERVE_FAILED)),
         "tap hv2 was not collected: words of hv2"),
        (_report(_item("hv1", Result.DONE), blocks=[_block("failed"), _block("done")]),
         "block lan 10.0.0.0/26 was not collected: no etcd answers"),
    ],
)  # fmt: skip
def test_a_plan_of_which_something_failed(report: Report, message: str) -> None:
    with pytest.raises(PartialFailure) as raised:
        raise_for_plan(report, "look at it")
    told, code, exit_code, hint = _told(raised)
    assert (told, code, exit_code) == (message, "partial", 9)
    assert hint == ("look at it" if "tap" in message else hint)
    assert "tap" in message or "hvtx cluster status" in str(hint)


def test_a_recovery() -> None:
    raise_for_recovery(Recovery(started=("web",)))
    with pytest.raises(PartialFailure) as raised:
        raise_for_recovery(Recovery(failed=(("VM web", "no disk"),)))
    assert _told(raised) == (
        "VM web was not recovered: no disk", "partial", 9,
        "hvtx vm start web tries again",
    )  # fmt: skip
    several = (("network lan", "taken"), *((f"VM {n}", "no disk") for n in "abcd"))
    with pytest.raises(PartialFailure) as raised:
        raise_for_recovery(Recovery(failed=several))
    assert _told(raised)[::3] == (
        "network lan and 4 more were not recovered: taken",
        "hvtx recover tries again; then hvtx vm start NAME tries again",
    )


def test_a_repair() -> None:
    put_back = Repaired("filter", "hv1", "it was gone")
    raise_for_repair(Repair((put_back,)))
    with pytest.raises(PartialFailure) as raised:
        raise_for_repair(Repair((put_back,), (Failed("tap", "hv1", "its VM runs"),)))
    assert _told(raised)[0] == "tap hv1 was not put back: its VM runs"
    assert "hvtx repair" in str(raised.value.hint)


def _imported(outcome: str, reason: str | None, *items: ImportedThing) -> ImportedVm:
    return ImportedVm("/s.json", "id1", "web", None, "web", None, outcome, reason, "m", {}, items)


def _thing(outcome: str, reason: str | None) -> ImportedThing:
    return ImportedThing("tap", "tap0", outcome, reason, "it has an alias", ())


def test_an_import() -> None:
    gone = Why.GONE.value
    raise_for_import(Import("t", True, (_imported("skipped", gone, _thing("skipped", gone)),)))
    done = Import("t", True, (_imported("imported", None, _thing("skipped", "marked")),))
    with pytest.raises(PartialFailure) as raised:
        raise_for_import(done)
    assert _told(raised)[0] == "tap tap0 was not taken over: it has an alias"
    with pytest.raises(PartialFailure, match="VM web was not taken over: m"):
        raise_for_import(Import("t", True, (_imported("failed", "x"),)))


def test_a_cluster_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store knows is shown all the same, and the exit code has its error."""
    monkeypatch.setenv("HVTX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HVTX_RUN_DIR", str(tmp_path / "run"))
    (tmp_path / "config").write_text(
        '[cluster]\nsource = "etcd"\nendpoints = ["http://127.0.0.1:1"]\naddress = "192.0.2.1"\n'
    )
    words = ["--config", str(tmp_path / "config"), "cluster", "status"]
    assert run([*words, "--json"]) == 75
    told, err = capsys.readouterr()
    error = json.loads(err)["error"]
    assert error["message"] == json.loads(told)["problem"]
    assert (error["code"], error["hint"][:10]) == ("cluster-unreachable", "start etcd")
    assert run(words) == 75
    told, err = capsys.readouterr()
    assert "endpoint:" in told
    assert err.splitlines()[-2:] == [f"error: {error['message']}", f"hint: {error['hint']}"]
