"""`hvtx vm start|stop|rm NAME...` with several names: what each came to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import opened
from hvtx.cli.progress import progress
from hvtx.cli.vm_text import sentences
from hvtx.errors import SeveralFailed

if TYPE_CHECKING:
    from hvtx.commands.show import ShownVm
    from hvtx.engine.together import Several


def start(ctx: click.Context, names: Sequence[str], *, json_: bool) -> None:
    """Start VMs and print each. Raises SeveralFailed."""
    from hvtx.commands import show, vm_start_many

    with opened(ctx, writable=True) as runtime:
        with ExitStack() as stack:
            bar = progress(stack, "VMs started")
            came = vm_start_many.start_each(runtime, names, progress=bar)
        shown = [show.shown_vm(runtime, scope) for scope in came.done.values()]
    _tell("start", "running", shown, came, json_=json_)
    _raise_failed("started", came)


def stop(ctx: click.Context, names: Sequence[str], *, json_: bool, **how: Any) -> None:
    """Stop VMs and print each. Raises SeveralFailed."""
    from hvtx.commands import show, vm_stop_many

    with opened(ctx, writable=True, spends=True) as runtime:
        with ExitStack() as stack:
            bar = progress(stack, "VMs stopped")
            came = vm_stop_many.stop_each(runtime, names, **how, progress=bar)
        shown = [show.shown_vm(runtime, scope) for scope in came.done.values()]
    _tell("stop", "stopped", shown, came, json_=json_)
    _raise_failed("stopped", came)


def rm(ctx: click.Context, names: Sequence[str], *, force: bool, json_: bool) -> None:
    """Remove VMs and print each. Raises SeveralFailed."""
    from hvtx.commands import vm_stop_many

    with opened(ctx, writable=True, spends=True) as runtime, ExitStack() as stack:
        bar = progress(stack, "VMs removed")
        came = vm_stop_many.remove_each(runtime, names, force=force, progress=bar)
    if json_:
        removed = [documents.removed.document("vm", name) for name in came.done]
        render.emit_json(documents.several.document("rm", removed, came.failed))
    else:
        for name in came.done:
            render.say(f"VM {name} is removed")
    _raise_failed("removed", came)


def _tell(verb: str, word: str, shown: Sequence[ShownVm], came: Several, *, json_: bool) -> None:
    if json_:
        done = [documents.vm.document(one) for one in shown]
        render.emit_json(documents.several.document(verb, done, came.failed))
        return
    for one in shown:
        for line in sentences(one, word):
            render.say(line)


def _raise_failed(word: str, came: Several) -> None:
    if not came.failed:
        return
    total = len(came.done) + len(came.failed)
    words = f"{len(came.failed)} of {total} VMs were not {word}: {', '.join(came.failed)}"
    raise SeveralFailed(words, list(came.failed.values()), done=bool(came.done))
