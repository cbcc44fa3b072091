"""`vm show` of a VM of which not all is there."""

from __future__ import annotations

import json

import pytest

from hvtx import documents
from hvtx.commands import publish_view, show
from hvtx.commands.publish_view import PublishedVm
from hvtx.model.resource import Kind, Resource
from hvtx.model.vm import Interface, Liveness, Vm
from hvtx.planner.states import VmState
from tests.commands.test_published_view import published
from tests.store.shelf import vm

NETWORKS = ("lan", "dmz", "san")


def _vm() -> Vm:
    interfaces = tuple(
        Interface(n, f"net-{name}", name, f"02:00:00:00:00:0{n}", f"10.{n}.0.2", None, ())
        for n, name in enumerate(NETWORKS)
    )
    return vm("web")._replace(interfaces=interfaces)


def _taps(own: Vm, *networks: str) -> list[Resource]:
    return [
        Resource(
            n, Kind.TAP, f"hv{name}", "releasing", f"mark {n}", {}, {}, 1, 1, own.id, f"net-{name}"
        )
        for n, name in enumerate(networks)
    ]


@pytest.mark.parametrize("left", [NETWORKS, ("dmz",), ("san", "lan"), ("lan", "san"), ()])
@pytest.mark.parametrize("as_published", [False, True])
def test_an_interface_is_shown_with_its_own_device(
    left: tuple[str, ...], as_published: bool
) -> None:
    """Of some the device is gone: a stop that ended with 9 let go of the others."""
    own = _vm()
    rows = _taps(own, *left)
    shown = show.describe_vm(own, VmState.STOPPING, Liveness.DEAD, rows, None, {})
    if as_published:
        told = PublishedVm(own, tuple(map(publish_view._published_row, rows)), None, None)
        shown = published(vms=[told], networks=()).show_vm("web")
    found = {i["network"]: i["device"] for i in documents.vm.document(shown)["interfaces"]}
    assert found == {name: f"hv{name}" if name in left else None for name in NETWORKS}


def test_a_view_of_an_earlier_version_tells_devices_by_their_order() -> None:
    own = _vm()
    rows = [publish_view._published_row(row)[:5] for row in _taps(own, *NETWORKS)]
    view = published(vms=[PublishedVm(own, tuple(rows), None, None)], networks=())
    assert [i.device for i in view.show_vm("web").interfaces] == [f"hv{n}" for n in NETWORKS]
    assert "net-lan" not in json.dumps([entry["rows"] for entry in view._seen["vms"]])
