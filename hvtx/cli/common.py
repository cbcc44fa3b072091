"""What commands share: opening the runtime, and the ``--json`` option."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from hvtx import documents
from hvtx.cli.settings import DAY, SECONDS, settings
from hvtx.errors import HvtxError, NotPermitted, Refused, StoreError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hvtx.commands.published_view import StoreSource, ViewSource
    from hvtx.engine.runtime import Runtime, Settings

as_json: Callable[[Any], Any] = click.option(
    "--json", "json_", is_flag=True, help="Print one JSON object."
)


def _show() -> ModuleType:
    from hvtx.commands import show

    return show


def _names(ctx: click.Context, begun: str, *kinds: str) -> list[str]:
    """Names on record for a shell; none where there is no store, or none that may be read."""
    show = _show()
    root = ctx.find_root()
    root.obj = root.obj or dict(root.params)  # the root command itself is not run for this
    with suppress(HvtxError, OSError), opened(ctx, writable=False) as runtime:
        names = [name for kind in kinds for name in show.names(runtime, kind)]
        return sorted({name for name in names if name.startswith(begun)})
    return []


def _objects(ctx: click.Context, begun: str) -> list[str]:
    """Devices of the host, and what is on record for whoever may read the store."""
    show = _show()
    root = ctx.find_root()
    root.obj = root.obj or dict(root.params)
    found = set(complete_device(ctx, click.Argument(["object"]), ""))
    with suppress(HvtxError, OSError), opened(ctx, writable=False) as runtime:
        found.update(show.objects(runtime))
    return sorted(word for word in found if word.startswith(begun))


def complete_vm(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """VMs for a shell's completion."""
    return _names(ctx, incomplete, "vm")


def complete_network(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Networks for a shell's completion."""
    return _names(ctx, incomplete, "network")


def complete_either(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """VMs and networks for a shell's completion."""
    return _names(ctx, incomplete, "vm", "network")


def complete_object(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What `explain` and `adopt` may be asked: devices, VMs, networks, addresses and their like."""
    return _objects(ctx, incomplete)


def complete_device(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Devices of this host for a shell's completion."""
    return [name for name in _show().devices() if name.startswith(incomplete)]


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
        self, least: int | None = None, most: int | None = None, *, hint: str | None = None
    ) -> None:
        """Any number, unless bounds are given; ``hint`` is told of what is none."""
        self._range = click.IntRange(least, most)
        self._hint = hint

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what ``int`` takes besides: digits of other scripts, underscores, blanks."""
        if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
            words = f"{value!r} is not a whole number"
            if self._hint is not None:
                raise Advised(words, self._hint)
            self.fail(words, param, ctx)
        return self._range.convert(value, param, ctx)


class Given(click.ParamType):  # type: ignore[type-arg]  # as above
    """A path or a word that is not empty: a shell variable that was not set is no answer."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse the empty text, which would mean another thing than it seems."""
        if value == "":
            self.fail("it is empty", param, ctx)
        return value


class File(Given):
    """The path of a file: a relative one counts from the directory of whoever wrote it."""

    name = "file"


class Seconds(click.ParamType):  # type: ignore[type-arg]  # as above
    """A time of at most a day, in seconds, as people write it."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what ``float`` takes besides: nan and inf, underscores, blanks."""
        if isinstance(value, str) and not re.fullmatch("-?" + SECONDS, value):
            self.fail(f"{value!r} is not a number of seconds, 0 to {DAY}", param, ctx)
        if not 0 <= float(value) <= DAY:
            self.fail(f"{value} is not between 0 and {DAY} seconds", param, ctx)
        return float(value)


@contextmanager
def opened(
    ctx: click.Context, *, writable: bool, create: bool = True, spends: bool = False
) -> Iterator[Runtime]:
    """A runtime for the command, closed at its end; the store's own errors become ours.

    Without ``create`` it makes no store where there is none (its disk may not be mounted yet);
    ``spends``: it ends or frees something, and may take the reserve of a full disk.
    """
    options = ctx.find_root().obj
    known = settings(options)
    with translated(), ExitStack() as stack:
        try:
            runtime = stack.enter_context(
                _runtime(known, writable=writable, create=create, spends=spends)
            )
        except NotPermitted as refusal:
            from hvtx.commands.published_view import members_hint

            refusal.hint = members_hint(known) or refusal.hint
            raise
        if writable:
            runtime.listener = _listener(options)
        yield runtime


def _runtime(
    known: Settings, *, writable: bool, create: bool, spends: bool
) -> AbstractContextManager[Runtime, bool | None]:
    """A runtime that closes itself; where a group may look, it publishes what it changed."""
    if writable and known.group:
        from hvtx.commands.publish_view import publishing

        return publishing(known, documents.view.document, create=create, spends=spends)
    from hvtx.engine.runtime import Runtime

    return closing(Runtime(known, writable=writable, create=create, spends=spends))


Verb = TypeVar("Verb", bound=Callable[..., Any])


def again_when_full(verb: Verb) -> Verb:
    """Run a command that ends or frees something once more, if the disk was full in the middle.

    Then it has given up the reserve, and what it had done already it does not do again.
    """

    @wraps(verb)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return verb(*args, **options)
        except StoreError as problem:
            if problem.code != "store-full":
                raise
            return verb(*args, **options)

    return cast("Verb", run)


@contextmanager
def reading(ctx: click.Context) -> Iterator[StoreSource | ViewSource]:
    """What reading commands tell: from the store, or from the view that is published of it."""
    from hvtx.commands import published_view as view

    with translated(), view.source(settings(ctx.find_root().obj)) as source:
        yield source
    if source.note:
        click.echo(f"note: {source.note}", err=True)


@contextmanager
def telling_refusal(json_: bool, document: Callable[[Refused], dict[str, Any]]) -> Iterator[None]:
    """With ``--json`` a refusal is told on standard output too, wherever it came up."""
    from hvtx.cli.render import emit_json

    try:
        yield
    except Refused as refusal:
        if json_:
            emit_json(document(refusal))
        raise
    except NotPermitted as problem:
        if json_:
            emit_json(document(Refused("cannot-observe", problem.message)))
        raise


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the store, wherever they came up, as ours."""
    try:
        yield
    except (HvtxError, OSError):
        raise
    except Exception as problem:
        from hvtx.engine.late_store_errors import explain

        told = explain(problem)
        if told is None:
            raise
        raise told from problem


def _listener(options: dict[str, Any]) -> Any:
    """Who is told what operations do: a person who asked for it, or the journal."""
    verbose = bool(options.get("verbose") or options.get("debug"))
    if not verbose and "JOURNAL_STREAM" not in os.environ:
        return None
    from hvtx.engine import notify

    return notify.listener(verbose=verbose)
