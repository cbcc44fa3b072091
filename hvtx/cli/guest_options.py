"""The options that a VM's guest sees, or its process: of `vm create`, `vm run` and `vm set`."""

from __future__ import annotations

from collections.abc import Callable

import click

from hvtx.cli.common import File, Given, Number, complete_file
from hvtx.errors import UsageError
from hvtx.model.typed import Any

QUEUES = "it is a number of queues, for instance 4"
_NAMES = ("queues", "user_data", "ssh_keys", "user")


def _options(queues: str = "", user: str = "") -> tuple[Callable[..., Any], ...]:
    """The options; ``queues`` and ``user`` say what is so without them."""
    return (
        click.option(
            "--user-data",
            type=File(),
            metavar="F",
            shell_complete=complete_file,
            help="File for cloud-init in the guest, handed on as it is.",
        ),
        click.option(
            "--ssh-key",
            "ssh_keys",
            type=File(),
            multiple=True,
            metavar="F",
            shell_complete=complete_file,
            help="File of public keys that may log in, by cloud-init; repeatable.",
        ),
        click.option(
            "--queues",
            type=Number(hint=QUEUES),
            metavar="N",
            help=f"Queues of each TAP device, 1 to 256{queues}.",
        ),
        click.option(
            "--user",
            type=Given(),
            metavar="U",
            help=f"User that the VM's process runs as{user}.",
        ),
    )


_CLEARING = (
    click.option("--no-user-data", is_flag=True, help="Without a file for cloud-init."),
    click.option("--no-ssh-key", is_flag=True, help="Without public keys."),
    click.option("--no-user", is_flag=True, help="The user of the configuration again."),
)


def guest_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a VM that is created."""
    for decorate in reversed(_options(" [default: 1]", " [default: vm_user as configured]")):
        function = decorate(function)
    return function


def guest_changes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same of a VM that is changed, and those that take them away."""
    for decorate in reversed((*_options(), *_CLEARING)):
        function = decorate(function)
    return function


def taken_changes(wanted: dict[str, Any]) -> dict[str, Any]:
    """Take these options out of those of `vm set`: what is to be otherwise; None stays as it is."""
    given = {name: wanted.pop(name) for name in _NAMES}
    given["ssh_keys"] = given["ssh_keys"] or None
    for option, name, nothing in (
        ("user-data", "user_data", ""), ("ssh-key", "ssh_keys", ()), ("user", "user", ""),
    ):  # fmt: skip
        if wanted.pop(f"no_{option.replace('-', '_')}"):
            if given[name]:
                raise UsageError(
                    f"--{option} and --no-{option} cannot be combined", hint="give one of them"
                )
            given[name] = nothing
    return given
