"""Every JSON object of the interface to the letter: its keys, their order, its values.

The files beside this one were made by the program as it was before there was `hvtx/documents`.
Where an object is to say more, its file says so first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hvtx.cli import metrics as cli_metrics
from hvtx.engine import (
    backup,
    diagnose,
    explain,
    import_document,
    recover,
    repair,
    show,
    systemd,
    view,
)
from hvtx.errors import Refused
from hvtx.model.guest import Guest
from hvtx.model.resource import Kind
from hvtx.model.vm import Liveness
from hvtx.planner.adoption import TOOL
from hvtx.planner.states import VmState
from hvtx.store import records
from hvtx.store.backup import Facts
from tests.documents import samples

GOLDEN = Path(__file__).parent / "golden"
FACTS = Facts("aaaaaaaaaa", 41, 12, 3, 1)
REFUSED = Refused("store-rolled-back", "older", hint="h")


def described(state: VmState, liveness: Liveness, guest: Guest | None) -> dict[str, Any]:
    return show.describe_vm(samples.WEB, state, liveness, samples.WEB_ROWS, guest, samples.SUBNETS)


def imported() -> dict[str, Any]:
    done = [
        import_document.vm_document(samples.TAKEN, {0: ("imported", "")}),
        import_document.vm_document(samples.LEFT, {}),
        import_document.vm_document(samples.GONE, {}),
        import_document.unread_document(samples.UNREAD),
    ]
    counts = dict.fromkeys(("imported", "already", "skipped", "failed"), 0)
    for vm in done:
        for item in (vm, *vm["items"]):
            counts[item["outcome"]] += 1
    return {
        "schema": "hvtx/import/1",
        "tool": TOOL,
        "applied": True,
        "vms": done,
        "summary": counts,
    }


VALUES: Mapping[str, Callable[[], Any]] = {
    "vm-running": lambda: described(VmState.RUNNING, Liveness.ALIVE, Guest.PAUSED),
    "vm-crashed": lambda: described(VmState.CRASHED, Liveness.DEAD, None),
    "recover": lambda: recover.recovery_document(samples.RECOVERY),
    "recover-refused": lambda: recover.refused_document(REFUSED),
    "repair": lambda: repair._document(
        [{"kind": Kind.BRIDGE, "key": "br-lan", "missing": "it is down"}],
        [
            {"kind": "publish", "key": "tcp 8080", "why": "it could not be looked at: x"},
            {"kind": Kind.TAP, "key": "hvt-web-0", "missing": "it is gone", "why": "still"},
        ],
    ),
    "repair-refused": lambda: repair.refused_document(REFUSED),
    "doctor": lambda: diagnose._document(samples.FINDINGS),
    "store-backup": lambda: {
        "schema": "hvtx/store-backup/1", "file": "/b", **backup._document(FACTS)
    },
    "store-restore": lambda: {
        **{"schema": "hvtx/store-restore/1", "file": "/b", **backup._document(FACTS)},
        "kept": None, **{"next": "hvtx recover", "why": "it brings host and record together"},
    },
    "systemd": lambda: systemd.document(samples.UNITS),
    "systemd-print": lambda: systemd.printed(samples.MADE_UNITS),
    "metrics": lambda: {
        "schema": "hvtx/metrics/1", "metrics": [cli_metrics._document(g) for g in samples.GAUGES]
    },
    "removed-vm": lambda: {"schema": "hvtx/removed/1", "vm": "web"},
    "removed-network": lambda: {"schema": "hvtx/removed/1", "network": "lan"},
    "import": imported,
    "adopt": lambda: {
        "schema": "hvtx/adopt/1",
        "object": "tap-old",
        "applied": False,
        "vm": samples.TAKEN.vm_name,
        "liveness": samples.TAKEN.liveness.value,
        "process": samples.TAKEN.process,
        "item": import_document.item_document(samples.TAP, ("already", "on record and marked")),
    },
}  # fmt: skip


def from_store(runtime: Any, base: Path) -> dict[str, Any]:
    """The objects that are made of a store."""
    log = [base / "web.log.1", base / "web.log"]
    log[0].write_bytes(b"old\r\nbytes \xff\n")
    log[1].write_bytes(b"new\nhalf a line")
    logs = [str(path) for path in log]
    (base / "empty.log").write_bytes(b"")
    (base / "console").write_bytes(b"")
    published = json.loads(json.dumps(view.document(runtime)))
    seen = view.ViewSource(published, published["seq"] + 1)
    return {
        "vm": show.show_vm(runtime, "web"),
        "vms": show.list_vms(runtime),
        "network": show.show_network(runtime, "lan"),
        "networks": show.list_networks(runtime),
        "intents": show.list_intents(runtime),
        "log": show.list_history(runtime, limit=2, detail=False),
        "log-detail": show.list_history(runtime, limit=9, detail=True, vm="web"),
        "logs": show.log_document("web", logs),
        "logs-empty": show.log_document("web", [str(base / "empty.log")]),
        "console": show.console_document("web", str(base), "console", "/l"),
        "explain": explain._document(runtime, "hvt-web-0", samples.SUBJECTS, ["more"]),
        "explain-foreign": explain._document(runtime, "eth0", samples.SUBJECTS[1:]),
        "explain-record": explain._document(
            runtime, "x", [samples.SUBJECTS[2]._replace(row=_tap_of(runtime))]
        ),
        "view": published,
        "view-vm": seen.show_vm("web"),
        "view-vms": seen.list_vms(),
        "view-network": seen.show_network("six"),
        "view-networks": seen.list_networks(),
        "view-log": seen.list_history(limit=2, detail=False),
        "view-log-detail": seen.list_history(limit=1, detail=True),
    }


def _tap_of(runtime: Any) -> Any:
    return runtime.read(records.resources_of_kind, Kind.TAP)[0]


def same(name: str, document: Any, base: str = "/nowhere") -> None:
    """Compare an object with its file, or with HVTX_GOLDEN=write make the file."""
    text = json.dumps(document, indent=2).replace(base, "/base") + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("HVTX_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", VALUES)
def test_what_values_become(name: str) -> None:
    same(name, VALUES[name]())


def test_what_a_store_becomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with samples.desk(tmp_path, monkeypatch) as runtime:
        for name, document in from_store(runtime, tmp_path).items():
            same(name, document, str(tmp_path))
