"""`hvtx intents`, `hvtx log`, `hvtx explain`: what is under way, what was done, whose is it."""

from __future__ import annotations

import click

from hvtx.cli import render
from hvtx.cli.common import Number, as_json, opened


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
        head = (operation["id"], operation["verb"], who, operation["state"], operation["since"])
        resources = operation["resources"] or [{"kind": None, "key": None, "state": None}]
        rows += [
            (*head, f"{r['kind'] or ''} {r['key'] or ''}".strip(), r["state"]) for r in resources
        ]
    render.table(
        ("id", "verb", "of", "state", "since", "resource", "row"),
        rows,
        empty="no operation is under way",
    )


@click.command()
@click.option("--vm", metavar="NAME", help="Only of this VM.")
@click.option("-n", "limit", type=Number(1), default=50, show_default=True, help="How many lines.")
@as_json
@click.pass_context
def log(ctx: click.Context, vm: str | None, limit: int, json_: bool) -> None:
    """Show what was made, removed, kept, and why."""
    from hvtx.engine import show

    with opened(ctx, writable=False) as runtime:
        document = show.list_history(runtime, vm=vm, limit=limit)
    if json_:
        render.emit_json(document)
        return
    render.table(
        ("time", "op", "verb", "vm", "event", "reason", "message"),
        [
            (e["time"], e["operation"], e["verb"], e["vm"], e["event"], e["reason"], e["message"])
            for e in document["entries"]
        ],
        empty="nothing has happened yet",
    )


@click.command()
@click.argument("object_", metavar="OBJECT")
@as_json
@click.pass_context
def explain(ctx: click.Context, object_: str, json_: bool) -> None:
    """Tell whose an interface, address, host port, rule or mark is, and what gc would do."""
    from hvtx.engine import explain as engine

    with opened(ctx, writable=False) as runtime:
        document = engine.explain(runtime, object_)
    if json_:
        render.emit_json(document)
        return
    render.say(render.plain(document["message"]), "bold")
    pairs = [("object", document["object"]), ("owner", document["owner"])]
    pairs += [(name, document[name]) for name in ("vm", "network") if document[name]]
    if document["record"]:
        record = document["record"]
        pairs.append(
            ("record", f"row {record['id']}, {record['state']}, operation {record['operation']}")
        )
    pairs.append(("gc", f"{document['gc']['action']} ({document['gc']['reason']})"))
    render.fields(pairs)
    for line in document["evidence"]:
        render.say(render.wrapped(f"evidence: {render.plain(line)}", "  "), "dim")
