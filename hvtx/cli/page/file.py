"""The page of a plan, as a file."""

from __future__ import annotations

import os

from hvtx import documents
from hvtx.cli.page.plan import page
from hvtx.engine import gc_plan
from hvtx.engine.files import unwritten, write_out
from hvtx.errors import UsageError
from hvtx.model.typed import Any


def write_page(report: Any, path: str, mode: int) -> None:
    """Write it; raises UsageError where that cannot be."""
    text = page(
        documents.plan.document(report),
        gc_plan.diagram(report),
        host=os.uname().nodename,
        notes=report.notes,
    )
    try:
        write_out(path, text, mode=mode)
    except OSError as problem:
        words, hint = unwritten("page", path, problem, option="--html")
        raise UsageError(words, hint=hint) from problem
