"""``hvtx/vms/1``: `vm ls --json`."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.documents import parts, vm
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.published_view import AsOf
    from hvtx.commands.show import ShownVm


def document(shown: Iterable[ShownVm], view: AsOf | None = None) -> dict[str, Any]:
    """The objects of all VMs."""
    return {
        "schema": "hvtx/vms/1",
        "vms": [vm.document(one) for one in shown],
        **parts.seen_in(view),
    }
