"""`hvtx cluster`: status, forget, register."""

from __future__ import annotations

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import as_json, host_of
from hvtx.cli.root import Group
from hvtx.errors import UsageError
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx import ClusterStatus


@click.group(cls=Group)
def cluster() -> None:
    """Show the blocks of addresses that a cluster gives; free those of a host that is gone."""


@cluster.command(short_help="Show whether the cluster answers, and whose the blocks are.")
@as_json
@click.pass_context
def status(ctx: click.Context, json_: bool) -> None:
    """Show whether the cluster answers, and whose the blocks are.

    Ends with 75 where no etcd answers, and with the code of the problem that is shown where the
    cluster refuses this host. What the store knows is shown all the same. One member that is down
    is no problem while the others answer.
    """
    shown = host_of(ctx).cluster.status()
    if json_:
        render.emit_json(documents.cluster.document(shown))
    else:
        _show(shown)
    if shown.error is None:
        return
    if shown.error.code == "cluster-unreachable":  # whose hint is this very command
        shown.error.hint = (
            "start etcd where the result has a problem, mend the way there, or correct [cluster]"
            " in the configuration"
        )
    raise shown.error


def _show(shown: ClusterStatus) -> None:
    render.fields(
        [
            ("source", shown.source),
            ("installation", shown.installation or "none yet"),
            *(("endpoint", f"{at}: {why or 'answers'}") for at, why in shown.endpoints.items()),
            *((("problem", shown.problem),) if shown.problem else ()),
            *((("doubted", _DOUBTED),) if shown.doubted else ()),
        ]
    )
    _blocks(shown)


_DOUBTED = "an older store, or a host that was given up: hvtx recover asks the cluster"


def _blocks(shown: ClusterStatus) -> None:
    render.table(
        ("network", "block", "state", "used", "addresses"),
        [(b.pool.network, b.cidr or "-", b.state, b.used, b.addresses) for b in shown.blocks],
        empty="no blocks of this host",
        below=("addresses", "block", "used", "state"),
    )
    others = [one for one in shown.holders if one.installation not in ("", shown.installation)]
    lost = {one.installation for one in shown.hosts if one.forgotten}
    if others:
        render.table(
            ("network", "block", "host", "address", "installation"),
            [(o.network, o.cidr, o.host or "-", o.address or "-", o.installation) for o in others],
            empty="",
            below=("address", "host", "installation", "block"),
        )
    for block in shown.blocks:
        if block.kept and not block.used:
            render.say(
                f"block {block.cidr} of network {block.pool.network} is kept, since the store was"
                f" put back; if no VM has an address of it: hvtx cluster forget {block.cidr} --yes"
            )
    for one in shown.unrecorded:
        render.say(
            f"block {one.cidr} of network {one.network} is this host's and not on record: it is not"
            f" used; if no VM has an address of it: hvtx cluster forget {one.cidr} --yes"
        )
    for installation in sorted(lost):
        render.say(f"installation {installation} was given up")


@cluster.command(short_help="Free all blocks of a host that is gone for good or fenced.")
@click.argument("host")
@click.option("--yes", is_flag=True, help="Confirm that no guest there can send any more.")
@as_json
@click.pass_context
def forget(ctx: click.Context, host: str, yes: bool, json_: bool) -> None:
    """Free all blocks of HOST, which is gone for good or fenced; it cannot claim any more.

    Other hosts get its addresses. If its guests still run, two have the same address, which nothing
    can tell from here. With a block (10.64.3.0/26) in the place of HOST: give back one that is this
    host's and not on record.
    """
    if not yes:
        first = "power it off or take it off the network"
        if "/" in host:
            first = "make sure that no VM has an address of it"
        raise UsageError(
            f"cluster forget gives addresses of {host} to others, and cannot see whether its guests"
            " still run",
            hint=f"{first}, then: hvtx cluster forget {render.plain(host)} --yes",
        )
    done = host_of(ctx).cluster.forget(host)
    if json_:
        render.emit_json(documents.forgotten.document(done))
        return
    freed = ", ".join(one.cidr for one in done.blocks) or "no block"
    render.say(f"{render.plain(host)} (installation {done.installation}): {freed} freed")


@cluster.command(short_help="Register this host and its blocks anew.")
@click.option("--yes", is_flag=True, help="Confirm that no other machine has these blocks.")
@as_json
@click.pass_context
def register(ctx: click.Context, yes: bool, json_: bool) -> None:
    """Register this host and its blocks anew: after another machine id, or with another etcd.

    For a host whose disk is in another machine or whose /etc/machine-id changed, and for an etcd
    that was put back from a snapshot or made anew. A block that another host has there is refused.
    With another etcd, do it on every host before a VM is made on any.
    """
    if not yes:
        raise UsageError(
            "cluster register makes the blocks on record this machine's, and cannot see whether the"
            " machine that had them still runs",
            hint="if it never does again, and the etcd of the configuration is the right one:"
            " hvtx cluster register --yes",
        )
    done = host_of(ctx).cluster.register()
    if json_:
        render.emit_json(documents.registered.document(done))
        return
    own = ", ".join(str(one.cidr) for one in done.blocks) or "no block"
    render.say(f"installation {done.installation} is registered by this machine: {own}")
