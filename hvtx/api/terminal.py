"""What only a program at a terminal needs beside the verbs: the command line's own part.

Not part of the library that :mod:`hvtx` exports (docs/library.md).
"""

from __future__ import annotations

from hvtx import commands
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hvtx.api.calls import Events
    from hvtx.engine.gc_plan import Report
    from hvtx.engine.units import Unit
    from hvtx.model.diagram import Diagram


def devices() -> list[str]:
    """The names of all devices of this host, for a shell's completion."""
    return commands.show.devices()


def hypervisors() -> tuple[str, ...]:
    """The words of ``--hypervisor``."""
    from hvtx.engine.vm_options import HYPERVISORS

    return HYPERVISORS


def event_teller(*, verbose: bool) -> Events | None:
    """Who is told what operations do: a person who asked for it, or the journal."""
    from hvtx.engine import notify

    return notify.listener(verbose=verbose)


def under_journal() -> bool:
    """Whether standard error is read by the journal."""
    from hvtx.engine import notify

    return notify.under_journal()


def status(words: str) -> None:
    """Tell systemd how far this is, where the unit listens."""
    from hvtx.engine import notify

    notify.status(words)


def diagram(report: Report) -> Diagram:
    """What a plan was made from, as a diagram shows it."""
    from hvtx.engine import gc_plan

    return gc_plan.diagram(report)


def write_page(path: str, text: str, mode: int) -> None:
    """Write the page of a plan where a person said. Raises as ``files.unwritten`` says."""
    from hvtx.engine.files import unwritten_option, write_out

    try:
        write_out(path, text, mode=mode)
    except OSError as problem:
        raise unwritten_option("page", path, problem, "hvtx gc --plan --html") from problem


def write_for_all(path: str, text: str) -> None:
    """Write a file that everybody may read, atomically."""
    from hvtx.engine import files

    files.write_for_all(path, text)


def listing(units: Sequence[Unit]) -> str:
    """Units as ``systemctl cat`` shows them."""
    from hvtx.engine import units as engine

    return engine.listing(units)
