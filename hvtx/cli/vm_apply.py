"""`hvtx vm apply`: what it is given; :mod:`hvtx.cli.applying` does it."""

from __future__ import annotations

import click

from hvtx.cli.common import Given, Written, as_json, complete_file
from hvtx.model.typed import Any


@click.command(short_help="Make VMs and networks as files describe them.")
@click.option(
    "--file",
    "-f",
    "files",
    type=Given(),
    multiple=True,
    metavar="FILE",
    shell_complete=complete_file,
    help="File that describes VMs and networks, in TOML; - is standard input; repeatable.",
)
@click.option(
    "--plan", "only_plan", is_flag=True, help="Show what would be done, and why; changes nothing."
)
@click.option(
    "--out",
    type=Written(),
    metavar="PLAN",
    shell_complete=complete_file,
    help="With --plan: save the plan for hvtx vm apply PLAN.",
)
@click.option(
    "--detailed-exitcode", is_flag=True, help="With --plan: exit 2 if there is something to do."
)
@click.option("--yes", "-y", is_flag=True, help="Do it without asking.")
@click.option(
    "--restart", is_flag=True, help="Let VMs be stopped for what they hear of only at their start."
)
@click.option(
    "--replace",
    is_flag=True,
    help="Let be removed and created anew what cannot be changed otherwise.",
)
@click.option("--no-start", is_flag=True, help="Start no VM.")
@click.argument(
    "saved", metavar="[PLAN]", type=Given(), required=False, shell_complete=complete_file
)
@as_json
@click.pass_context
def apply(ctx: click.Context, /, **given: Any) -> int:
    """Make VMs and networks as files describe them; what they do not name is left alone.

    \b
    The keys of a table are the long options of `network create` and `vm create`:
      [networks.lab]
      subnet = "10.77.0.0/24"
      [vms.web]
      network = "lab"
      publish = ["8080:80"]
      disk = "web.qcow2"       # from the directory of this file
      command = ["…"]          # what stands after -- there
      start = false            # create it only

    The plan is shown first. Each step is an operation of its own; a second run goes on with what is
    left, and finds nothing to do once all is as described. A key that is not there means what it
    means for the command: the default. No VM is stopped or removed without --restart or --replace.
    """  # noqa: D301 - click's mark of lines that are to stay as they are
    from hvtx.cli import applying

    return applying.apply(ctx, **given)
