"""``hvtx/several/1``: of a verb that was given several VMs (`vm start|stop|rm NAME... --json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.errors import HvtxError
from hvtx.model.typed import Any


def document(
    verb: str, done: Sequence[Mapping[str, Any]], failed: Mapping[str, HvtxError]
) -> dict[str, Any]:
    """What was done, each as the verb tells it of one VM, and why of some it was not."""
    return {
        "schema": "hvtx/several/1",
        "verb": verb,
        "vms": list(done),
        "failed": [
            {"vm": name, "code": why.code, "message": why.message, "hint": _hint(why)}
            for name, why in failed.items()
        ],
    }


def _hint(why: HvtxError) -> str:
    """What the error says to do, and what was noted on it, as it is told on standard error."""
    notes = getattr(why, "__notes__", ())
    return "; ".join(filter(None, (why.hint, *notes))) or why.default_hint
