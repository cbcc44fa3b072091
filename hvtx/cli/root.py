"""The command `hvtx` itself: its global options, and commands that are imported when called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from keyword import iskeyword

import click

from hvtx.api.settings import DEFAULT_CONFIG, FIREWALLS
from hvtx.cli.interrupts import interruptible
from hvtx.cli.names import PROGRAM
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name -> (module, one line of help); a command's module is imported when it is called.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "network": ("hvtx.cli.network", "Create, list, show and remove networks."),
    "vm": ("hvtx.cli.vm", "Create, run, stop, show and remove VMs."),
    "cluster": ("hvtx.cli.cluster", "Show and free blocks of addresses that a cluster gives."),
    "gc": ("hvtx.cli.gc", "Show or remove what dead VMs and interrupted operations left."),
    "recover": ("hvtx.cli.gc", "Resolve interrupted operations; after a reboot, rebuild."),
    "repair": ("hvtx.cli.gc", "Put back what was flushed under running VMs and networks."),
    "intents": ("hvtx.cli.inspect", "Show running and interrupted operations."),
    "log": ("hvtx.cli.inspect", "Show what was made, removed and kept, and why."),
    "explain": ("hvtx.cli.inspect", "Show who owns an interface, address, port or mark."),
    "store": ("hvtx.cli.store", "Back up the state store, and put a backup back."),
    "metrics": ("hvtx.cli.metrics", "Metrics for Prometheus: VMs, resources, what gc would do."),
    "doctor": ("hvtx.cli.doctor", "Check this host."),
    "import": ("hvtx.cli.adopt", "Take over VMs that another tool created."),
    "adopt": ("hvtx.cli.adopt", "Take over one device or rule on your word."),
    "completion": ("hvtx.cli.completion", "Print the completion script for bash, zsh or fish."),
    "cni": ("hvtx.cli.cni", "Install hvtx as a CNI plugin of container runtimes."),
    "systemd": ("hvtx.cli.systemd", "Manage the systemd units: recovery at boot, gc every hour."),
}


class NoCommand(click.UsageError):
    """A word that is no command of the group of ``ctx``; `hvtx.cli.usage` finds what was meant."""

    def __init__(self, name: str, ctx: click.Context) -> None:
        """``name`` is the word."""
        super().__init__(f"no such command {name!r}", ctx)
        self.name = name


class Group(click.Group):
    """A group that knows which of its commands was probably meant.

    ``lazy``: commands whose modules are imported when they are called or listed, by name.
    """

    def __init__(self, *words: Any, lazy: Mapping[str, str] | None = None, **more: Any) -> None:
        """As click's."""
        super().__init__(*words, **more)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, those too that are imported when called."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now where it was not yet."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(self._lazy[cmd_name]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; raises UsageError."""
        name = args[0]
        known = ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name)
        if not known:
            raise NoCommand(name, ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """A group whose commands are imported when called, not when listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name][0])
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(module, name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C becomes an error like others, which click would not make it."""
        with interruptible():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


def _complete_place(
    _ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Leave names of files and directories to the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file" if param.name == "config" else "dir")]


def _complete_firewall(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [word for word in FIREWALLS if word.startswith(incomplete)]


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Print it and leave; only here is it looked up."""
    if value and not ctx.resilient_parsing:
        from hvtx import __version__

        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Transactional network resources for virtual machines and containers.",
)
@click.option(
    "--state-dir",
    metavar="DIR",
    shell_complete=_complete_place,
    help="State store [/var/lib/hvtx; HVTX_STATE_DIR].",
)
@click.option(
    "--run-dir",
    metavar="DIR",
    shell_complete=_complete_place,
    help="Locks and sockets [/run/hvtx; HVTX_RUN_DIR].",
)
@click.option(
    "--firewall",
    metavar="auto|nftables|iptables",
    shell_complete=_complete_firewall,
    help="For new networks [auto; HVTX_FIREWALL].",
)
@click.option(
    "--config",
    metavar="FILE",
    shell_complete=_complete_place,
    help=f"Settings [{DEFAULT_CONFIG}; HVTX_CONFIG].",
)
@click.option(
    "--lock-timeout", metavar="SECONDS", help="Wait for other operations [10; HVTX_LOCK_TIMEOUT]."
)
@click.option("-v", "--verbose", is_flag=True, help="Log progress to standard error.")
@click.option("--debug", is_flag=True, help="Log progress, and tracebacks of errors.")
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def root(ctx: click.Context, /, **options: Any) -> None:
    """Keep the global options for the command, beside the words of the whole command line."""
    ctx.obj = {**options, "arguments": ctx.obj or ()}
