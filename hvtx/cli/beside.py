"""What is said beside an answer, on standard error: warnings, and notes of what was done as well.

At once; but with ``--json`` when the command ends. Where that fails, standard error is to hold one
object and nothing else: it has them as ``notices``. Else they are said then, as text.
"""

from __future__ import annotations

from hvtx.cli.names import printed
from hvtx.cli.render import folded
from hvtx.model.typed import NamedTuple


class Notice(NamedTuple):
    """A sentence; ``level`` is ``warning`` or ``note``."""

    level: str
    message: str


_held: list[list[Notice]] = []  # nothing in it: what is said is said at once


def hold() -> None:
    """Keep what is said from now on until :func:`let_go`."""
    _held[:] = [[]]


def say(level: str, words: str) -> None:
    """A warning or a note."""
    notice = Notice(level, printed("".join(c if c.isprintable() else "?" for c in words)))
    if _held:
        _held[0].append(notice)
    else:
        _write(notice)


def taken() -> list[Notice]:
    """What was kept, which nobody else will tell by now."""
    found = _held[0] if _held else []
    _held[:] = [[]] if _held else []
    return found


def let_go() -> None:
    """Say what was kept, and keep nothing any more."""
    for notice in taken():
        _write(notice)
    _held.clear()


def _write(notice: Notice) -> None:
    import click  # writes it in the encoding of whoever reads standard error

    click.echo(folded(f"{notice.level}: {notice.message}"), err=True)
