"""What the commands do that scripts call a thousand times, without click (see ``hvtx.cli.quick``).

``options`` are the global options. Click's commands of the same names call these too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.opening import host_of, telling_refusal
from hvtx.cli.streams import say_beside
from hvtx.errors import EXIT_PLAN_NOT_EMPTY
from hvtx.model.typed import Any

Options = Mapping[str, Any]


def start(options: Options, name: str, *, json_: bool) -> None:
    """`vm start`."""
    from hvtx.cli.vm_text import show_done

    show_done(host_of(options).vm.start(name), "running", json_=json_)


def stop(options: Options, name: str, *, timeout: float, force: bool, json_: bool) -> None:
    """`vm stop`."""
    from hvtx.cli.vm_text import show_done

    tell = None if json_ else render.tell
    done = host_of(options).vm.stop(name, timeout=timeout, force=force, tell=tell)
    show_done(done, "stopped", json_=json_)


def remove(options: Options, name: str, *, force: bool, json_: bool) -> None:
    """`vm rm`."""
    host_of(options).vm.rm(name, force=force)
    if json_:
        render.emit_json(documents.removed.document("vm", name))
    else:
        render.say(f"VM {name} is removed")


def show(options: Options, name: str, *, json_: bool) -> None:
    """`vm show`."""
    with host_of(options).reading() as source:
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
        render.say(render.wrapped(f"note: {render.plain(note)}", ""))


def explain(options: Options, name: str, *, json_: bool) -> None:
    """`explain`."""
    told = host_of(options).explain(name)
    if json_:
        render.emit_json(documents.explain.document(told))
        return
    from hvtx.cli.explain_text import show_explanation

    show_explanation(told)


def list_vms(options: Options, *, json_: bool) -> None:
    """`vm ls`."""
    with host_of(options).reading() as source:
        vms = source.list_vms()
    if json_:
        render.emit_json(documents.vms.document(vms, source.view))
        return
    from hvtx.cli.vm_text import HEADERS, line_of

    below = ("ports", "address", "network", "pid", "guest")
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
    plans = host_of(options).gc
    with telling_refusal(json_, documents.plan.refused):
        report = plans.plan(everything=everything, whole=bool(html))
    if out and report.refused is None:
        plans.save(report, out, mode=mode)
    if html and report.refused is None:
        from hvtx.cli.page.file import write_page

        write_page(report, html, mode)
    if report.refused is not None:
        if json_:
            render.emit_parts(documents.plan_pieces.pieces(report))
        raise report.refused
    with render.beside(out, html):
        if json_:
            render.emit_parts(documents.plan_pieces.pieces(report))
        tell_notes(report.notes)
        if not json_:
            from hvtx.cli.plan_text import show_plan

            by = f"hvtx gc --apply{saved_as(out)}"
            show_plan(report.plan, evidence=evidence or everything, by=by, blocks=report.blocks)
    something = report.plan.acting() or report.blocks
    return EXIT_PLAN_NOT_EMPTY if detailed_exitcode and something else 0


def saved_as(out: str | None) -> str:
    """What names a saved plan behind a command; nothing where none was saved."""
    if out is None:
        return ""
    from shlex import quote

    return f" {render.plain(quote(out))}"


def tell_notes(notes: Sequence[str]) -> None:
    """What could not be inspected, so that nothing of it is in the plan."""
    for note in notes:
        say_beside("note", render.plain(note))
