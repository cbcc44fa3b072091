"""`hvtx doctor`: does this host let VMs work, and the mend for what does not."""

from __future__ import annotations

from typing import Any

import click

from hvtx.cli import render
from hvtx.cli.common import as_json, opened
from hvtx.errors import UsageError


@click.command()
@click.option("--gc", "collect", is_flag=True, help="The older spelling of `gc --apply`.")
@click.option("--dry-run", is_flag=True, help="With --gc: `gc --plan`.")
@click.option(
    "--force-heuristic", "guessing", is_flag=True, help="With --gc: `gc --heuristic`, with --yes."
)
@as_json
@click.pass_context
def doctor(ctx: click.Context, collect: bool, dry_run: bool, guessing: bool, json_: bool) -> int:
    """Check the host: devices, netfilter, forwarding, other firewalls, permissions."""
    if collect:
        from hvtx.cli.gc import gc

        flags = ("everything", "detailed_exitcode", "unrecorded", "evidence")
        wanted = dict.fromkeys(flags, False)
        return int(
            ctx.invoke(
                gc,
                mode="plan" if dry_run else "apply",
                file=None,
                out=None,
                html=None,
                heuristic=guessing,
                yes=guessing and not dry_run,
                json_=json_,
                **wanted,
            )
            or 0
        )
    if dry_run or guessing:
        raise UsageError("--dry-run and --force-heuristic go with --gc")
    from hvtx.engine import diagnose

    with opened(ctx, writable=False) as runtime:
        document = diagnose.diagnose(runtime)
    if json_:
        render.emit_json(document)
    else:
        for finding in document["findings"]:
            _show(finding)
    return 1 if any(finding["level"] == "error" for finding in document["findings"]) else 0


def _show(finding: dict[str, Any]) -> None:
    style = {"ok": "green", "warning": "yellow", "error": "bold red"}[finding["level"]]
    render.say(
        f"{finding['level']:<8} {finding['check']}: {render.plain(finding['message'])}", style
    )
    for line in finding["evidence"]:
        render.say(render.wrapped(render.plain(line), " " * 9), "dim")
    if finding["hint"]:
        render.say(render.wrapped("mend: " + render.plain(finding["hint"]), " " * 9))
