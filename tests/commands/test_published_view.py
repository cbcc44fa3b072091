"""What a member of the group is told is what root is told, but for what is left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from hvtx import documents
from hvtx.commands import publish_view, show
from hvtx.commands.publish_view import Published, PublishedVm
from hvtx.commands.published_view import LINES, ViewSource
from hvtx.commands.show_networks import ShownNetwork
from hvtx.errors import NotFound
from hvtx.host import procfs
from hvtx.model.history import Line
from hvtx.model.policy import NO_POLICY, Policy
from hvtx.model.resource import Kind, Resource
from hvtx.model.vm import Attachment, Epoch, Liveness, Vm
from hvtx.planner.egress import effective
from hvtx.planner.states import VmState
from tests.store.shelf import vm

NOW = "2026-01-02T03:04:05.000006Z"
LIFE = Epoch(1, procfs.boot_id(), 7, recovered=True)
LAN = ShownNetwork(
    name="lan", id="net-lan", bridge="hvbr0", subnets=("10.64.0.0/16",), gateways=("10.64.0.1",),
    nat=True, isolate=True, dhcp=True, mtu=1400, firewall="nftables", passage=True,
    egress=effective(vm=NO_POLICY, network=Policy("internet")), vms=("web",),
    resources=tuple(
        Resource(n, "filter", f"rule {n}", "committed", "", {"what": role}, {}, 0, 0, None, "net-lan")
        for n, role in enumerate(("pass", "passage", "base", ""))
    ),
    uplink="eth0", sources=("192.0.2.7",), block_size=26,
)  # fmt: skip


def published(
    *, vms: Sequence[PublishedVm] = (), lines: int = 0, networks: Sequence[ShownNetwork] = (LAN,)
) -> ViewSource:
    """What is read of a view with these in it."""
    history = [
        Line(NOW, n, "start", "web", None, None, "began", None, "vm start web")
        for n in range(1, lines + 1)
    ]
    told = Published("/state", NOW, 7, LIFE, (LIFE,), tuple(vms), tuple(networks), tuple(history))
    return ViewSource(json.loads(json.dumps(documents.view.document(told))), 7)


def test_each_field_of_a_network_is_told() -> None:
    for name, default in ShownNetwork._field_defaults.items():
        assert getattr(LAN, name) != default, "or nobody sees that it is lost"
    (seen,) = published().list_networks()
    assert seen._replace(resources=()) == LAN._replace(resources=())
    rows = [[(r.kind, r.key, r.state, r.role) for r in n.resources] for n in (seen, LAN)]
    assert rows[0] == rows[1]


def test_an_older_view_tells_no_roles() -> None:
    told = Published("/state", NOW, 7, LIFE, (LIFE,), (), (LAN,), ())
    document = json.loads(json.dumps(documents.view.document(told)))
    del document["networks"][0]["roles"]
    assert [row.role for row in ViewSource(document, 7).show_network("lan").resources] == [""] * 4


def test_each_field_of_a_container_is_told_but_for_the_namespace() -> None:
    """The TAP device inside is, which its program opens."""
    own = publish_view._published_vm(vm("web"))._replace(
        hypervisor="cni", attachment=Attachment("podnet", "c0ffee", "eth0", "/n", "p", "q", "u")
    )
    spec = {"device": "hvt0", "netns": "/proc/7/ns/net", "tap": {"name": "tap0", "owner": 7}}
    rows = [
        Resource(1, Kind.VETH, "hvt0", "committed", "", spec, {"cookie": 9}, 1, 1, own.id, None),
        Resource(2, Kind.LEASE, "10.64.0.2", "committed", "", {}, {}, 1, 1, own.id, None),
    ]
    mine = _documented(own, rows)
    shown = PublishedVm(own, tuple(map(publish_view._published_row, rows)), None, None)
    view = published(vms=[shown])
    theirs = documents.vm.document(view.show_vm("web"))
    assert theirs["attachment"]["tap"] == "tap0"
    assert {**theirs, "state": None, "guest": None, "notes": []} == mine
    assert "/proc/7" not in json.dumps(view._seen["vms"])


def _documented(own: Vm, rows: Sequence[Resource]) -> dict[str, Any]:
    shown = show.describe_vm(own, VmState.RUNNING, Liveness.ALIVE, rows, None, {})
    return {**documents.vm.document(shown), "state": None, "guest": None, "notes": []}


def test_a_vm_of_which_no_line_was_published_may_be_in_the_history() -> None:
    for lines, where in ((LINES, f"among the last {LINES} lines of the history"),
                         (LINES - 1, "in the history")):  # fmt: skip
        with pytest.raises(NotFound, match=f"'old' is neither on record nor {where}"):
            published(lines=lines).list_history(limit=5, vm="old")


@pytest.mark.parametrize(
    ("lines", "wanted", "cut"),
    [
        (LINES, {"limit": LINES}, False),
        (LINES, {"limit": LINES + 1}, True),
        (LINES - 1, {"limit": LINES + 1}, False),
        (LINES, {"limit": 5, "operation": 7}, True),
        (LINES, {"limit": 5, "operation": 7, "since": "2027"}, False),
    ],
)
def test_who_gets_fewer_lines_than_he_asked_for_is_told_that_there_may_be_more(
    lines: int, wanted: dict[str, Any], cut: bool
) -> None:
    view = published(lines=lines)
    view.list_history(**wanted)
    assert (f"the last {LINES} lines" in view.note) == cut
