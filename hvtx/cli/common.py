"""What commands share: the host that they are called on, and the ``--json`` option."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress

import click

from hvtx.api.settings import DAY, SECONDS
from hvtx.cli import opening
from hvtx.errors import HvtxError
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hvtx import Host

telling_refusal = opening.telling_refusal

as_json: Callable[[Any], Any] = click.option(
    "--json", "json_", is_flag=True, help="Print one JSON object."
)

GIVEN_ONCE = "Given once, by `create`: another value than there is is refused."


def _names(ctx: click.Context, begun: str, *kinds: str) -> list[str]:
    """Names on record for a shell; none where there is no store, or none that may be read."""
    root = ctx.find_root()
    root.obj = root.obj or dict(root.params)  # the root command itself is not run for this
    host = host_of(ctx)
    with suppress(HvtxError):
        groups = [host.vm if kind == "vm" else host.network for kind in kinds]
        found = {name for group in groups for name in group.names()}
        return sorted(name for name in found if name.startswith(begun))
    return []


def _objects(ctx: click.Context, begun: str) -> list[str]:
    """Devices of the host, and what is on record for whoever may read the store."""
    root = ctx.find_root()
    root.obj = root.obj or dict(root.params)
    found = set(complete_device(ctx, click.Argument(["object"]), ""))
    with suppress(HvtxError):
        found.update(host_of(ctx).things())
    return sorted(word for word in found if word.startswith(begun))


def complete_vm(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """VMs for a shell's completion."""
    return _names(ctx, incomplete, "vm")


vm_names: Callable[[Any], Any] = click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_vm
)


def complete_network(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Networks for a shell's completion."""
    return _names(ctx, incomplete, "network")


def complete_either(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """VMs and networks for a shell's completion."""
    return _names(ctx, incomplete, "vm", "network")


def complete_object(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What `explain` and `adopt` may be asked: devices, VMs, networks, addresses and their like."""
    return _objects(ctx, incomplete)


def complete_installation(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Other installations with devices on this host, for whoever may read the store."""
    root = ctx.find_root()
    root.obj = root.obj or dict(root.params)
    with suppress(HvtxError):
        return [name for name in host_of(ctx).gc.installations() if name.startswith(incomplete)]
    return []


def complete_device(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Devices of this host for a shell's completion."""
    from hvtx.api import terminal

    return [name for name in terminal.devices() if name.startswith(incomplete)]


def complete_file(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Leave names of files to the shell, which completes them as it always does."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_words(known: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """The words of a list for a shell's completion; ``known`` is called only for that."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return [word for word in known() if word.startswith(incomplete)]

    return complete


PID_MOST = (1 << 31) - 1  # of a pid_t: no process can have a greater one
ROW_MOST = (1 << 63) - 1  # the store's own limit for the number of an operation
LINES_MOST = 10**9  # as many as `history_lines` may keep


class Advised(click.BadParameter):
    """A value that is refused, with a better hint than the help of its command."""

    def __init__(self, message: str, hint: str) -> None:
        """Take both as sentences."""
        super().__init__(message)
        self.hint = hint


class Number(click.ParamType):  # type: ignore[type-arg]  # which click 8.1 has not
    """A whole number as people write it: an optional sign and digits 0 to 9, within bounds."""

    name = "number"

    def __init__(
        self,
        least: int | None = None,
        most: int | None = None,
        *,
        hint: str | None = None,
        meant: str | None = None,
    ) -> None:
        """Any number, unless bounds are given; ``hint`` is told of what is none.

        ``meant``: the function of ``meant_values`` that reads what people write with a unit.
        """
        self._meant = meant
        self._bounds = None if least is None or most is None else (least, most)
        self._hint = hint

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what ``int`` takes besides: digits of other scripts, underscores, blanks."""
        if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
            words = f"{value!r} is not a whole number"
            if self._hint is not None:
                right = _with_unit(self._meant, value, param)
                raise Advised(words, f"{right}; {self._hint}" if right else self._hint)
            self.fail(words, param, ctx)
        try:
            number = int(value)
        except ValueError:  # of more digits than int takes
            self.fail("it is too long for a number", param, ctx)
        if self._bounds is not None and not self._bounds[0] <= number <= self._bounds[1]:
            least, most = self._bounds
            self.fail(f"{value} is not between {least} and {most}", param, ctx)
        return number


def _with_unit(meant: str | None, value: str, param: click.Parameter | None) -> str | None:
    """The hint of a number that was given with its unit, as ``--memory 512`` of `512M`."""
    from hvtx.model import meant_values

    number = getattr(meant_values, meant)(value) if meant else None
    return None if number is None or param is None else f"write it as {param.opts[0]} {number}"


class Given(click.ParamType):  # type: ignore[type-arg]  # as above
    """A path or a word that is not empty: a shell variable that was not set is no answer."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty text, which would mean another thing than it seems."""
        if value == "":
            self.fail("it is empty", param, ctx)
        return value


class Written(Given):
    """The path of a file that is written."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse ``-``, which is standard output elsewhere, and would be a file of that name."""
        if value == "-":
            hint = "/dev/stdout is standard output, ./- is a file of that name"
            raise Advised("'-' is no name for a file here", hint)
        return super().convert(value, param, ctx)


class File(Given):
    """The path of a file: a relative one counts from the directory of whoever wrote it."""

    name = "file"


class Seconds(click.ParamType):  # type: ignore[type-arg]  # as above
    """A time of at most a day, in seconds, as people write it."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what ``float`` takes besides: nan and inf, underscores, blanks."""
        if isinstance(value, str) and not re.fullmatch("-?" + SECONDS, value):
            words = f"{value!r} is not a number of seconds, 0 to {DAY}"
            hint = _with_unit("seconds", value, param)
            if hint is not None:
                raise Advised(words, hint)
            self.fail(words, param, ctx)
        if not 0 <= float(value) <= DAY:
            self.fail(f"{value} is not between 0 and {DAY} seconds", param, ctx)
        return float(value)


def host_of(ctx: click.Context) -> Host:
    """The host of a command of click's (see ``hvtx.cli.opening``)."""
    return opening.host_of(ctx.find_root().obj)
