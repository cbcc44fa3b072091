"""What commands share: opening the runtime, and the ``--json`` option."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from hvtx.cli.main import settings
from hvtx.errors import HvtxError

if TYPE_CHECKING:
    from hvtx.engine.runtime import Runtime

as_json: Callable[[Any], Any] = click.option(
    "--json", "json_", is_flag=True, help="Print one JSON object."
)


class Number(click.IntRange):
    """A whole number as people write it: an optional sign and digits 0 to 9."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what ``int`` takes besides: digits of other scripts, underscores, blanks."""
        if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return super().convert(value, param, ctx)


@contextmanager
def opened(ctx: click.Context, *, writable: bool) -> Iterator[Runtime]:
    """A runtime for the command, closed at its end; the store's own errors become ours."""
    from hvtx.engine.runtime import Runtime

    options = ctx.find_root().obj
    _log_to_stderr(options)
    try:
        runtime = Runtime(settings(options), writable=writable)
        try:
            yield runtime
        finally:
            runtime.close()
    except (HvtxError, OSError):
        raise
    except Exception as problem:
        from hvtx.engine.trouble import explain

        told = explain(problem)
        if told is None:
            raise
        raise told from problem


def _log_to_stderr(options: dict[str, Any]) -> None:
    if options.get("verbose") or options.get("debug"):
        import logging

        level = logging.DEBUG if options.get("debug") else logging.INFO
        logging.basicConfig(level=level, format="%(name)s: %(message)s")
