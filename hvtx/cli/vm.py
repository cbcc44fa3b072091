"""`hvtx vm`: create, set, start, run, stop, restart, rm, ls, show, logs, console, attach."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click
from click.core import ParameterSource

from hvtx import documents
from hvtx.cli import render, verbs, vm_many
from hvtx.cli.common import (
    GIVEN_ONCE,
    PID_MOST,
    ROW_MOST,
    Given,
    Number,
    Seconds,
    as_json,
    complete_file,
    complete_vm,
    host_of,
    vm_names,
)
from hvtx.cli.egress_options import egress_change, egress_changes
from hvtx.cli.guest_options import guest_changes, taken_changes
from hvtx.cli.quick import POWER_DOWN
from hvtx.cli.root import Group
from hvtx.cli.vm_options import (
    MEBIBYTES,
    PROCESSORS,
    checked,
    living,
    refuse_words_before_dashes,
    requests,
)
from hvtx.cli.vm_text import show_done
from hvtx.errors import UsageError
from hvtx.model.typed import Any, BinaryIO


@click.group(cls=Group, lazy={"apply": "hvtx.cli.vm_apply"})
def vm() -> None:
    """Create, run, stop, show and remove VMs."""


@vm.command()
@click.argument("name")
@click.option(
    "--from-log", is_flag=True, help="Create it as it was when removed, from the history."
)
@click.option(
    "--operation", type=Number(1, ROW_MOST), metavar="ID", help="With --from-log: which removal."
)
@requests
@click.pass_context
def create(
    ctx: click.Context,
    /,
    name: str,
    from_log: bool,
    operation: int | None,
    json_: bool,
    **request: Any,
) -> None:
    """Record a VM, its addresses and host ports; starts nothing.

    \b
    In --append and in the words after -- these are replaced:
      {vm}        its name
      {tap}       the TAP device of its first interface
      {mac}       that interface's MAC address
      {ip}        its IPv4 address
      {gateway}   the gateway of its IPv4 subnet
      {netmask}   the netmask of that subnet
      {ip6}       its IPv6 address
      {gateway6}  the gateway of its IPv6 subnet
      {mtu}       the MTU of its network
      {queues}    how many queues each TAP device has

    The second interface's are {tap_2}, {mac_2} and so on. Refused is any other {word} in --append,
    and in a command what is nearly one of these, such as {ipv4}; {{word}} writes it literally, and
    ${word} is left to the shell. A command (--hypervisor command) has the same in its environment:
    HVTX_VM, HVTX_TAP, HVTX_MAC, HVTX_IP, HVTX_GATEWAY, HVTX_NETMASK, HVTX_IP6, HVTX_GATEWAY6,
    HVTX_MTU, HVTX_QUEUES, HVTX_TAP_2 and so on; and HVTX_SEED, the image that cloud-init
    reads, if there is one.
    """  # noqa: D301 - click's mark of lines that are to stay as they are
    if operation is not None and not from_log:
        raise UsageError(
            "--operation needs --from-log",
            hint=f"hvtx vm create {name} --from-log --operation {operation}",
        )
    if from_log:
        _refuse_requests(ctx)
        made = host_of(ctx).vm.create_from_log(name, operation=operation)
    else:
        made = host_of(ctx).vm.create(name, **checked(name, request))
    show_done(made, "defined", json_=json_)


def _refuse_requests(ctx: click.Context) -> None:
    """Refuse what says how the VM should be, where the history says it."""
    free = {"name", "from_log", "operation", "json_"}
    for option in ctx.command.params:
        given = ctx.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if option.name not in free and given:
            words = option.opts[0] if option.param_type_name == "option" else "a command"
            raise UsageError(
                f"--from-log and {words} cannot be combined",
                hint="the VM is created as it was: change it afterwards, or create it without "
                "--from-log",
            )


@vm.command()
@click.argument("name")
@requests
@click.pass_context
def run(ctx: click.Context, /, name: str, json_: bool, **request: Any) -> None:
    """Create and start a VM; if that fails, nothing of it remains.

    `hvtx vm create --help` lists the {words} that are replaced in --append and in a command.
    """
    show_done(host_of(ctx).vm.run(name, **checked(name, request)), "running", json_=json_)


@vm.command(short_help="Start VMs, each whole or not at all.")
@vm_names
@as_json
@click.pass_context
def start(ctx: click.Context, names: tuple[str, ...], json_: bool) -> None:
    """Make VMs' networks and start their hypervisors, each whole or not at all.

    Several are an operation each: one that fails leaves the others as they are (exit 9).
    """
    options = ctx.find_root().obj
    if len(names) > 1:
        vm_many.start(options, names, json_=json_)
    else:
        verbs.start(options, names[0], json_=json_)


def _power_down(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of how a hypervisor is ended."""
    command = click.option("--force", is_flag=True, help="End the hypervisor at once.")(command)
    return click.option(
        "--timeout",
        type=Seconds(),
        default=POWER_DOWN,
        metavar="S",
        help="How long the guest may take to power down, 0 to 86400 seconds"
        f" [default: {POWER_DOWN:g}].",
    )(command)


@vm.command(short_help="Stop VMs; they keep their addresses and ports.")
@vm_names
@_power_down
@as_json
@click.pass_context
def stop(
    ctx: click.Context, names: tuple[str, ...], timeout: float, force: bool, json_: bool
) -> None:
    """End hypervisors, of several VMs at once, and release their networks; leases stay."""
    options = ctx.find_root().obj
    if len(names) > 1:
        vm_many.stop(options, names, timeout=timeout, force=force, json_=json_)
    else:
        verbs.stop(options, names[0], timeout=timeout, force=force, json_=json_)


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@_power_down
@as_json
@click.pass_context
def restart(ctx: click.Context, name: str, timeout: float, force: bool, json_: bool) -> None:
    """Stop a VM and start it again; one that is not running is started."""
    tell = None if json_ else render.tell
    done = host_of(ctx).vm.restart(name, timeout=timeout, force=force, tell=tell)
    show_done(done, "running", json_=json_)


_CLEARING = ("kernel", "initrd", "append", "disk")


@vm.command("set", short_help="Change a VM; some of it can be changed while it runs.")
@click.argument("name", shell_complete=complete_vm)
@click.option("--memory", type=MEBIBYTES, metavar="MiB", help="Size of the guest's memory.")
@click.option("--cpus", type=Number(hint=PROCESSORS), metavar="N", help="Virtual processors.")
@click.option(
    "--kernel", type=Given(), metavar="F", shell_complete=complete_file, help="Kernel to boot."
)
@click.option(
    "--initrd", type=Given(), metavar="F", shell_complete=complete_file, help="Initial RAM disk."
)
@click.option("--append", metavar="S", help="Kernel command line; {ip} and others are replaced.")
@click.option(
    "--disk",
    "disks",
    type=Given(),
    multiple=True,
    metavar="F",
    shell_complete=complete_file,
    help="Disk image; repeatable. Replaces all disks of the VM.",
)
@click.option("--no-kernel", is_flag=True, help="Remove the kernel: boot from a disk.")
@click.option("--no-initrd", is_flag=True, help="Remove the initial RAM disk.")
@click.option("--no-append", is_flag=True, help="Remove the kernel command line.")
@click.option("--no-disk", is_flag=True, help="Without disks.")
@guest_changes
@click.option("--autostart/--no-autostart", default=None, help="Start the VM at boot, or not.")
@living
@egress_changes("its networks'")
@click.option("--network", "networks", multiple=True, hidden=True, help=GIVEN_ONCE)
@click.option("--ip", "ips", multiple=True, hidden=True, help=GIVEN_ONCE)
@click.option("--mac", "macs", multiple=True, hidden=True, help=GIVEN_ONCE)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_file)
@as_json
@click.pass_context
def set_(ctx: click.Context, /, name: str, json_: bool, **wanted: Any) -> None:
    """Change a VM, whole or not at all.

    Ports, limits, egress and autostart while it runs, too; the rest while it does not.

    What is not named stays as it is. Connections by a port that is unpublished end. Networks and
    addresses are given when a VM is created. A COMMAND after -- takes the place of the VM's own.
    `hvtx vm create --help` lists the {words} that are replaced.
    """
    refuse_words_before_dashes(wanted["command"])
    for option in _CLEARING:
        field = "disks" if option == "disk" else option
        if wanted.pop(f"no_{option}"):
            if wanted[field]:
                raise UsageError(
                    f"--{option} and --no-{option} cannot be combined", hint="give one of them"
                )
            wanted[field] = () if option == "disk" else ""
        elif option == "disk":
            wanted[field] = wanted[field] or None
    given = taken_changes(wanted)
    given |= {**egress_change(wanted), "command": wanted["command"] or None}
    show_done(host_of(ctx).vm.set(name, **{**wanted, **given}), "changed", json_=json_)


@vm.command(short_help="Forget VMs; their addresses and ports are free then.")
@vm_names
@click.option("--force", is_flag=True, help="Stop the VM first.")
@as_json
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...], force: bool, json_: bool) -> None:
    """Forget VMs and free their addresses and ports, each in an operation of its own."""
    options = ctx.find_root().obj
    if len(names) > 1:
        vm_many.rm(options, names, force=force, json_=json_)
    else:
        verbs.remove(options, names[0], force=force, json_=json_)


@vm.command()
@as_json
@click.pass_context
def ls(ctx: click.Context, json_: bool) -> None:
    """List VMs with their state."""
    verbs.list_vms(ctx.find_root().obj, json_=json_)


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@as_json
@click.pass_context
def show(ctx: click.Context, name: str, json_: bool) -> None:
    """Show a VM, its interfaces and resources."""
    verbs.show(ctx.find_root().obj, name, json_=json_)


@vm.command(short_help="Print what the VM and its hypervisor wrote.")
@click.argument("name", shell_complete=complete_vm)
@as_json
@click.pass_context
def logs(ctx: click.Context, name: str, json_: bool) -> None:
    """Print what the VM and its hypervisor wrote: the last 8 MiB of it at most."""
    log = host_of(ctx).vm.logs(name)
    if json_:
        render.emit_json(documents.logs.document(name, log.paths[-1], log.lines()))
        return
    for file in log.files():
        _print_log(file)


def _print_log(log: BinaryIO) -> None:
    with log:
        if render.fancy():  # a guest's words, and a terminal would obey them
            while line := log.readline(1 << 16):
                render.say(render.plain_line(line.decode(errors="replace")))
            return
        while data := log.read(1 << 16):
            sys.stdout.buffer.write(data)


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@as_json
@click.pass_context
def console(ctx: click.Context, name: str, json_: bool) -> None:
    """Join the VM's serial console; Ctrl-] leaves it. With --json, only tell where it is."""
    if json_:
        render.emit_json(documents.console.document(name, host_of(ctx).vm.console(name)))
    else:
        host_of(ctx).vm.join_console(name)


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@click.option(
    "--pid", type=Number(1, PID_MOST), required=True, metavar="PID", help="PID of the VM's process."
)
@as_json
@click.pass_context
def attach(ctx: click.Context, name: str, pid: int, json_: bool) -> None:
    """Say which process is the VM's, for one that hvtx does not start."""
    show_done(host_of(ctx).vm.attach(name, pid), "running", json_=json_)
