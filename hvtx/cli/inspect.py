"""`hvtx intents`, `hvtx log`, `hvtx explain`: operations, history, owners."""

from __future__ import annotations

import json

import click

from hvtx import documents
from hvtx.cli import render, verbs
from hvtx.cli.common import (
    LINES_MOST,
    ROW_MOST,
    Number,
    as_json,
    complete_object,
    complete_vm,
    complete_words,
    host_of,
)
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hvtx import HistoryLine


@click.command()
@as_json
@click.pass_context
def intents(ctx: click.Context, json_: bool) -> None:
    """Show running and interrupted operations, with their rows."""
    operations = host_of(ctx).intents()
    if json_:
        render.emit_json(documents.intents.document(operations))
        return
    rows: list[tuple[object, ...]] = []
    for operation in operations:
        who = operation.vm or operation.network
        since = render.moment(operation.since)
        head = (operation.id, operation.verb, who, operation.state, since)
        rows += [(*head, f"{r.kind} {r.key}", r.state) for r in operation.resources]
        if not operation.resources:
            rows.append((*head, "", None))
    render.table(
        ("id", "verb", "of", "state", "since", "resource", "row"),
        rows,
        empty="no operation is running or interrupted",
        below=("resource", "since", "of"),
    )


def _words(name: str) -> Any:
    """A completion of the history's words for an option."""

    def known() -> Any:
        from hvtx.model.history_terms import WORDS

        return WORDS[name]

    return complete_words(known)


@click.command()
@click.option("--vm", metavar="NAME", shell_complete=complete_vm, help="Only entries of this VM.")
@click.option(
    "--operation", type=Number(1, ROW_MOST), metavar="ID", help="Only entries of this operation."
)
@click.option(
    "--verb",
    metavar="VERB",
    shell_complete=_words("verb"),
    help="Only entries of such operations: start, stop, gc …",
)
@click.option(
    "--kind",
    metavar="KIND",
    shell_complete=_words("kind"),
    help="Only entries of this kind: tap, bridge, publish …",
)
@click.option(
    "--event",
    metavar="EVENT",
    shell_complete=_words("event"),
    help="Only entries with this event: made, removed, kept …",
)
@click.option(
    "--reason",
    metavar="REASON",
    shell_complete=_words("reason"),
    help="Only entries with this reason: vm-dead, in-use …",
)
@click.option(
    "--since",
    metavar="TIME",
    help="Only entries since: 2h, 3d, 2026-05-01T12:30 (UTC, unless it ends with an offset).",
)
@click.option(
    "-n",
    "limit",
    type=Number(1, LINES_MOST),
    default=50,
    show_default=True,
    help="Number of entries.",
)
@click.option("--detail", is_flag=True, help="Show mark and specification of each resource.")
@as_json
@click.pass_context
def log(ctx: click.Context, /, limit: int, detail: bool, json_: bool, **wanted: Any) -> None:
    """Show what was made, removed, kept, and why."""
    with host_of(ctx).reading() as source:
        lines = source.list_history(limit=limit, **wanted)
    if json_:
        render.emit_json(documents.log.document(lines, detail=detail, view=source.view))
        return
    if detail:
        _show_details(lines)
        return
    asked = any(value is not None for value in wanted.values())
    render.table(
        ("time", "op", "verb", "vm", "event", "reason", "message"),
        [
            (
                *(render.moment(line.time), line.operation, line.verb, line.vm),
                *(line.event, line.reason, line.message),
            )
            for line in lines
        ],
        empty="no entry of the history matches" if asked else "the history is empty",
        below=("message", "reason", "vm"),
    )


def _show_details(lines: Sequence[HistoryLine]) -> None:
    """Each line with what it speaks of, in words that a person can read."""
    for line in lines:
        head = (render.moment(line.time), line.verb, line.vm, line.event, line.reason)
        render.say("  ".join(render.plain(word) for word in head if word), "bold")
        render.say(f"  {render.plain(line.message)}")
        for name, value in (line.detail or {}).items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            render.say(render.wrapped(f"{name}: {render.plain(text)}", "    "), "dim")


@click.command()
@click.argument("words", metavar="OBJECT", nargs=-1, required=True, shell_complete=complete_object)
@as_json
@click.pass_context
def explain(ctx: click.Context, words: tuple[str, ...], json_: bool) -> None:
    """Tell whose a thing of this host is, since when, and what gc would do with it.

    OBJECT is an interface, an address or subnet, a MAC address, a host port (8080, 53/udp), a mark,
    a table or chain, a rule or a part of one, a VM, a network, a pod, or a container (the first 12
    digits of its id are enough); ours or anybody's.

    \b
    A rule stands after two dashes:
      hvtx explain -- iptables -t nat -A …
    """  # noqa: D301 - click's mark of lines that are to stay as they are
    verbs.explain(ctx.find_root().obj, " ".join(words), json_=json_)
