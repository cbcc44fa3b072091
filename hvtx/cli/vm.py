"""`hvtx vm`: create, start, run, stop, rm, ls, show, logs, console, attach."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
from click.core import ParameterSource

from hvtx.cli import render
from hvtx.cli.common import (
    PID_MOST,
    ROW_MOST,
    Given,
    Number,
    Seconds,
    again_when_full,
    as_json,
    complete_network,
    complete_vm,
    opened,
    reading,
)
from hvtx.cli.network import show_resources
from hvtx.errors import UsageError


@click.group()
def vm() -> None:
    """Make, run, stop, show and remove VMs."""


_WISHES = (
    click.option(
        "--network",
        "networks",
        multiple=True,
        metavar="N",
        shell_complete=complete_network,
        help="Repeatable [default].",
    ),
    click.option(
        "--ip", "ips", multiple=True, metavar="A", help="Address; the nth of a family: nth network."
    ),
    click.option(
        "--mac", "macs", multiple=True, metavar="M", help="MAC address of the nth interface."
    ),
    click.option(
        "--publish",
        "-p",
        multiple=True,
        metavar="[HOSTIP:]HOSTPORT:GUESTPORT[/udp]",
        help="Repeatable.",
    ),
    click.option(
        "--memory", type=Number(), default=256, show_default=True, metavar="MiB", help="Its memory."
    ),
    click.option(
        "--cpus", type=Number(), default=1, show_default=True, metavar="N", help="Virtual CPUs."
    ),
    click.option("--kernel", type=Given(), metavar="F", help="Boot this kernel directly."),
    click.option("--initrd", type=Given(), metavar="F", help="Initial RAM disk, beside --kernel."),
    click.option(
        "--append", metavar="S", help="Kernel command line; {ip}, {gateway} … are replaced."
    ),
    click.option(
        "--disk", "disks", type=Given(), multiple=True, metavar="F", help="Disk image; repeatable."
    ),
    click.option(
        "--hypervisor",
        type=Given(),
        metavar="qemu|firecracker|cloud-hypervisor|command|external",
        help="What runs it [qemu; with a command after --: command]; external: start launches"
        " nothing, see `vm attach`.",
    ),
    click.option("--autostart", is_flag=True, help="Start at boot."),
    click.argument("command", nargs=-1, type=click.UNPROCESSED),
    as_json,
)


def wishes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a VM."""
    for decorate in reversed(_WISHES):
        function = decorate(function)
    return function


def _parse(name: str, wish: dict[str, Any]) -> Any:
    from hvtx.engine import define

    words = list(click.get_current_context().find_root().obj["arguments"])
    command = list(wish["command"])
    after = words[words.index("--") + 1 :] if "--" in words else []
    if command and after[-len(command) :] != command:
        raise UsageError(
            f"unexpected argument {command[0]!r}",
            hint="a command to run as the VM stands after --",
        )
    return define.parse_wish(name, **wish)


def _show(runtime: Any, name: str, verb: str, *, json_: bool) -> None:
    """What a command that acts prints: the VM's object, or a line about it."""
    from hvtx.engine import show as views

    document = views.show_vm(runtime, name)
    if json_:
        render.emit_json(document)
        return
    for line in _sentences(document, verb):
        render.say(line)


def _sentences(document: dict[str, Any], verb: str) -> list[str]:
    """What was done, in a line; of a VM whose process nobody knows yet, what is to be done."""
    name, interfaces = document["name"], document["interfaces"]
    where = ", ".join(i["ipv4"] or i["ipv6"] or "?" for i in interfaces)
    ports = [
        f"{p['host_port']}/{p['protocol']} → {p['guest_port']}"
        for i in interfaces
        for p in i["publish"]
    ]
    if ports:
        where += "; " + ", ".join(ports)
    if verb == "running" and document["hypervisor"] == "external" and document["pid"] is None:
        devices = ", ".join(i["device"] for i in interfaces if i["device"])
        return [
            f"the network of VM {name} is prepared: {devices} ({where})",
            f"`hvtx vm attach {name} --pid PID` tells whose process it is, once it runs",
        ]
    told = [f"VM {name} is {verb}" + (f" ({where})" if verb in ("running", "defined") else "")]
    accelerator = _accelerator(document) if verb == "running" else None
    return told + ([f"accelerator {accelerator}"] if accelerator else [])


def _accelerator(document: dict[str, Any]) -> str | None:
    """With what QEMU runs the guest, and why; None where it does not."""
    name, reason = document["accelerator"], document["accelerator_reason"]
    return f"{name}: {reason}" if name else None


@vm.command()
@click.argument("name")
@click.option("--from-log", is_flag=True, help="As it was when it was removed, from the history.")
@click.option(
    "--operation", type=Number(1, ROW_MOST), metavar="ID", help="With --from-log: removed by it."
)
@wishes
@click.pass_context
def create(
    ctx: click.Context,
    /,
    name: str,
    from_log: bool,
    operation: int | None,
    json_: bool,
    **wish: Any,
) -> None:
    """Record a VM, its addresses and host ports; starts nothing."""
    from hvtx.engine import define

    if operation is not None and not from_log:
        raise UsageError(
            "--operation goes with --from-log",
            hint=f"hvtx vm create {name} --from-log --operation ID",
        )
    if from_log:
        _refuse_wishes(ctx)
    parsed = _parse(name, wish) if not from_log else None
    with opened(ctx, writable=True) as runtime:
        define.create_vm(runtime, parsed or define.wish_from_log(runtime, name, operation))
        _show(runtime, name, "defined", json_=json_)


def _refuse_wishes(ctx: click.Context) -> None:
    """Refuse what says how the VM should be, where the history says it."""
    free = {"name", "from_log", "operation", "json_"}
    for option in ctx.command.params:
        given = ctx.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if option.name not in free and given:
            words = option.opts[0] if option.param_type_name == "option" else "a command"
            raise UsageError(
                f"--from-log and {words} do not go together",
                hint="the VM is made as it was; change it afterwards, or create it anew",
            )


@vm.command()
@click.argument("name")
@wishes
@click.pass_context
def run(ctx: click.Context, /, name: str, json_: bool, **wish: Any) -> None:
    """Create and start a VM; if that fails, nothing of it remains."""
    from hvtx.engine import launch

    parsed = _parse(name, wish)
    with opened(ctx, writable=True) as runtime:
        launch.run_vm(runtime, parsed)
        _show(runtime, name, "running", json_=json_)


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@as_json
@click.pass_context
def start(ctx: click.Context, name: str, json_: bool) -> None:
    """Make the VM's network and start its hypervisor."""
    from hvtx.engine import launch

    with opened(ctx, writable=True) as runtime:
        launch.start_vm(runtime, name)
        _show(runtime, name, "running", json_=json_)


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@click.option(
    "--timeout",
    type=Seconds(),
    default=30.0,
    show_default=True,
    metavar="S",
    help="How long the guest may take to power down, 0 to 86400 seconds.",
)
@click.option("--force", is_flag=True, help="End the hypervisor at once.")
@as_json
@click.pass_context
@again_when_full
def stop(ctx: click.Context, name: str, timeout: float, force: bool, json_: bool) -> None:
    """End the hypervisor and release the VM's network; its addresses stay leased."""
    from hvtx.engine import launch

    with opened(ctx, writable=True, spends=True) as runtime:
        tell = None if json_ else render.tell
        launch.stop_vm(runtime, name, timeout=timeout, force=force, tell=tell)
        _show(runtime, name, "stopped", json_=json_)


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@click.option("--force", is_flag=True, help="Stop it first.")
@as_json
@click.pass_context
@again_when_full
def rm(ctx: click.Context, name: str, force: bool, json_: bool) -> None:
    """Forget a VM and free its addresses and ports."""
    from hvtx.engine import launch

    with opened(ctx, writable=True, spends=True) as runtime:
        launch.remove_vm(runtime, name, force=force)
    if json_:
        render.emit_json({"schema": "hvtx/removed/1", "vm": name})
    else:
        render.say(f"VM {name} is removed")


@vm.command()
@as_json
@click.pass_context
def ls(ctx: click.Context, json_: bool) -> None:
    """List VMs with their state."""
    with reading(ctx) as source:
        document = source.list_vms()
    if json_:
        render.emit_json(document)
        return
    render.table(
        ("name", "state", "guest", "pid", "address", "network", "ports"),
        [
            (
                v["name"],
                v["state"],
                v["guest"],
                v["pid"],
                " ".join(i["ipv4"] or i["ipv6"] or "" for i in v["interfaces"]),
                " ".join(i["network"] for i in v["interfaces"]),
                " ".join(
                    f"{p['host_port']}:{p['guest_port']}/{p['protocol']}"
                    for i in v["interfaces"]
                    for p in i["publish"]
                ),
            )
            for v in document["vms"]
        ],
        empty="no VMs",
    )


def _published(port: dict[str, Any]) -> str:
    host = f"{port['host_ip'] or '*'}:{port['host_port']}/{port['protocol']}"
    return f"{host} → {port['guest_port']}"


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@as_json
@click.pass_context
def show(ctx: click.Context, name: str, json_: bool) -> None:
    """Show a VM, its interfaces and resources."""
    with reading(ctx) as source:
        document = source.show_vm(name)
    if json_:
        render.emit_json(document)
        return
    render.fields(
        [
            ("name", document["name"]),
            ("state", document["state"]),
            ("guest", document["guest"]),
            ("hypervisor", document["hypervisor"]),
            *((("accelerator", accelerator),) if (accelerator := _accelerator(document)) else ()),
            ("pid", document["pid"]),
            ("memory", f"{document['memory']} MiB"),
            ("cpus", document["cpus"]),
            ("autostart", "yes" if document["autostart"] else "no"),
        ]
    )
    for interface in document["interfaces"]:
        addresses = " ".join(a for a in (interface["ipv4"], interface["ipv6"]) if a)
        render.say("")
        render.fields(
            [
                ("network", interface["network"]),
                ("address", addresses),
                ("mac", interface["mac"]),
                ("device", interface["device"]),
                *[
                    (
                        "published",
                        _published(p),
                    )
                    for p in interface["publish"]
                ],
            ]
        )
    show_resources(document["resources"])
    for note in document["notes"]:
        render.say(f"note: {note}")


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@as_json
@click.pass_context
def logs(ctx: click.Context, name: str, json_: bool) -> None:
    """Print what the VM and its hypervisor wrote: the last 8 MiB of it at most."""
    from hvtx.engine import show as views

    with opened(ctx, writable=False) as runtime:
        paths = views.vm_log(runtime, name)
    if json_:
        render.emit_json(views.log_document(name, paths))
        return
    for path in paths:
        with suppress(FileNotFoundError):  # its logger has renamed it just now
            _print_log(path)


def _print_log(path: str) -> None:
    with open(path, "rb") as log:
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
    from hvtx.engine import show as views

    with opened(ctx, writable=False) as runtime:
        where = views.console(runtime, name)
    if json_:
        render.emit_json(views.console_document(name, *where))
    else:
        views.join_console(*where)


@vm.command()
@click.argument("name", shell_complete=complete_vm)
@click.option(
    "--pid", type=Number(1, PID_MOST), required=True, metavar="PID", help="The VM's process."
)
@as_json
@click.pass_context
def attach(ctx: click.Context, name: str, pid: int, json_: bool) -> None:
    """Say which process is the VM's, for one that hvtx does not start."""
    from hvtx.engine import launch

    with opened(ctx, writable=True) as runtime:
        launch.attach(runtime, name, pid)
        _show(runtime, name, "running", json_=json_)
