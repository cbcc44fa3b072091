"""The page of a plan, as a file."""

from __future__ import annotations

import os
from typing import Any

from hvtx import documents
from hvtx.api import terminal
from hvtx.cli.page.plan import page


def write_page(report: Any, path: str, mode: int) -> None:
    """Write it; raises UsageError where that cannot be."""
    text = page(
        documents.plan.document(report),
        terminal.diagram(report),
        host=os.uname().nodename,
        notes=report.notes,
    )
    terminal.write_page(path, text, mode)
