"""`hvtx doctor`: checks of this host, with a fix for each finding."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import as_json, host_of
from hvtx.errors import UsageError
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx import Finding


@click.command()
@click.option("--gc", "collect", is_flag=True, help="The older spelling of `gc --apply`.")
@click.option("--dry-run", is_flag=True, help="With --gc: `gc --plan`.")
@click.option(
    "--force-heuristic",
    "guessing",
    is_flag=True,
    help="With --gc: `gc --heuristic --apply --yes`; it does not ask.",
)
@as_json
@click.pass_context
def doctor(ctx: click.Context, collect: bool, dry_run: bool, guessing: bool, json_: bool) -> int:
    """Check the host: devices, netfilter, forwarding, other firewalls, permissions."""
    if collect:
        from hvtx.cli.gc import gc

        flags = ("schema", "everything", "detailed_exitcode", "unrecorded", "evidence")
        wanted = dict.fromkeys(flags, False)
        return int(
            ctx.invoke(
                gc,
                plan=dry_run,
                apply=not dry_run,
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
        raise UsageError(
            "--dry-run and --force-heuristic need --gc", hint="hvtx doctor --gc --dry-run"
        )
    found = host_of(ctx).doctor()
    _tell(found.findings, json_=json_)
    if found.denied is not None:
        raise found.denied  # that was all that this user can see; and this is what he may not
    return 1 if any(finding.level == "error" for finding in found.findings) else 0


def _tell(findings: Sequence[Finding], *, json_: bool) -> None:
    if json_:
        render.emit_json(documents.doctor.document(findings))
    else:
        _show(findings)


_LEVELS = {"error": "bold red", "warning": "yellow", "ok": "green"}
_COMMAND = re.compile(
    r"(chmod|firewall-cmd|hvtx|ip6?tables(-legacy|-nft)?|ip|mkdir|mknod|modprobe|mount|networkctl|nft"
    r"|printf|rm|rmdir|sysctl|systemctl|ufw) "
)


def _show(findings: Sequence[Finding]) -> None:
    """What is wrong first; how many there are of each level last, by the prompt."""
    levels = [finding.level for finding in findings]
    for level, style in _LEVELS.items():
        for finding in findings:
            if finding.level == level:
                _show_finding(finding, style)
    words = ", ".join(
        f"{levels.count(level)} {level}{'s' if levels.count(level) != 1 else ''}"
        for level in ("error", "warning")
    )
    render.say(f"{words}; {levels.count('ok')} checks found nothing wrong", "bold")


def _show_finding(finding: Finding, style: str) -> None:
    head = f"{finding.level:<8} {finding.check}: {render.plain(finding.message)}"
    render.say(render.wrapped(head, "", hang=9), style)
    for line in (one for one in finding.evidence if one not in finding.message):
        render.say(render.wrapped(render.plain(line), " " * 9), "dim")
    if finding.hint:
        _show_fix(render.plain(finding.hint))


def _show_fix(hint: str) -> None:
    """Commands stand alone and unbroken, so that a line can be copied as it is."""
    parts = hint.split("; ")
    if not all(_COMMAND.match(part) for part in parts):
        render.say(render.wrapped(f"fix: {hint}", " " * 9))
        return
    for number, part in enumerate(parts):
        render.say(f"         {'fix:' if number == 0 else '    '} {part}")
