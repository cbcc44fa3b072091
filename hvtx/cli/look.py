"""`hvtx intents`, `hvtx log`, `hvtx explain`: what is under way, what was done, whose is it."""

from __future__ import annotations

import json
from typing import Any

import click

from hvtx.cli import render
from hvtx.cli.common import (
    LINES_MOST,
    ROW_MOST,
    Number,
    as_json,
    complete_object,
    complete_vm,
    complete_words,
    opened,
    reading,
)


@click.command()
@as_json
@click.pass_context
def intents(ctx: click.Context, json_: bool) -> None:
    """Show running and interrupted operations, with their rows."""
    from hvtx.engine import show

    with opened(ctx, writable=False) as runtime:
        document = show.list_intents(runtime)
    if json_:
        render.emit_json(document)
        return
    rows = []
    for operation in document["operations"]:
        who = operation["vm"] or operation["network"]
        since = render.moment(operation["since"])
        head = (operation["id"], operation["verb"], who, operation["state"], since)
        resources = operation["resources"] or [{"kind": None, "key": None, "state": None}]
        rows += [
            (*head, f"{r['kind'] or ''} {r['key'] or ''}".strip(), r["state"]) for r in resources
        ]
    render.table(
        ("id", "verb", "of", "state", "since", "resource", "row"),
        rows,
        empty="no operation is under way",
        below=("resource", "since"),
    )


def _words(name: str) -> Any:
    """A completion of the history's words for an option."""

    def known() -> Any:
        from hvtx.model.words import WORDS

        return WORDS[name]

    return complete_words(known)


@click.command()
@click.option("--vm", metavar="NAME", shell_complete=complete_vm, help="Only of this VM.")
@click.option("--operation", type=Number(1, ROW_MOST), metavar="ID", help="Only of this operation.")
@click.option(
    "--verb",
    metavar="VERB",
    shell_complete=_words("verb"),
    help="Only of such operations: start, stop, gc …",
)
@click.option(
    "--kind",
    metavar="KIND",
    shell_complete=_words("kind"),
    help="Only of this kind: tap, bridge, publish …",
)
@click.option(
    "--event",
    metavar="EVENT",
    shell_complete=_words("event"),
    help="Only such lines: made, removed, kept …",
)
@click.option(
    "--reason",
    metavar="REASON",
    shell_complete=_words("reason"),
    help="Only with this reason: vm-dead, in-use …",
)
@click.option("--since", metavar="TIME", help="Only later ones: 2h, 3d, 2026-05-01T12:30 (UTC).")
@click.option(
    "-n", "limit", type=Number(1, LINES_MOST), default=50, show_default=True, help="How many lines."
)
@click.option("--detail", is_flag=True, help="Show what each thing was: mark, specification.")
@as_json
@click.pass_context
def log(ctx: click.Context, /, limit: int, detail: bool, json_: bool, **wanted: Any) -> None:
    """Show what was made, removed, kept, and why."""
    with reading(ctx) as source:
        document = source.list_history(limit=limit, detail=detail, **wanted)
    if json_:
        render.emit_json(document)
        return
    if detail:
        _show_details(document["entries"])
        return
    asked = any(value is not None for value in wanted.values())
    render.table(
        ("time", "op", "verb", "vm", "event", "reason", "message"),
        [
            (
                *(render.moment(e["time"]), e["operation"], e["verb"], e["vm"]),
                *(e["event"], e["reason"], e["message"]),
            )
            for e in document["entries"]
        ],
        empty="no line of the history matches" if asked else "nothing has happened yet",
        below=("message", "reason"),
    )


def _show_details(entries: list[dict[str, Any]]) -> None:
    """Each line with what it speaks of, in words that a person can read."""
    for entry in entries:
        head = (
            render.moment(entry["time"]),
            entry["verb"],
            entry["vm"],
            entry["event"],
            entry["reason"],
        )
        render.say("  ".join(render.plain(word) for word in head if word), "bold")
        render.say(f"  {render.plain(entry['message'])}")
        for name, value in (entry["detail"] or {}).items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            render.say(render.wrapped(f"{name}: {render.plain(text)}", "    "), "dim")


@click.command()
@click.argument("words", metavar="OBJECT", nargs=-1, required=True, shell_complete=complete_object)
@as_json
@click.pass_context
def explain(ctx: click.Context, words: tuple[str, ...], json_: bool) -> None:
    """Tell whose a thing of this host is, since when, and what gc would do with it.

    OBJECT is an interface, an address or subnet, a MAC address, a host port (8080, 53/udp), a mark,
    a table or chain, a rule or a part of one (-- iptables -t nat -A …), a VM or a network; ours or
    anybody's.
    """
    from hvtx.engine import explain as engine

    with opened(ctx, writable=False) as runtime:
        document = engine.explain(runtime, " ".join(words))
    if json_:
        render.emit_json(document)
    else:
        _show_explanation(document)


def _show_explanation(document: dict[str, Any]) -> None:
    render.say(render.wrapped(render.plain(document["message"]), ""), "bold")
    pairs = [("owner", document["owner"]), ("kind", document["kind"])]
    if document["key"] != document["object"]:
        pairs.append(("name", document["key"]))
    pairs += [(name, document[name]) for name in ("vm", "network") if document[name]]
    record = document["record"]
    if document["since"]:
        pairs.append(("since", render.moment(document["since"])))
    if record:
        pairs.append(("record", f"row {record['id']}, {record['state']}, mark {record['mark']}"))
        pairs.append(("operation", _operation(record)))
    pairs += [("evidence", line) for line in document["evidence"]]
    gc = document["gc"]
    pairs.append(("gc", f"{gc['action']} ({gc['reason']}): {document['why']}"))
    pairs += [("history", _event(line)) for line in document["history"]]
    pairs += [
        ("also", f"{other['kind']} {other['key']}: {other['message']}")
        for other in document["also"]
    ]
    render.paragraphs(pairs)


def _operation(record: dict[str, Any]) -> str:
    words = f"{record['operation']} ({record['verb']}), begun {render.moment(record['since'])}"
    return words + (f", {record['result']}" if record["result"] else ", not ended")


def _event(line: dict[str, Any]) -> str:
    when = render.moment(line["time"])
    words = f"{when} {line['event']} by operation {line['operation']} ({line['verb']})"
    return words + (f": {line['reason']}" if line["reason"] else "")
