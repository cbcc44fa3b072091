"""`hvtx systemd`: the units that recover at boot, collect by the hour and follow firewalls."""

from __future__ import annotations

import os
import sys

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import Given, as_json, complete_file
from hvtx.cli.root import Group
from hvtx.cli.settings import settings
from hvtx.errors import NotFound
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.systemd import Outcome
    from hvtx.engine.units import Place

_PATHS = ("state_dir", "run_dir", "config")
_VALUES = ("firewall", "lock_timeout", "qemu_accel", "group", "tap_user", "vm_user")

root_option = click.option(
    "--root",
    type=Given(),
    metavar="DIR",
    shell_complete=complete_file,
    default="/",
    help="Root directory of another system, such as an image being built.",
)


metrics_option = click.option(
    "--metrics",
    type=Given(),
    metavar="FILE",
    shell_complete=complete_file,
    help="Also install units that write `hvtx metrics` to this file every minute.",
)


@click.group(cls=Group)
def systemd() -> None:
    """Recovery at boot, collection by the hour, repair after firewalls: the units for systemd.

    What is given before the command (--state-dir, --run-dir, --config …), or by the environment,
    becomes part of the units.
    """


@systemd.command("install")
@root_option
@metrics_option
@as_json
@click.pass_context
def install(ctx: click.Context, root: str, metrics: str | None, json_: bool) -> None:
    """Write the units where they differ, enable them, and start the timer.

    So are the files by which systemd-networkd and NetworkManager leave devices of hvtx alone; one
    of the same name that hvtx did not write stays.

    Where the Debian package has brought its units, those are enabled and nothing hides them; what
    is given otherwise for this call goes to drop-ins.
    """
    from hvtx.commands import systemd as engine

    _need_directory(root)
    _show(engine.install(_place(ctx, metrics), root), json_=json_)


@systemd.command("uninstall")
@root_option
@as_json
def uninstall(root: str, json_: bool) -> None:
    """Disable and remove the units; VMs, networks and the store stay as they are.

    The units of the Debian package go with the package, and are left alone.
    """
    from hvtx.commands import systemd as engine

    _need_directory(root)
    _show(engine.uninstall(root), json_=json_)


@systemd.command("print")
@metrics_option
@as_json
@click.pass_context
def print_(ctx: click.Context, metrics: str | None, json_: bool) -> None:
    """Show the units as `systemctl cat` does; writes nothing, needs no root."""
    from hvtx.commands import systemd as engine
    from hvtx.engine.units import listing, shields

    where = _place(ctx, metrics)
    made = (*engine.make(where), *shields())
    found = engine.changeable(where)
    if found is not None:
        click.echo(
            f"warning: {render.plain(found[0])}; `hvtx systemd install` would refuse it", err=True
        )
    if json_:
        render.emit_json(documents.systemd.printed(made))
    else:
        render.write(listing(made))


def _place(ctx: click.Context, metrics: str | None) -> Place:
    from hvtx.commands import systemd as engine

    options = ctx.find_root().obj
    known = settings(options)
    return engine.place(
        known.state_directory,
        known.run_directory,
        _environment(options),
        sys.argv[0],
        None if metrics is None else os.path.abspath(metrics),
        known.group,
    )


def _environment(options: dict[str, Any]) -> dict[str, str]:
    """What was given for this call, as the variables of the units; nothing that is a default."""
    given: dict[str, str] = {}
    for name in (*_PATHS, *_VALUES):
        variable = f"HVTX_{name.upper()}"
        value = options.get(name) or os.environ.get(variable)
        if value:
            given[variable] = os.path.abspath(value) if name in _PATHS else str(value)
    return given


def _need_directory(root: str) -> None:
    if not os.path.isdir(root):
        raise NotFound(
            f"the root directory {root} does not exist",
            hint="mount or unpack the system there first, or leave --root out for this one",
        )


def _show(outcome: Outcome, *, json_: bool) -> None:
    if json_:
        render.emit_json(documents.systemd.document(outcome))
        return
    for entry in outcome.units:
        render.say(f"{entry.state:<9} {render.plain(entry.path)}")
    if outcome.note:
        click.echo(f"note: {render.plain(outcome.note)}", err=True)
