"""The options that describe a VM, of `vm create`, `vm run` and `vm set`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile

import click

from hvtx.cli.common import (
    File,
    Given,
    Number,
    as_json,
    complete_file,
    complete_network,
    complete_words,
)
from hvtx.cli.egress_options import egress_options
from hvtx.cli.guest_options import guest_options
from hvtx.errors import UsageError
from hvtx.model.typed import Any

MEBIBYTES = Number(hint="the unit is MiB: 2048 is 2 GiB", meant="mebibytes")
PROCESSORS = "it is a number of virtual processors, for instance 2"


_NO = ("no", "false", "off", "0")
_ANSWERS = (*_NO, "yes", "true", "on", "1")
PUBLISHED = "[NETWORK/][HOSTIP:]HOSTPORT[-LAST]:GUESTPORT[-LAST][/udp]"

_LIMIT = "in=RATE,out=RATE,in-packets=N,out-packets=N"


def _together(
    _context: click.Context, _option: click.Parameter, given: Sequence[str]
) -> str | None:
    """Parts of one value, each with an option of its own: none of them is passed over."""
    return ",".join(given) if given else None


limited = click.option(
    "--limit",
    multiple=True,
    callback=_together,
    metavar=_LIMIT,
    help="What each interface may carry into the guest and out of it, for instance 100mbit.",
)
limited_anew = click.option(
    "--limit",
    multiple=True,
    callback=_together,
    metavar=f"{_LIMIT}|none",
    help="Limits in the place of all that the VM has; none: without.",
)

_LIVING = (
    click.option(
        "--publish",
        "-p",
        multiple=True,
        metavar=PUBLISHED,
        help="Publish a port of the guest, or a range, on the host; repeatable.",
    ),
    click.option(
        "--unpublish",
        multiple=True,
        metavar="[HOSTIP:]HOSTPORT[-LAST][/udp]",
        help="Publish a port, or a range, no more; repeatable.",
    ),
    limited_anew,
)


def living(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `vm set` that a VM may be given while it runs."""
    for decorate in reversed(_LIVING):
        function = decorate(function)
    return function


def _hypervisors() -> tuple[str, ...]:
    from hvtx.api import terminal

    return terminal.hypervisors()


_WISHES = (
    click.option(
        "--network",
        "networks",
        multiple=True,
        metavar="N",
        shell_complete=complete_network,
        help="Network to attach to; repeatable [default].",
    ),
    click.option(
        "--ip",
        "ips",
        multiple=True,
        metavar="A",
        help="IP address; the nth of a family is for the nth network that has it, a further one for"
        " the network that it is in.",
    ),
    click.option(
        "--mac", "macs", multiple=True, metavar="M", help="MAC address of the nth interface."
    ),
    click.option(
        "--publish",
        "-p",
        multiple=True,
        metavar=PUBLISHED,
        help="Publish a port of the guest, or a range, on the host; repeatable.",
    ),
    click.option(
        "--memory",
        type=MEBIBYTES,
        default=256,
        show_default=True,
        metavar="MiB",
        help="Size of the guest's memory.",
    ),
    click.option(
        "--cpus",
        type=Number(hint=PROCESSORS),
        default=1,
        show_default=True,
        metavar="N",
        help="Virtual processors.",
    ),
    click.option(
        "--kernel",
        type=File(),
        metavar="F",
        shell_complete=complete_file,
        help="Kernel to boot directly.",
    ),
    click.option(
        "--initrd",
        type=File(),
        metavar="F",
        shell_complete=complete_file,
        help="Initial RAM disk.",
    ),
    click.option(
        "--append", metavar="S", help="Kernel command line; {ip} and others are replaced."
    ),
    click.option(
        "--disk",
        "disks",
        type=File(),
        multiple=True,
        metavar="F",
        shell_complete=complete_file,
        help="Disk image, raw or qcow2; repeatable.",
    ),
    click.option(
        "--hypervisor",
        type=Given(),
        metavar="qemu|firecracker|cloud-hypervisor|command|external",
        shell_complete=complete_words(_hypervisors),
        help="Hypervisor [qemu; command where a COMMAND is given].",
    ),
    limited,
    guest_options,
    click.option("--autostart", is_flag=True, help="Start at boot."),
    egress_options("its networks'"),
    click.argument("command", nargs=-1, type=click.UNPROCESSED, shell_complete=complete_file),
    as_json,
)


def requests(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a VM."""
    for decorate in reversed(_WISHES):
        function = decorate(function)
    return function


def checked(name: str, request: dict[str, Any]) -> Any:
    """What was asked for; raises UsageError for a command that does not stand after --.

    And for a NAME that does, with a command behind it or nothing else to run: it would be the first
    word of a command whose VM was not named.
    """
    refuse_words_before_dashes(request["command"])
    context = click.get_current_context()
    words = list(context.find_root().obj["arguments"])
    before = words[: words.index("--")] if "--" in words else words
    runs = not request["command"] and (
        request["kernel"] or request["disks"] or request["hypervisor"] == "external"
    )
    if not runs and context.info_name in before and name not in before:
        raise UsageError(
            "the VM has no name: what stands after -- is its command",
            hint=_with_name(context, before, [name, *request["command"]]),
        )
    return request


def _with_name(context: click.Context, before: list[str], command: list[str]) -> str:
    """What was written, with a NAME behind the command's own."""
    from shlex import join  # for a refusal only

    behind = before.index(str(context.info_name)) + 1
    words = [*before[:behind], "NAME", *before[behind:], "--", *command]
    return f"hvtx {join(words)}"


def _without(answer: str, flag: str) -> str:
    """How a flag is written without the word behind it."""
    if answer.lower() not in _NO:
        return f"leave {answer!r} out"
    contrary = f"--no-{flag.removeprefix('--')}"
    known = (param.secondary_opts for param in click.get_current_context().command.params)
    return (
        f"write it as {contrary}" if any(contrary in o for o in known) else "leave both words out"
    )


def refuse_words_before_dashes(given: Sequence[str]) -> None:
    """Refuse a command that does not stand after --; raises UsageError."""
    words = list(click.get_current_context().find_root().obj["arguments"])
    command = list(given)
    after = words[words.index("--") + 1 :] if "--" in words else []
    if command and after[-len(command) :] != command:
        flag = words[words.index(command[0]) - 1]
        if command[0].lower() in _ANSWERS and flag.startswith("--"):
            raise UsageError(
                f"{flag} takes no value, and {command[0]!r} stands behind it",
                hint=_without(command[0], flag),
            )
        _refuse_options_as_values(words)
        raise UsageError(f"unexpected argument {command[0]!r}", hint=_meant_by(command))


def _refuse_options_as_values(words: Sequence[str]) -> None:
    """Refuse ``--network --ip 10.0.0.5``: the value is missing, and the next option is taken."""
    params = click.get_current_context().command.params
    options = [param for param in params if isinstance(param, click.Option)]
    flags = {name for one in options for name in (*one.opts, *one.secondary_opts)}
    valued = {name for one in options if not one.is_flag for name in one.opts}
    before = list(takewhile(lambda word: word != "--", words))
    for option, value in pairwise(before):
        if option in valued and value in flags:
            raise UsageError(
                f"{option} has no value: {value} follows it",
                hint=f"give it one, or leave {option} out",
            )


def _meant_by(command: Sequence[str]) -> str:
    """The hint of words that stand where a command does, without its dashes."""
    name, equals, value = command[0].partition("=")
    params = click.get_current_context().command.params
    option = next((p for p in params if f"--{name}" in (*p.opts, *p.secondary_opts)), None)
    if isinstance(option, click.Option):
        given = value if equals else "" if option.is_flag else " ".join(command[1:2])
        return f"did you mean --{name}{given and ' '}{given}?"
    return "put the command to run as the VM after --; of several VMs, name one at a time"
