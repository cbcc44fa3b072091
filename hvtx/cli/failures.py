"""What a command that went on past failures ends with: one error, which names the first of them."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.api import plans
from hvtx.errors import PartialFailure
from hvtx.model.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hvtx import GcReport, Import, Recovery, Repair

_NAMED = 3  # VMs that a hint names


class Failure(NamedTuple):
    """A thing that was not seen to, and why."""

    what: str
    why: str


def raise_for_plan(report: GcReport, hint: str) -> None:
    """Raise PartialFailure for what a plan that was carried out left undone."""
    items = [Failure(f"{item.kind} {item.key}", item.message) for item in plans.failed(report)]
    steps = [
        Failure(" ".join(filter(None, ("block", step.network, step.cidr))), step.message)
        for step in report.blocks
        if step.outcome == "failed"
    ]
    if steps and not items:
        hint = "hvtx cluster status tells whether the cluster answers; hvtx gc --apply tries again"
    _raise([*items, *steps], "collected", hint)


def raise_for_recovery(done: Recovery) -> None:
    """The same of `recover`: a VM is not tried again in this life of the host, all else is."""
    failed = [Failure(*each) for each in done.failed]
    vms = [each.what.removeprefix("VM ") for each in failed if each.what.startswith("VM ")]
    named = " ".join(vms[:_NAMED]) if len(vms) <= _NAMED else "NAME"
    starts = [f"hvtx vm start {named} tries again"] if vms else []
    rest = ["hvtx recover tries again"] if len(vms) < len(failed) else []
    _raise(failed, "recovered", "; then ".join([*rest, *starts]))


def raise_for_repair(done: Repair) -> None:
    """The same of `repair`."""
    failed = [Failure(f"{each.kind} {each.key}", each.why) for each in done.failed]
    hint = "hvtx doctor shows what is wrong, with a fix for each; then: hvtx repair"
    _raise(failed, "put back", hint)


def raise_for_import(done: Import) -> None:
    """The same of `import`."""
    failed = [Failure(each.called, each.message) for each in done.not_taken()]
    hint = "the result has a reason for each; hvtx adopt --vm NAME OBJECT takes what you vouch for"
    _raise(failed, "taken over", hint)


def _raise(failed: Sequence[Failure], undone: str, hint: str) -> None:
    if not failed:
        return
    first, words = failed[0], f"was not {undone}"
    if len(failed) > 1:
        words = f"and {len(failed) - 1} more were not {undone}"
    raise PartialFailure(f"{first.what} {words}: {first.why}", hint=hint)
