"""How far a command is: a bar on a terminal, lines in the journal, the unit's status; else nothing.

All of it goes to standard error, and to systemd by sd_notify(3) where the unit listens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack

from hvtx.cli import render
from hvtx.model.typed import Any

Progress = Callable[[int, int, str], None]
_STEPS = 10  # lines in the journal, of a long run


def progress(stack: ExitStack, label: str) -> Progress:
    """What is told ``done, total, what`` from time to time; ``label`` says what is being done.

    A bar is there from the second step on, and goes with the stack.
    """
    if sys.stderr.isatty():
        return _bar(stack, label)
    if "JOURNAL_STREAM" in os.environ or "NOTIFY_SOCKET" in os.environ:
        return _lines(label)
    return lambda done, total, what: None


def _bar(stack: ExitStack, label: str) -> Progress:
    state: dict[str, Any] = {}

    def update(done: int, total: int, what: str) -> None:
        if not state:
            if done >= total:
                return
            from rich.console import Console
            from rich.progress import Progress

            bar = stack.enter_context(
                Progress(
                    console=Console(stderr=True),
                    transient=True,
                    redirect_stdout=sys.stdout.isatty(),
                )
            )
            state["bar"], state["task"] = bar, bar.add_task(label, total=total)
        state["bar"].update(state["task"], completed=done, description=render.plain(what))

    return update


def _lines(label: str) -> Progress:
    from hvtx.api import terminal

    told = {"step": 0}

    def update(done: int, total: int, what: str) -> None:
        del what
        words = f"{label}: {done} of {total}"
        terminal.status(words)
        step = done * _STEPS // total
        if step > told["step"] and total > 1 and terminal.under_journal():
            told["step"] = step
            render.tell(words)

    return update
