"""Every JSON object of the interface to the letter: its keys, their order, its values.

The files beside this one were made by the program as it was before there was `hvtx/documents`.
Where an object is to say more, its file says so first.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hvtx import documents
from hvtx.commands import explain, show, show_history, show_networks, vm_apply
from hvtx.commands import publish_view as published
from hvtx.commands import published_view as view
from hvtx.engine import gc_plan
from hvtx.errors import NotFound, Refused
from hvtx.model.guest import Guest
from hvtx.model.plan import Plan
from hvtx.model.resource import Kind
from hvtx.model.vm import Liveness
from hvtx.planner.states import VmState
from hvtx.planner.subjects import Subject
from hvtx.store import records
from tests.documents import samples
from tests.structure.source import program

GOLDEN = Path(__file__).parent / "golden"
REFUSED = Refused("store-rolled-back", "older", hint="h")


def described(state: VmState, liveness: Liveness, guest: Guest | None) -> dict[str, Any]:
    return documents.vm.document(
        show.describe_vm(
            samples.WEB, state, liveness, samples.WEB_ROWS, guest, samples.NETWORKS, samples.COUNTS
        )
    )


def report(refused: Refused | None = None) -> gc_plan.Report:
    plan = Plan(() if refused else samples.RECOVERY.items)
    return gc_plan.Report(plan, True, refused, "boot-a", 7, samples.NOW)


VALUES: Mapping[str, Callable[[], Any]] = {
    "vm-running": lambda: described(VmState.RUNNING, Liveness.ALIVE, Guest.PAUSED),
    "vm-crashed": lambda: described(VmState.CRASHED, Liveness.DEAD, None),
    "recover": lambda: documents.recover.document(samples.RECOVERY),
    "recover-refused": lambda: documents.recover.refused(REFUSED),
    "several": lambda: documents.several.document(
        "rm",
        [documents.removed.document("vm", "web")],
        {"db": NotFound("there is no VM 'db'", hint="`hvtx vm ls` lists them")},
    ),
    "repair": lambda: documents.repair.document(samples.REPAIR),
    "repair-refused": lambda: documents.repair.refused(REFUSED),
    "doctor": lambda: documents.doctor.document(samples.FINDINGS),
    "store-backup": lambda: documents.store_backup.document(samples.COPIED),
    "store-restore": lambda: documents.store_restore.document(samples.RESTORED),
    "systemd": lambda: documents.systemd.document(samples.UNITS),
    "systemd-print": lambda: documents.systemd.printed(*samples.MADE_UNITS),
    "cni": lambda: documents.cni.document(samples.PLUGIN),
    "cni-print": lambda: documents.cni.printed(samples.MADE_PLUGIN),
    "completion": lambda: documents.completion.document("fish", "complete --command hvtx\n"),
    "metrics": lambda: documents.metrics.document(samples.GAUGES),
    "removed-vm": lambda: documents.removed.document("vm", "web"),
    "removed-network": lambda: documents.removed.document("network", "lan"),
    "import": lambda: documents.imported.document(samples.IMPORT),
    "gc": lambda: documents.plan.document(report()),
    "gc-refused": lambda: documents.plan.document(report(REFUSED)),
    "gc-installation": lambda: documents.plan.document(report(), "bbbbbbbbbb"),
    "gc-heuristic": lambda: documents.plan.document(
        report()._replace(plan=samples.GUESSES, applied=False, heuristic=True)
    ),
    "apply": lambda: documents.apply.document(vm_apply.Report(samples.SET, True), ["vms.toml"]),
    "apply-refused": lambda: documents.apply.document(vm_apply.refused(REFUSED), ["vms.toml"]),
    "apply-saved": lambda: documents.apply.saved(
        vm_apply.Report(samples.SET),
        ["vms.toml"],
        [{"file": "vms.toml", "directory": "/srv", "tables": {"vms": {"web": {"memory": 512}}}}],
        {"restart": True, "replace": False, "start": True},
    ),
    "cluster": lambda: documents.cluster.document(samples.CLUSTER),
    "cluster-unreached": lambda: documents.cluster.document(
        samples.CLUSTER._replace(problem="no etcd answers", hosts=(), holders=(), unrecorded=())
    ),
    "cluster-forget": lambda: documents.forgotten.document(samples.FORGOTTEN),
    "cluster-register": lambda: documents.registered.document(samples.REGISTERED),
    "routes": lambda: documents.routes.document(samples.ROUTES),
    "adopt": lambda: documents.adopt.document(samples.ADOPTED),
}


def from_store(runtime: Any, base: Path) -> dict[str, Any]:
    """The objects that are made of a store."""
    log = [base / "web.log.1", base / "web.log"]
    log[0].write_bytes(b"old\r\nbytes \xff\n")
    log[1].write_bytes(b"new\nhalf a line")
    logs = [str(path) for path in log]
    empty = base / "empty.log"
    empty.write_bytes(b"")
    (base / "console").write_bytes(b"")
    text = json.dumps(documents.view.document(published.gather(runtime)))
    return {
        "vm": documents.vm.document(show.show_vm(runtime, "web")),
        "vms": documents.vms.document(show.list_vms(runtime)),
        "network": documents.network.document(show_networks.show_network(runtime, "lan")),
        "networks": documents.networks.document(show_networks.list_networks(runtime)),
        "intents": documents.intents.document(show_history.list_intents(runtime)),
        "log": documents.log.document(show_history.list_history(runtime, limit=2)),
        "log-detail": documents.log.document(
            show_history.list_history(runtime, limit=9, vm="web"), detail=True
        ),
        "logs": documents.logs.document("web", logs[-1], show.read_log(logs)),
        "logs-empty": documents.logs.document("web", str(empty), show.read_log([str(empty)])),
        "console": documents.console.document(
            "web", show.console_socket(str(base), "console", "/l")
        ),
        "explain": _explained(runtime, "hvt-web-0", samples.SUBJECTS, ["more"]),
        "explain-foreign": _explained(runtime, "eth0", samples.SUBJECTS[1:]),
        "explain-record": _explained(
            runtime, "x", [samples.SUBJECTS[2]._replace(row=_tap_of(runtime))]
        ),
        "view": json.loads(text),
        **_from_view(json.loads(text)),
    }


def _from_view(published: dict[str, Any]) -> dict[str, Any]:
    seen = view.ViewSource(published, published["seq"] + 1)
    return {
        "view-vm": documents.vm.document(seen.show_vm("web"), seen.view),
        "view-vms": documents.vms.document(seen.list_vms(), seen.view),
        "view-network": documents.network.document(seen.show_network("six"), seen.view),
        "view-networks": documents.networks.document(seen.list_networks(), seen.view),
        "view-log": documents.log.document(seen.list_history(limit=2), view=seen.view),
        "view-log-detail": documents.log.document(
            seen.list_history(limit=1), detail=True, view=seen.view
        ),
    }


def _explained(
    runtime: Any, text: str, found: Sequence[Subject], more: Sequence[str] = ()
) -> dict[str, Any]:
    return documents.explain.document(explain.tell(runtime, text, found, more))


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


def test_every_object_is_held_to_a_file() -> None:
    """A new schema, of a module of its own, has its example here."""
    files = {json.loads(path.read_text())["schema"] for path in GOLDEN.iterdir()}
    named = Counter(
        name
        for module in program()
        for name in set(module.strings())
        if re.fullmatch(r"hvtx/[a-z-]+/\d+", name)
    )
    assert named.keys() == files
    assert named.most_common(1)[0][1] == 1  # each stands in one module
