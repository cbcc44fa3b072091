"""``host.gc``: plans of what dead VMs and interrupted operations left, and carrying them out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from hvtx import commands, documents
from hvtx.api.calls import Calls, flags, named
from hvtx.api.calls import path as checked_path
from hvtx.errors import UsageError
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.engine.gc_plan import Report
    from hvtx.model.plan import Item

    Path = str | os.PathLike[str]
    Progress = Callable[[int, int, str], None]  # how many are done, of how many, what is next

PRIVATE = 0o600  # permissions of a plan's file
MODE_MOST = 0o777


class Plans:
    """Verbs of plans. Each returns a report: the plan, and what became of each item.

    Where nothing may be concluded, nothing is done, the plan is empty, and ``refused`` is the
    error that the command line ends with.
    """

    def __init__(self, calls: Calls) -> None:
        """Made by :attr:`hvtx.Host.gc`."""
        self._calls = calls

    def plan(self, *, everything: bool = False, whole: bool = False) -> Report:
        """``gc --plan``: what would be done, and why; ``everything`` lists all of others too.

        ``whole``: the report's ``snapshot`` is to have all rows one by one, also those of VMs that
        run undisturbed.
        """
        from hvtx.engine import gc_plan

        flags(everything=everything, whole=whole)
        with self._calls.opened(writable=False) as runtime:
            return gc_plan.make_plan(runtime, everything=everything, whole=whole)

    def apply(
        self,
        reviewed: Report | Path | None = None,
        *,
        unrecorded: bool = False,
        progress: Progress | None = None,
    ) -> Report:
        """``gc --apply``: make a plan and carry it out, past errors; each item is verified again.

        ``unrecorded``: what is marked and on no record goes too, if nobody lives who may need it.
        ``reviewed``, a report or the path of a saved plan: nothing but that (with ``unrecorded``
        also what it shows as such), and nothing at all if an item of it would be planned otherwise
        now (StalePlan). Raises NotFound and UsageError for
        the file, Busy, Refused.
        """
        from hvtx.engine import gc_plan

        flags(unrecorded=unrecorded)
        saved = _identities(reviewed, heuristic=False, unrecorded=unrecorded)
        with self._calls.opened(writable=True, create=False, spends=True) as runtime:
            if runtime.refused is not None:
                return gc_plan.make_plan(runtime)
            return commands.gc.collect(
                runtime, saved=saved, unrecorded=unrecorded, progress=progress or _silently
            )

    def plan_heuristic(self) -> Report:
        """``gc --heuristic --plan``: the emergency mode, which guesses by name and subnet."""
        with self._calls.opened(writable=False) as runtime:
            return commands.gc_heuristic.make_plan(runtime)

    def apply_heuristic(self, reviewed: Report | Path | None = None) -> Report:
        """``gc --heuristic --apply --yes``: remove what is guessed. Raises as :meth:`apply`."""
        saved = _identities(reviewed, heuristic=True)
        first = self._calls.without_store(commands.gc_heuristic.make_plan, spends=True)
        if first is not None:
            first = commands.gc_heuristic.reviewed(first, saved)
            if not first.plan.acting():
                return first
        with self._calls.opened(writable=True, spends=True) as runtime:
            if runtime.refused is not None:
                return commands.gc_heuristic.make_plan(runtime)
            return commands.gc_heuristic.apply(runtime, saved=saved)

    def plan_installation(self, installation: str) -> Report:
        """``gc --plan --installation ID``: what is left of an installation whose store is gone.

        Raises UsageError, NotFound, Conflict, and Refused where nothing may be concluded.
        """
        return self._of_lost(installation, to_remove=False)

    def apply_installation(self, installation: str) -> Report:
        """``gc --apply --installation ID --yes``. Raises Conflict too where it may still live."""
        report = self._of_lost(installation, to_remove=True)
        if not report.plan.acting():
            return report._replace(applied=True)
        with self._calls.opened(writable=True, spends=True) as runtime:
            return commands.gc_installation.apply(runtime, installation)

    def installations(self) -> list[str]:
        """What ``plan_installation`` can be asked about: others with devices here, lost or not."""
        with self._calls.opened(writable=False) as runtime:
            return commands.gc_installation.seen(runtime.installation)

    def _of_lost(self, installation: str, *, to_remove: bool) -> Report:
        """The plan, made for reading: what is refused must not even make a store."""
        named(installation, "installation")
        with self._calls.opened(writable=False) as runtime:
            if runtime.refused is not None:
                raise runtime.refused
            report = commands.gc_installation.make_plan(runtime, installation)
            if to_remove:
                commands.gc_installation.refuse_living(runtime, installation, report.plan)
            return report

    @staticmethod
    def save(report: Report, path: Path, *, mode: int = PRIVATE) -> None:
        """Write a plan to a file, which ``apply`` and ``gc --apply FILE`` take.

        Raises NotFound (its directory), NotPermitted, UsageError (it is no file).
        """
        from hvtx.engine.saved_plan import save_plan

        if not hasattr(report, "refused"):
            raise UsageError(f"the plan is {report!r}", hint="give what plan() returned")
        if not isinstance(mode, int) or isinstance(mode, bool) or not 0 <= mode <= MODE_MOST:
            raise UsageError(f"mode is {mode!r}", hint="it is permissions, such as 0o640")
        save_plan(documents.plan.document(report), checked_path(path, "path"), mode)


def failed(report: Report) -> list[Item]:
    """The items that were tried in vain: with any, the command line exits with 9."""
    from hvtx.engine.gc_plan import failed_items

    return failed_items(report.plan, guessed=report.heuristic)


def _silently(done: int, total: int, what: str) -> None:
    """No progress is told."""


def _identities(
    reviewed: Report | Path | None, *, heuristic: bool, unrecorded: bool = False
) -> Sequence[tuple[Any, ...]] | None:
    """What a reviewed plan would do; None: none was reviewed. Raises NotFound, UsageError."""
    if reviewed is None:
        return None
    from hvtx.engine.saved_plan import asked_for, identities_of, load_plan

    if isinstance(reviewed, str | os.PathLike):
        named_file = checked_path(reviewed, "the plan")
        return load_plan(named_file, heuristic=heuristic, unrecorded=unrecorded)
    if not hasattr(reviewed, "refused"):
        raise UsageError(
            f"the plan is {reviewed!r}", hint="give what plan() returned, or the path of a file"
        )
    if reviewed.refused is not None:
        raise reviewed.refused
    if reviewed.heuristic is not heuristic:
        raise UsageError(
            f"the plan is {'' if reviewed.heuristic else 'not '}one of the emergency mode",
            hint="plan() is for apply(), plan_heuristic() for apply_heuristic()",
        )
    planned = [item.identity() for item in reviewed.plan.judged()]
    return asked_for(planned, unrecorded=unrecorded) + identities_of(reviewed.blocks)
