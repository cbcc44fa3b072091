"""Power cuts: the oracle sees what it should, and a machine survives two (twenty: tox -e powercut)."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.lab.boot import image
from integration.lab.boot.powercut import Ledger, campaign, faults, settle


@pytest.fixture(scope="module", autouse=True)
def prepared(guest_files: Path) -> Iterator[None]:
    """The image, made outside the tests' own namespaces, where there is a network."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the image of a machine")
    image.root_tar()
    yield


def shown(name: str, number: int, state: str) -> dict[str, Any]:
    device = [f"hv{number}"] if state == "running" else [None]
    return {
        "name": name, "state": state, "mac": [f"02:{number}"], "ipv4": [f"10.0.0.{number}"],
        "device": device,
    }  # fmt: skip


def reported(*lines: str) -> Ledger:
    ledger = Ledger()
    for line in lines:
        ledger.read(line)
    return ledger


def done(verb: str, name: str, number: int, *, autostart: bool = False) -> list[str]:
    seen = {"mac": [f"02:{number}"], "ipv4": [f"10.0.0.{number}"], "autostart": autostart}
    return [f"begin 0 {verb} {name}", f"done 0 {verb} {name} {json.dumps(seen)}"]


CHECK: dict[str, Any] = {
    "recover": "active", "integrity": "ok", "foreign_keys": 0, "plan": [0, []], "intents": [],
    "repaired": [], "leases": 2, "interfaces": 2, "taps": ["hv2"], "bridges": ["hvbr"],
    "vms": [shown("a", 1, "defined"), shown("b", 2, "running")],
}  # fmt: skip
REPORT = (*done("run", "a", 1), *done("create", "b", 2, autostart=True))


def test_a_whole_host_has_no_fault() -> None:
    assert not faults(reported(*REPORT), CHECK)
    removed = reported(*REPORT, *done("create", "c", 3), *done("rm", "c", 3))
    assert not faults(removed, CHECK)


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("recover", "failed"), ("integrity", "row 3 missing"), ("foreign_keys", 1),
        ("plan", [2, [{"action": "delete"}]]), ("intents", [{"id": 1}]), ("leases", 3),
        ("repaired", [{"kind": "tap"}]), ("taps", []), ("taps", ["hv2", "hv9"]), ("bridges", []),
        ("interfaces", 3), ("vms", [shown("a", 1, "defined")]),
        ("vms", [shown("a", 1, "running"), shown("b", 2, "running")]),
        ("vms", [shown("a", 1, "defined"), shown("b", 2, "defined")]),
        ("vms", [shown("a", 2, "defined"), shown("b", 2, "running")]),
        ("vms", [shown("a", 5, "defined"), shown("b", 2, "running")]),
        ("vms", [*CHECK["vms"], shown("c", 3, "defined")]),
    ],
)  # fmt: skip
def test_each_fault_is_seen(what: str, found: object) -> None:
    check = copy.deepcopy(CHECK) | {what: found}
    assert faults(reported(*REPORT), check)


def test_a_host_that_cannot_be_checked_is_a_fault() -> None:
    assert faults(reported(*REPORT), {"error": "DatabaseError"})


def test_what_was_under_way_may_be_done_or_undone_and_nothing_else() -> None:
    less = CHECK | {"vms": CHECK["vms"][1:], "leases": 1, "interfaces": 1}
    assert not faults(reported(*REPORT, "begin 9 rm a"), less)
    assert not faults(reported(*REPORT, "begin 9 rm a"), CHECK)
    assert faults(reported(*REPORT, "begin 9 stop a"), less)
    assert not faults(reported(*REPORT[2:], "begin 9 run a"), CHECK)
    assert faults(reported(*REPORT[2:], "begin 9 start a"), CHECK)
    settled = reported(*REPORT, "begin 9 rm a")
    settle(settled, less)
    assert faults(settled, CHECK)


@pytest.mark.skipif(
    not os.environ.get("HVTX_POWERCUT"), reason="minutes of an emulated machine: tox -e powercut"
)
@pytest.mark.timeout(1500)
def test_a_machine_survives_power_cuts() -> None:
    told: list[str] = []
    result = campaign(2, seed=1, tell=told.append, early=0)
    assert not result.faults, (result, told)
    assert result.boots == 3
    assert result.done
