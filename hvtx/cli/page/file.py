"""The page of a plan, as a file."""

from __future__ import annotations

import os

from hvtx import documents
from hvtx.api import terminal
from hvtx.cli.page.plan import page
from hvtx.model.typed import Any


def write_page(report: Any, path: str, mode: int) -> None:
    """Write it; raises UsageError where that cannot be."""
    text = page(
        documents.plan.document(report),
        terminal.diagram(report),
        host=os.uname().nodename,
        notes=report.notes,
    )
    terminal.write_page(path, text, mode)
