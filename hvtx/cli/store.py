"""`hvtx store`: the state store in another file, and back."""

from __future__ import annotations

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import Given, Written, as_json, complete_file, host_of
from hvtx.cli.root import Group
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx import Copied


@click.group(cls=Group)
def store() -> None:
    """Back up the state store, and put a backup back."""


@store.command(short_help="Copy the state store to a file; other commands may run.")
@click.argument("file", type=Written(), shell_complete=complete_file)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@as_json
@click.pass_context
def backup(ctx: click.Context, file: str, force: bool, json_: bool) -> None:
    """Copy the state store to FILE: whole, checked, mode 0600; other commands may run meanwhile."""
    done = host_of(ctx).store.backup(file, force=force)
    with render.beside(file):
        if json_:
            render.emit_json(documents.store_backup.document(done))
        else:
            render.say(f"the store is backed up to {render.plain(done.file)}: {_what(done)}")


@store.command(short_help="Put a backup into the place of the state store.")
@click.argument("file", type=Given(), shell_complete=complete_file)
@click.option(
    "--force", is_flag=True, help="Restore although VMs of the current store are running."
)
@as_json
@click.pass_context
def restore(ctx: click.Context, file: str, force: bool, json_: bool) -> None:
    """Put the backup FILE into the place of the state store; says what to do next.

    What was there is kept beside it under another name. The host is not touched: the command that
    is named at the end brings host and record together.
    """
    done = host_of(ctx).store.restore(file, force=force)
    if json_:
        render.emit_json(documents.store_restore.document(done))
        return
    render.say(f"the store is restored from {render.plain(file)}: {_what(done.copied)}")
    if done.kept:
        render.say(f"the previous store is kept as {render.plain(done.kept)}")
    render.say(f"now run: {done.next} ({render.plain(done.why)})")


def _what(copied: Copied) -> str:
    counts = [(copied.vms, "VM"), (copied.networks, "network")]
    words = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)
    return f"{words}, change {copied.change} of installation {copied.installation}"
