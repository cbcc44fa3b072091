"""What the commands do that scripts call a thousand times, without click (see ``hvtx.cli.quick``).

``options`` are the global options. Click's commands of the same names call these too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.opening import again_when_full, opened, reading, say_beside, telling_refusal
from hvtx.errors import EXIT_PLAN_NOT_EMPTY
from hvtx.model.typed import Any

Options = Mapping[str, Any]


def start(options: Options, name: str, *, json_: bool) -> None:
    """`vm start`."""
    from hvtx.cli.vm_text import show_done
    from hvtx.commands import vm_start

    with opened(options, writable=True) as runtime:
        show_done(runtime, vm_start.start_vm(runtime, name), "running", json_=json_)


@again_when_full
def stop(options: Options, name: str, *, timeout: float, force: bool, json_: bool) -> None:
    """`vm stop`."""
    from hvtx.cli.vm_text import show_done
    from hvtx.commands import vm_stop

    with opened(options, writable=True, spends=True) as runtime:
        tell = None if json_ else render.tell
        scope = vm_stop.stop_vm(runtime, name, timeout=timeout, force=force, tell=tell)
        show_done(runtime, scope, "stopped", json_=json_)


@again_when_full
def remove(options: Options, name: str, *, force: bool, json_: bool) -> None:
    """`vm rm`."""
    from hvtx.commands import vm_stop

    with opened(options, writable=True, spends=True) as runtime:
        vm_stop.remove_vm(runtime, name, force=force)
    if json_:
        render.emit_json(documents.removed.document("vm", name))
    else:
        render.say(f"VM {name} is removed")


def show(options: Options, name: str, *, json_: bool) -> None:
    """`vm show`."""
    with reading(options) as source:
        shown = source.show_vm(name)
    if json_:
        render.emit_json(documents.vm.document(shown, source.view))
        return
    from hvtx.cli.vm_text import fields_of, interface_fields

    render.fields(fields_of(shown))
    for interface in shown.interfaces:
        render.say("")
        render.fields(interface_fields(interface))
    render.resources(shown.resources)
    for note in shown.notes:
        render.say(f"note: {note}")


def list_vms(options: Options, *, json_: bool) -> None:
    """`vm ls`."""
    with reading(options) as source:
        vms = source.list_vms()
    if json_:
        render.emit_json(documents.vms.document(vms, source.view))
        return
    from hvtx.cli.vm_text import HEADERS, line_of

    below = ("ports", "address", "network")
    render.table(HEADERS, [line_of(shown) for shown in vms], empty="no VMs", below=below)


def plan(
    options: Options,
    *,
    json_: bool,
    everything: bool = False,
    evidence: bool = False,
    detailed_exitcode: bool = False,
    out: str | None = None,
    html: str | None = None,
    mode: int = 0o600,
) -> int:
    """`gc --plan`; returns the exit code. ``mode`` is that of the files that are written."""
    from hvtx.engine import gc_plan

    told = telling_refusal(json_, documents.plan.refused)
    with told, opened(options, writable=False) as runtime:
        report = gc_plan.make_plan(runtime, everything=everything)
    if out and report.refused is None:
        from hvtx.engine import saved_plan

        saved_plan.save_plan(documents.plan.document(report), out, mode)
    if html and report.refused is None:
        from hvtx.cli.page.file import write_page

        write_page(report, html, mode)
    if json_:
        render.emit_json(documents.plan.document(report))
    if report.refused is not None:
        raise report.refused
    tell_notes(report.notes)
    if not json_:
        from hvtx.cli.plan_text import show_plan

        show_plan(report.plan, evidence=evidence or everything)
    return EXIT_PLAN_NOT_EMPTY if detailed_exitcode and report.plan.acting() else 0


def tell_notes(notes: Sequence[str]) -> None:
    """What could not be inspected, so that nothing of it is in the plan."""
    for note in notes:
        say_beside(f"note: {render.plain(note)}")
