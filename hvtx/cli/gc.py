"""`hvtx gc`, `hvtx recover`, `hvtx repair`: what is wrong, why, and the fix."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

import click

from hvtx import documents
from hvtx.cli import render, verbs
from hvtx.cli.common import (
    Given,
    Written,
    as_json,
    complete_either,
    complete_file,
    complete_installation,
    host_of,
    telling_refusal,
)
from hvtx.cli.failures import raise_for_plan, raise_for_recovery, raise_for_repair
from hvtx.cli.plan_text import show_items, show_plan
from hvtx.cli.progress import progress
from hvtx.errors import EXIT_PLAN_NOT_EMPTY, UsageError
from hvtx.model.typed import Any

MODES = ("0600", "0640", "0644")  # of what is written: for its owner, a group, everybody


_VERBS = ("plan", "apply")  # `gc plan` and `gc apply` are what other programs have, and no files


_ALL_APPLIED = "hvtx gc --plan takes them; hvtx gc --apply does all that it would do"


def _yes_alone(mode: str) -> UsageError:
    hint = "nothing is asked here: hvtx gc --apply" if mode == "apply" else None
    return UsageError("--yes needs --apply with --heuristic or --installation", hint=hint)


def _is_no_file(word: str) -> bool:
    """Whether it looks like the name of a VM, and no file is called so."""
    return "/" not in word and "." not in word and not os.path.lexists(word)


def _no_plan(word: str) -> str:
    """What is said where no plan is called so: a VM or a device, most likely."""
    return f"it looks at everything: hvtx gc --plan; at one thing: hvtx explain {word}"


def _both_actions(file: str | None, given: dict[str, Any]) -> str:
    """The two commands of which one was meant, with what else was given."""
    if file and file not in _VERBS and _is_no_file(file):
        return _no_plan(file)
    command, yes = "hvtx gc", ""
    if given["installation"] is not None:
        command, yes = f"hvtx gc --installation {given['installation']}", " --yes"
    elif given["heuristic"]:
        command, yes = "hvtx gc --heuristic", " --yes"
    saved = f" {file}" if file not in (None, *_VERBS) else ""
    return f"{command} --plan shows the plan, {command} --apply{yes}{saved} carries it out"


@click.command()
@click.option("--plan", is_flag=True, help="Show what would be done, and why; changes nothing.")
@click.option("--apply", is_flag=True, help="Apply the plan; each item is verified again first.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of plans.")
@click.option(
    "--evidence", is_flag=True, help="Show the evidence for every item, skipped ones included."
)
@click.option(
    "--all", "everything", is_flag=True, help="With --plan: list every foreign device and rule too."
)
@click.option(
    "--out",
    type=Written(),
    metavar="FILE",
    shell_complete=complete_file,
    help="With --plan: save the plan for --apply FILE.",
)
@click.option(
    "--html",
    type=Written(),
    metavar="FILE",
    shell_complete=complete_file,
    help="With --plan: write the plan as an HTML page with a diagram.",
)
@click.option(
    "--mode",
    "permissions",
    type=click.Choice(MODES),
    help=f"With --out or --html: permissions of the file, {MODES[0]} without it.",
)
@click.option(
    "--detailed-exitcode", is_flag=True, help="With --plan: exit 2 if there is something to do."
)
@click.option(
    "--unrecorded",
    is_flag=True,
    help="With --apply: also remove what is marked but not on record; with FILE, what it shows so.",
)
@click.option(
    "--heuristic", is_flag=True, help="The emergency mode: guess by name and subnet, without proof."
)
@click.option(
    "--installation",
    type=Given(),
    metavar="ID",
    shell_complete=complete_installation,
    help="Collect the remains of an installation whose store is gone; --apply needs --yes.",
)
@click.option(
    "--yes", is_flag=True, help="With --heuristic or --installation: confirm the removal."
)
@click.argument("file", type=Given(), required=False, shell_complete=complete_file)
@as_json
@click.pass_context
def gc(ctx: click.Context, /, file: str | None, json_: bool, **more: Any) -> int:
    """Show or remove what dead VMs and interrupted operations left behind.

    Only what is on record, carries the record's own mark, and belongs to a VM that is proven dead
    is ever removed. Everything else is left alone, with a reason.
    """
    modes = [mode for mode in ("plan", "apply", "schema") if more.pop(mode)]
    if len(modes) != 1:
        words = " and ".join(f"--{mode}" for mode in modes)
        raise UsageError(
            f"{words}: give only one of them" if modes else "no action given",
            hint=_both_actions(file, more),
        )
    mode = modes[0]
    if mode == "schema":
        return _schema(file, more)
    guessing, yes, lost = more.pop("heuristic"), more.pop("yes"), more.pop("installation")
    if lost is not None:
        _alone_with_installation(lost, more, guessing=guessing, file=file)
        return _installation(ctx, lost, mode, more, yes=yes, json_=json_)
    if guessing and (more["everything"] or more["unrecorded"] or more["html"]):
        raise UsageError("--all, --unrecorded and --html cannot be combined with --heuristic")
    if yes and not (guessing and mode == "apply"):
        raise _yes_alone(mode)
    if mode == "plan":
        if file or more["unrecorded"]:
            raise _needs_apply(file)
        if guessing:
            from hvtx.cli import heuristic

            mode_ = _permissions(more)
            exits = more["detailed_exitcode"]
            return heuristic.plan(
                ctx, out=more["out"], mode=mode_, detailed_exitcode=exits, json_=json_
            )
        del more["unrecorded"]
        options = ctx.find_root().obj
        return verbs.plan(options, json_=json_, mode=_permissions(more), **more)
    if (
        any(more[name] for name in ("everything", "out", "html", "permissions"))
        or (more["detailed_exitcode"])
    ):
        raise UsageError(
            "--all, --out, --html, --mode and --detailed-exitcode need --plan", hint=_ALL_APPLIED
        )
    if guessing:
        from hvtx.cli import heuristic

        return heuristic.apply(ctx, file, yes=yes, json_=json_)
    return _apply(ctx, file, unrecorded=more["unrecorded"], evidence=more["evidence"], json_=json_)


def _needs_apply(file: str | None) -> UsageError:
    hint = "hvtx gc --apply --unrecorded"
    if file:
        hint = f"hvtx gc --plan --out {file} saves a plan, hvtx gc --apply {file} carries it out"
        if _is_no_file(file):
            hint = _no_plan(file)
    return UsageError("FILE and --unrecorded need --apply", hint=hint)


def _permissions(more: dict[str, Any]) -> int:
    """The mode of the files that are written; takes it out of the options."""
    given = more.pop("permissions")
    if given and not (more["out"] or more["html"]):
        raise UsageError(
            "--mode needs --out or --html", hint=f"hvtx gc --plan --mode {given} --out plan.json"
        )
    return int(given or MODES[0], 8)


def _alone_with_installation(
    lost: str, more: dict[str, Any], *, guessing: bool, file: str | None
) -> None:
    names = ("everything", "out", "html", "permissions", "unrecorded")
    if guessing or file or any(more[name] for name in names):
        raise UsageError(
            "--installation needs --plan or --apply, and cannot be combined with another selection",
            hint=f"hvtx gc --plan --installation {lost}; then, to remove it:"
            f" hvtx gc --apply --installation {lost} --yes",
        )


def _installation(
    ctx: click.Context, lost: str, mode: str, more: dict[str, Any], *, yes: bool, json_: bool
) -> int:
    """What is left of an installation whose store is gone: show it, or remove it."""
    applying = mode == "apply"
    if applying and not yes:
        raise UsageError(
            "--installation removes resources that are not on record, so --apply needs --yes",
            hint=f"read hvtx gc --plan --installation {lost} first",
        )
    if (yes and not applying) or (applying and more["detailed_exitcode"]):
        raise UsageError("--yes needs --apply, and --detailed-exitcode needs --plan")
    plans = host_of(ctx).gc
    with telling_refusal(json_, lambda why: documents.plan.refused(why, installation=lost)):
        report = plans.apply_installation(lost) if applying else plans.plan_installation(lost)
    if json_:
        render.emit_json(documents.plan.document(report, lost))
    else:
        by = f"hvtx gc --apply --installation {lost} --yes"
        show_plan(report.plan, done=applying, evidence=True, by=by)
    if applying:
        raise_for_plan(report, f"hvtx gc --plan --installation {lost} shows what is left, and why")
    return EXIT_PLAN_NOT_EMPTY if more["detailed_exitcode"] and report.plan.acting() else 0


def _schema(file: str | None, more: dict[str, Any]) -> int:
    if file or any(more.values()):
        raise UsageError("--schema takes no other option")
    render.emit_json(documents.plan_schema.document())
    return 0


def _apply(
    ctx: click.Context, file: str | None, *, unrecorded: bool, evidence: bool, json_: bool
) -> int:
    told = telling_refusal(json_, documents.plan.refused)
    with told, ExitStack() as stack:
        report = host_of(ctx).gc.apply(
            file, unrecorded=unrecorded, progress=progress(stack, "collecting")
        )
    if json_:
        render.emit_json(documents.plan.document(report))
    if report.refused is not None:
        raise report.refused
    verbs.tell_notes(report.notes)
    if not json_:
        show_plan(report.plan, done=True, evidence=evidence, blocks=report.blocks)
    raise_for_plan(
        report, "hvtx gc --plan shows what is left, and why; hvtx gc --apply tries again"
    )
    return 0


# -- recover and repair ----------------------------------------------------------------------------


@click.command()
@click.option(
    "--accept-rollback",
    is_flag=True,
    help="Continue although the state store is older than what this host has seen.",
)
@click.option(
    "--new-namespace",
    is_flag=True,
    help="Confirm that the store's network namespace no longer exists.",
)
@as_json
@click.pass_context
def recover(ctx: click.Context, accept_rollback: bool, new_namespace: bool, json_: bool) -> None:
    """Resolve interrupted operations; after a reboot, rebuild networks and start VMs.

    Safe at any time, any number of times.
    """
    at_end = sys.stderr.isatty() and sys.stdout.isatty()  # till then a bar is there
    with telling_refusal(json_, documents.recover.refused), ExitStack() as stack:
        done = host_of(ctx).recover(
            accept_rollback=accept_rollback,
            new_namespace=new_namespace,
            progress=progress(stack, "VMs started"),
            tell=None if json_ or at_end else _tell_recovered,
        )
    if json_:
        render.emit_json(documents.recover.document(done))
    elif not any(done):
        render.say("nothing to recover")
    elif at_end:
        _tell_recovered(done)
    raise_for_recovery(done)


def _tell_recovered(part: Any) -> None:
    """What a recovery did, or some of it: at once, since the rest may take long."""
    show_items(part.items)
    for name in part.networks:
        render.say(f"network {name} is rebuilt")
    for name in part.started:
        render.say(f"VM {name} is running")
    for what, why in part.failed:
        render.say(f"{render.plain(what)}: {render.plain(why)}", "red")
    sys.stdout.flush()


@click.command()
@click.argument("name", required=False, shell_complete=complete_either)
@as_json
@click.pass_context
def repair(ctx: click.Context, name: str | None, json_: bool) -> None:
    """Put back what someone flushed or changed under running VMs and networks.

    NAME is a VM or a network; without one all are looked at.
    """
    with telling_refusal(json_, documents.repair.refused):
        done = host_of(ctx).repair(name)
    if json_:
        render.emit_json(documents.repair.document(done))
    else:
        for item in done.repaired:
            render.say(f"put back: {item.kind} {render.plain(item.key)} ({item.missing})", "green")
        for failed in done.failed:
            words = f"not put back: {failed.kind} {render.plain(failed.key)}: {failed.why}"
            render.say(words, "red")
        if not done.repaired and not done.failed:
            render.say("nothing is missing")
    raise_for_repair(done)
