"""`hvtx cni`: the CNI plugin's executable and network configuration, for container runtimes."""

from __future__ import annotations

from collections.abc import Callable

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import Given, as_json, complete_file, complete_network, host_of
from hvtx.cli.root import Group
from hvtx.cli.streams import say_beside
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx import PluginOutcome


def _places(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where the two files stand."""
    conf = click.option(
        "--conf",
        type=Given(),
        metavar="FILE",
        shell_complete=complete_file,
        help="The network configuration [/etc/cni/net.d/10-hvtx.conflist].",
    )
    directory = click.option(
        "--dir",
        "dir_",
        type=Given(),
        metavar="DIR",
        shell_complete=complete_file,
        help="Where runtimes look for plugins [/opt/cni/bin].",
    )
    return directory(conf(command))


def _contents(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what the configuration holds."""
    subnet = click.option(
        "--subnet",
        "subnets",
        multiple=True,
        metavar="CIDR",
        help="Of the network, where the first container is to make it (once for each family).",
    )
    network = click.option(
        "--network",
        type=Given(),
        metavar="NAME",
        shell_complete=complete_network,
        help="The network of containers [default].",
    )
    return network(subnet(command))


force_option = click.option("--force", is_flag=True, help="Also files that hvtx did not write.")


@click.group(cls=Group)
def cni() -> None:
    """The CNI plugin: networks of hvtx for containerd, Kubernetes, podman and Nomad.

    Runtimes run the executable; docs/cni.md says what it answers. What is given before the command
    (--state-dir, --run-dir, --config …), or by the environment, becomes part of the configuration.
    """


@cni.command("install", short_help="Write the executable and the network configuration.")
@_places
@_contents
@force_option
@as_json
@click.pass_context
def install(
    ctx: click.Context,
    dir_: str | None,
    conf: str | None,
    network: str | None,
    subnets: tuple[str, ...],
    force: bool,
    json_: bool,
) -> None:
    """Write the executable and the network configuration where they differ.

    Neither is written if one of them is somebody else's, or was changed since; --force replaces it.
    """
    done = host_of(ctx).cni_plugin.install(
        dir=dir_, conf=conf, network=network, subnets=subnets, force=force
    )
    _show(done, json_=json_)


@cni.command("uninstall", short_help="Remove both files; attachments and networks stay.")
@_places
@force_option
@as_json
@click.pass_context
def uninstall(
    ctx: click.Context, dir_: str | None, conf: str | None, force: bool, json_: bool
) -> None:
    """Remove both files; attachments and networks stay, and `hvtx gc` collects them."""
    _show(host_of(ctx).cni_plugin.uninstall(dir=dir_, conf=conf, force=force), json_=json_)


@cni.command("print", short_help="Show both files; writes nothing, needs no root.")
@_places
@_contents
@as_json
@click.pass_context
def print_(
    ctx: click.Context,
    dir_: str | None,
    conf: str | None,
    network: str | None,
    subnets: tuple[str, ...],
    json_: bool,
) -> None:
    """Show both files as they would be written; writes nothing, needs no root."""
    made = host_of(ctx).cni_plugin.print(dir=dir_, conf=conf, network=network, subnets=subnets)
    if made.refused is not None:
        words = f"{render.plain(made.refused)}; `hvtx cni install` would refuse it"
        say_beside("warning", words)
    if json_:
        render.emit_json(documents.cni.printed(made.files))
    else:
        render.write("\n".join(f"# {file.path}\n{file.text}" for file in made.files))


def _show(outcome: PluginOutcome, *, json_: bool) -> None:
    if json_:
        render.emit_json(documents.cni.document(outcome))
        return
    for entry in outcome.files:
        render.say(f"{entry.state:<9} {render.plain(entry.path)}")
    if outcome.note:
        say_beside("note", render.plain(outcome.note))
