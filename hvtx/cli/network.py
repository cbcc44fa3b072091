"""`hvtx network`: create, ls, show, routes, set, rm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import GIVEN_ONCE, Number, as_json, complete_device, complete_network, host_of
from hvtx.cli.egress_options import (
    egress_change,
    egress_changes,
    egress_options,
)
from hvtx.cli.egress_text import egress_lines
from hvtx.cli.root import Group
from hvtx.cli.routes_text import FORMATS, lines_of
from hvtx.errors import UsageError
from hvtx.model.typed import Any


@click.group(cls=Group)
def network() -> None:
    """Create, list, show and remove networks."""


@network.command()
@click.argument("name")
@click.option(
    "--subnet",
    "subnets",
    multiple=True,
    metavar="CIDR",
    help="Subnet, IPv4 or IPv6; at most one of each.",
)
@click.option("--bridge", metavar="IFNAME", help="Bridge interface name [default: generated].")
@click.option(
    "--mtu",
    type=Number(),
    default=1500,
    show_default=True,
    help="MTU of the bridge and its TAP devices.",
)
@click.option(
    "--nat/--no-nat",
    default=True,
    show_default=True,
    help="Masquerade guest traffic behind the host's addresses.",
)
@click.option("--isolate", is_flag=True, help="Drop traffic between guests.")
@click.option(
    "--uplink",
    metavar="IFNAME",
    shell_complete=complete_device,
    help="Guests leave the host by this device only [default: any].",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="A",
    help="Address of the host that guests have outside; at most one of each family.",
)
@click.option(
    "--passage/--no-passage",
    default=True,
    show_default=True,
    help="Accept guest traffic where the default of another firewall drops it.",
)
@egress_options("as configured, or open")
@click.option(
    "--dhcp/--no-dhcp",
    default=None,
    help="Addresses, routes and names for guests, by dnsmasq [default: where it is installed].",
)
@click.option(
    "--block-size",
    metavar="LENGTH",
    help="Guests lease from blocks of this prefix length that the cluster gives [default: none].",
)
@as_json
@click.pass_context
def create(ctx: click.Context, /, name: str, json_: bool, **request: Any) -> None:
    """Make a network: bridge, gateway addresses, base rules."""
    made = host_of(ctx).network.create(name, **request)
    if json_:
        render.emit_json(documents.network.document(made))
    else:
        render.say(f"network {name} is up on bridge {made.bridge}: {', '.join(made.subnets)}")


@network.command()
@as_json
@click.pass_context
def ls(ctx: click.Context, json_: bool) -> None:
    """List networks."""
    with host_of(ctx).reading() as source:
        networks = source.list_networks()
    if json_:
        render.emit_json(documents.networks.document(networks, source.view))
        return
    render.table(
        ("name", "bridge", "subnets", "nat", "dhcp", "firewall", "vms"),
        [
            (
                n.name,
                n.bridge,
                " ".join(n.subnets),
                "yes" if n.nat else "no",
                "yes" if n.dhcp else "no",
                n.firewall,
                len(n.vms),
            )
            for n in networks
        ],
        empty="no networks",
        below=("vms", "firewall", "dhcp", "nat", "subnets", "bridge"),
    )


def _passage(wanted: bool, roles: Sequence[str]) -> str:
    """Whether guests pass where the end of INPUT or FORWARD drops, in netfilter's words."""
    if not wanted:
        return "no: where a policy drops in INPUT or FORWARD, guests are cut off"
    placed = sum(role in ("pass", "passage") for role in roles)
    chains = f"in {placed} now" if placed else "none now"
    return f"yes, by accept rules in INPUT/FORWARD where a policy drops; {chains}"


@network.command()
@click.argument("name", shell_complete=complete_network)
@as_json
@click.pass_context
def show(ctx: click.Context, name: str, json_: bool) -> None:
    """Show a network and its resources."""
    with host_of(ctx).reading() as source:
        shown = source.show_network(name)
    if json_:
        render.emit_json(documents.network.document(shown, source.view))
        return
    render.fields(
        [
            ("name", shown.name),
            ("bridge", shown.bridge),
            ("subnets", " ".join(shown.subnets)),
            ("gateways", " ".join(shown.gateways)),
            ("nat", "yes" if shown.nat else "no"),
            ("isolate", "yes" if shown.isolate else "no"),
            *((("uplink", shown.uplink),) if shown.uplink else ()),
            *((("source", " ".join(shown.sources)),) if shown.sources else ()),
            ("dhcp", "yes" if shown.dhcp else "no"),
            *((("blocks", f"/{shown.block_size}"),) if shown.block_size else ()),
            ("mtu", shown.mtu),
            ("firewall", shown.firewall),
            ("passage", _passage(shown.passage, [row.role for row in shown.resources])),
            *egress_lines(shown.egress),
            ("vms", " ".join(shown.vms)),
        ]
    )
    render.resources(shown.resources)


@network.command(short_help="Show a route for each block that a cluster gave to a host.")
@click.argument("name", required=False, shell_complete=complete_network)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="A table, or static routes for FRR or BIRD.",
)
@as_json
@click.pass_context
def routes(ctx: click.Context, name: str | None, form: str, json_: bool) -> None:
    """Show a route for each block of addresses that a cluster gave to a host."""
    if json_ and form != "text":
        raise UsageError(f"--json and --format {form} are two forms", hint="give one of them")
    found = host_of(ctx).network.routes(name)
    if json_:
        render.emit_json(documents.routes.document(found))
    elif form != "text":
        for line in lines_of(found, form):
            render.say(line)
    else:
        render.table(
            ("network", "block", "via", "host"),
            [
                (
                    one.network,
                    one.cidr,
                    "this host" if one.local else one.via or "-",
                    one.host or "-",
                )
                for one in found
            ],
            empty="no blocks",
            below=("host", "via", "block"),
        )


def _given_once(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add options of `create` that are refused with the reason (hvtx/planner/given_once.py)."""
    for option, more in (
        (("--subnet", "subnets"), {"multiple": True}), (("--bridge",), {}),
        (("--mtu",), {"type": Number()}), (("--nat/--no-nat",), {"default": None}),
    ):  # fmt: skip
        command = click.option(*option, hidden=True, help=GIVEN_ONCE, **more)(command)
    return command


@network.command("set", short_help="Change a network; what is not named stays as it is.")
@click.argument("name", shell_complete=complete_network)
@click.option(
    "--isolate/--no-isolate",
    default=None,
    help="Keep guests from each other, or not; while no VM is up in it.",
)
@click.option(
    "--dhcp/--no-dhcp", default=None, help="Addresses, routes and names for guests, by dnsmasq."
)
@click.option(
    "--uplink",
    metavar="IFNAME",
    shell_complete=complete_device,
    help="Guests leave the host by this device only.",
)
@click.option("--no-uplink", is_flag=True, help="Guests leave the host by any device.")
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="A",
    help="Address of the host that guests have outside, in the place of all that are set;"
    " at most one of each family.",
)
@click.option("--no-source", is_flag=True, help="Guests have the address of the device outside.")
@click.option(
    "--passage/--no-passage",
    default=None,
    help="Accept guest traffic where the default of another firewall drops it.",
)
@egress_changes("as configured, or open,")
@_given_once
@as_json
@click.pass_context
def set_(ctx: click.Context, /, name: str, json_: bool, **wanted: Any) -> None:
    """Change a network, whole or not at all; what is not named stays as it is.

    Subnets, bridge, MTU and NAT are given when a network is created.
    """
    policy = egress_change(wanted)
    changed = host_of(ctx).network.set(name, **wanted, **policy)
    if json_:
        render.emit_json(documents.network.document(changed))
    else:
        render.say(f"network {name} is changed")


@network.command()
@click.argument("name", shell_complete=complete_network)
@as_json
@click.pass_context
def rm(ctx: click.Context, name: str, json_: bool) -> None:
    """Remove a network that no VM uses."""
    host_of(ctx).network.rm(name)
    if json_:
        render.emit_json(documents.removed.document("network", name))
    else:
        render.say(f"network {name} is removed")
