"""`hvtx import`, `hvtx adopt`: taking over other tools' objects, by proof or on the user's word."""

from __future__ import annotations

import click

from hvtx import documents
from hvtx.cli import render
from hvtx.cli.common import (
    PID_MOST,
    Given,
    Number,
    as_json,
    complete_device,
    complete_file,
    complete_vm,
    host_of,
)
from hvtx.cli.failures import raise_for_import
from hvtx.cli.root import Group
from hvtx.model.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtx import Import, ImportedThing, ImportedVm


@click.group("import", cls=Group)
def import_() -> None:
    """Take over VMs that another tool made: what is proven is marked and recorded, no more."""


@import_.command("my-hypervisor", short_help="Take over VMs from my-hypervisor's state.json files.")
@click.argument(
    "paths",
    nargs=-1,
    type=Given(),
    required=True,
    metavar="PATH...",
    shell_complete=complete_file,
)
@click.option("--dry-run", is_flag=True, help="Show what would be taken over; changes nothing.")
@as_json
@click.pass_context
def my_hypervisor(ctx: click.Context, paths: tuple[str, ...], dry_run: bool, json_: bool) -> None:
    """Take over from my-hypervisor's state.json files, or directories of them.

    A TAP is taken if it is just as described, carries no alias, and is held by the VM's process or
    by nobody; a firewall rule if it is there exactly once, word for word, and speaks of the VM.
    Everything else is reported and left alone (exit 9).
    """
    done = host_of(ctx).import_my_hypervisor(paths, dry_run=dry_run)
    if json_:
        render.emit_json(documents.imported.document(done))
    else:
        _show(done)
    raise_for_import(done)


@click.command()
@click.argument(
    "words",
    nargs=-1,
    required=True,
    metavar="OBJECT",
    type=click.UNPROCESSED,
    shell_complete=complete_device,
)
@click.option(
    "--vm",
    "name",
    required=True,
    metavar="NAME",
    shell_complete=complete_vm,
    help="VM that the object belongs to.",
)
@click.option(
    "--pid", type=Number(1, PID_MOST), metavar="PID", help="PID that has the device open."
)
@click.option("--dry-run", is_flag=True, help="Show what would be taken over; changes nothing.")
@as_json
@click.pass_context
def adopt(
    ctx: click.Context,
    words: tuple[str, ...],
    name: str,
    pid: int | None,
    dry_run: bool,
    json_: bool,
) -> None:
    """Take over one TAP device or firewall rule that you vouch for.

    OBJECT is a device's name, or a rule as iptables-save has it with its table, or a rule as
    `hvtx explain` names it. The VM is made if there is none of that name. From then on gc treats
    the object like any other of that VM: it goes when the VM's process is proven dead.

    \b
    A rule stands after two dashes:
      hvtx adopt --vm web -- iptables -t nat -A POSTROUTING -s 10.0.0.5/32 …

    Refused is what carries a mark or an alias, what stands more than once, what a process other
    than the VM's holds open, and what Docker, libvirt and the like keep.
    """  # noqa: D301 - click's mark of lines that are to stay as they are
    import shlex

    thing = words[0] if len(words) == 1 else shlex.join(words)
    done = host_of(ctx).adopt(thing, vm=name, pid=pid, dry_run=dry_run)
    if json_:
        render.emit_json(documents.adopt.document(done))
        return
    item = done.item
    verbs = {"imported": "is taken over", "already": "is on record and marked already"}
    verb = verbs[item.outcome] if done.applied else "would be taken over"
    render.say(render.plain(f"{item.kind} {item.key} {verb} for VM {done.vm}"), "bold")
    for line in (*item.evidence, f"the VM: {done.liveness} ({done.process})"):
        render.say(f"  {render.plain(line)}", "dim")


def _show(done: Import) -> None:
    rows: list[tuple[str | None, ...]] = []
    for vm in done.vms:
        name = vm.vm or vm.name or vm.path
        rows.append((name, "VM", vm.id, _outcome(vm, done), vm.message))
        rows += [
            (name, item.kind, item.key, _outcome(item, done), item.message) for item in vm.items
        ]
    render.table(
        ("vm", "kind", "object", "outcome", "why"),
        rows,
        empty="nothing was found",
        below=("why", "object", "outcome", "kind"),
    )
    words = ", ".join(f"{count} {word}" for word, count in done.counts().items() if count)
    render.say(words if done.applied else f"{words} (nothing was changed)", "bold")


def _outcome(one: ImportedVm | ImportedThing, done: Import) -> str:
    word = one.outcome
    if word == "imported" and not done.applied:
        word = "would be imported"
    return f"{word} ({one.reason})" if one.reason else word
