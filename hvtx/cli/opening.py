"""The runtime of a command, opened from the global options; nothing of click is loaded for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import wraps

from hvtx import documents
from hvtx.cli.settings import settings
from hvtx.errors import HvtxError, NotPermitted, Refused, StoreError
from hvtx.model.typed import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from hvtx.commands.published_view import StoreSource, ViewSource
    from hvtx.engine.runtime import Runtime, Settings


@contextmanager
def opened(
    options: Mapping[str, Any], *, writable: bool, create: bool = True, spends: bool = False
) -> Iterator[Runtime]:
    """A runtime for the command, closed at its end; the store's own errors become ours.

    Without ``create`` it makes no store where there is none (its disk may not be mounted yet);
    ``spends``: it ends or frees something, and may take the reserve of a full disk.
    """
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
def reading(options: Mapping[str, Any]) -> Iterator[StoreSource | ViewSource]:
    """What reading commands tell: from the store, or from the view that is published of it."""
    from hvtx.commands import published_view as view

    with translated(), view.source(settings(options)) as source:
        yield source
    if source.note:
        say_beside(f"note: {source.note}")


def say_beside(line: str) -> None:
    """A line on standard error, as click writes it: that of whoever asks has its own encoding."""
    import click

    click.echo(line, err=True)


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


def _listener(options: Mapping[str, Any]) -> Any:
    """Who is told what operations do: a person who asked for it, or the journal."""
    verbose = bool(options.get("verbose") or options.get("debug"))
    if not verbose and "JOURNAL_STREAM" not in os.environ:
        return None
    from hvtx.engine import notify

    return notify.listener(verbose=verbose)
