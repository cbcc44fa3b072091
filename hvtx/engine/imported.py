"""Results of `import` and `adopt`: values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hvtx.engine.state_files import Unread
from hvtx.model.typed import NamedTuple
from hvtx.planner.adoption import Finding, Verdict, Why

OUTCOMES = ("imported", "already", "skipped", "failed")

Outcomes = Mapping[int, tuple[str, str]]  # of a finding's place: outcome, and words if it failed


class ImportedThing(NamedTuple):
    """A device or a rule, and what became of it."""

    kind: str
    key: str
    outcome: str  # one of OUTCOMES
    reason: str | None
    message: str
    evidence: tuple[str, ...]

    @property
    def called(self) -> str:
        """What a sentence calls it."""
        return f"{self.kind} {self.key}"


class ImportedVm(NamedTuple):
    """A VM of another tool, or a file that was not believed in its place."""

    path: str
    id: str | None
    name: str | None
    status: str | None
    vm: str | None  # its name on record, if something of it was taken over
    liveness: str | None
    outcome: str
    reason: str | None
    message: str
    spelling: Mapping[str, str]
    items: tuple[ImportedThing, ...]

    @property
    def called(self) -> str:
        """What a sentence calls it."""
        name = self.vm or self.name or self.id
        return f"VM {name}" if name else self.path


class Import(NamedTuple):
    """A whole run of `import`."""

    tool: str
    applied: bool
    vms: tuple[ImportedVm, ...]

    def outcomes(self) -> Iterator[ImportedVm | ImportedThing]:
        """Each VM, followed by its things."""
        for vm in self.vms:
            yield vm
            yield from vm.items

    def counts(self) -> dict[str, int]:
        """How many VMs and things had each outcome."""
        counts = dict.fromkeys(OUTCOMES, 0)
        for one in self.outcomes():
            counts[one.outcome] += 1
        return counts

    def not_taken(self) -> list[ImportedVm | ImportedThing]:
        """What is there and was not taken over; what is gone needs nobody."""
        return [
            one
            for one in self.outcomes()
            if one.outcome in ("skipped", "failed") and one.reason != Why.GONE.value
        ]

    def left(self) -> bool:
        """Whether something that is there was not taken over."""
        return bool(self.not_taken())


class Adopted(NamedTuple):
    """What `adopt` took over, or would."""

    object: str  # as it was asked for
    applied: bool
    vm: str
    liveness: str
    process: str  # why that liveness, in words
    item: ImportedThing


def imported_vm(verdict: Verdict, outcomes: Outcomes) -> ImportedVm:
    """One VM of `import`, with what became of its things."""
    items = tuple(imported_thing(item, outcomes.get(n)) for n, item in enumerate(verdict.findings))
    words = {item.outcome for item in items}
    outcome, reason = "skipped", verdict.reason or Why.GONE.value
    for candidate in ("imported", "already", "failed"):
        if candidate in words:
            outcome, reason = candidate, ""
            break
    taken = outcome in ("imported", "already")
    return ImportedVm(
        path=verdict.claim.path,
        id=verdict.claim.id,
        name=verdict.claim.name,
        status=verdict.claim.status,
        vm=verdict.vm_name if taken else None,
        liveness=verdict.liveness.value if taken else None,
        outcome=outcome,
        reason=reason or None,
        message=verdict.message or verdict.process,
        spelling=verdict.claim.spelling,
        items=items,
    )


def imported_thing(item: Finding, outcome: tuple[str, str] | None) -> ImportedThing:
    """One thing, with what became of it: a word, and words if it failed."""
    word, words = outcome or ("skipped", "")
    return ImportedThing(
        str(item.kind), item.key, word, item.reason or None, words or item.message, item.evidence
    )


def unread_file(item: Unread) -> ImportedVm:
    """A file that was not believed, in the place of its VM."""
    reason = item.reason.value
    return ImportedVm(
        item.path, None, None, None, None, None, "skipped", reason, item.message, {}, ()
    )
