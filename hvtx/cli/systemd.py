"""`hvtx systemd`: the units that recover at boot, collect by the hour and follow firewalls."""

from __future__ import annotations

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import Given, as_json, complete_file, host_of
from hvtx.cli.root import Group
from hvtx.cli.streams import say_beside
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx import UnitsOutcome

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
    help="With units that write `hvtx metrics` to this file every minute.",
)


@click.group(cls=Group)
def systemd() -> None:
    """Recovery at boot, collection by the hour, repair after firewalls: the units for systemd.

    What is given before the command (--state-dir, --run-dir, --config …), or by the environment,
    becomes part of the units.
    """


@systemd.command("install", short_help="Write and enable the units, and start the timer.")
@root_option
@metrics_option
@as_json
@click.pass_context
def install(ctx: click.Context, root: str, metrics: str | None, json_: bool) -> None:
    """Write the units where they differ, enable them, and start the timer.

    So are the files by which systemd-networkd, NetworkManager and the host's own dnsmasq leave
    devices of hvtx alone, and firewalld's zone for bridges of networks; one of the same name that
    hvtx did not write stays.

    Where the Debian package has brought its units, those are enabled and nothing hides them; what
    is given otherwise for this call goes to drop-ins.
    """
    _show(host_of(ctx).systemd.install(root=root, metrics=metrics), json_=json_)


@systemd.command("uninstall", short_help="Disable and remove the units; all else stays.")
@root_option
@as_json
@click.pass_context
def uninstall(ctx: click.Context, root: str, json_: bool) -> None:
    """Disable and remove the units; VMs, networks and the store stay as they are.

    The units of the Debian package go with the package, and are left alone.
    """
    _show(host_of(ctx).systemd.uninstall(root=root), json_=json_)


@systemd.command("print", short_help="Show the units; writes nothing, needs no root.")
@metrics_option
@click.option(
    "--files", is_flag=True, help="Show the files for other programs that go with them, too."
)
@as_json
@click.pass_context
def print_(ctx: click.Context, metrics: str | None, files: bool, json_: bool) -> None:
    """Show the units as `systemctl cat` does; writes nothing, needs no root.

    The files for systemd-networkd, NetworkManager and the host's own dnsmasq are no units: --files
    shows them behind the units, --json has them by themselves.
    """
    from hvtx.api.terminal import listing

    made = host_of(ctx).systemd.print(metrics=metrics)
    if made.refused is not None:
        words = f"{render.plain(made.refused)}; `hvtx systemd install` would refuse it"
        say_beside("warning", words)
    if json_:
        render.emit_json(documents.systemd.printed(made.units, made.files))
    else:
        render.write(listing([*made.units, *(made.files if files else ())]))


def _show(outcome: UnitsOutcome, *, json_: bool) -> None:
    if json_:
        render.emit_json(documents.systemd.document(outcome))
        return
    for entry in outcome.units:
        render.say(f"{entry.state:<9} {render.plain(entry.path)}")
    if outcome.note:
        say_beside("note", render.plain(outcome.note))
