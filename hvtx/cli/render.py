"""Results on standard output: one JSON object, a table on a terminal, plain columns in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from hvtx.cli.names import printed
from hvtx.documents.encoding import to_json
from hvtx.model.mark import owner_mark
from hvtx.model.typed import Any


def write(text: str) -> None:
    """Text as it is; OutputLost (see ``hvtx.cli.streams``) if it cannot be written."""
    sys.stdout.write(text)


def tell(text: str) -> None:
    """A line of what goes on, on standard error at once."""
    sys.stderr.write(printed(plain(text)) + "\n")
    sys.stderr.flush()


def emit_json(document: dict[str, Any]) -> None:
    """One JSON object."""
    write(to_json(document, indent=2) + "\n")


def emit_parts(parts: Iterable[str]) -> None:
    """One JSON object that is too long to be put together first."""
    for part in parts:
        write(part)
    write("\n")


@contextmanager
def beside(*files: str | None) -> Iterator[None]:
    """While one of ``files`` is standard output itself, what is printed goes to standard error."""
    kept = sys.stdout
    if any(file is not None and _is_output(file) for file in files):
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = kept


def _is_output(file: str) -> bool:
    """Whether standard output leads to this very file; the null device keeps nothing of either."""
    try:
        seen, out = os.stat(file), os.fstat(1)
        return os.path.samestat(seen, out) and not os.path.samestat(seen, os.stat(os.devnull))
    except OSError:
        return False


def plain(text: object) -> str:
    """A value as text without anything that a terminal would obey."""
    words = "-" if text is None or text == "" else str(text)
    return words if words.isprintable() else "".join(c if c.isprintable() else "?" for c in words)


_SEQUENCE = r"\x1b(?:\[[0-9;?=]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?"


def plain_line(text: str) -> str:
    """A line of a guest's console for a terminal: no sequences, no control characters but tabs."""
    import re  # for which, and `enum` with it, most commands have no use

    words = re.sub(_SEQUENCE, "", text.rstrip("\r\n"))
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in words.replace("\r", ""))


_NARROWEST = 40  # columns: of less, words are as broken as they would be anyway


def fancy() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    empty: str,
    below: Sequence[str] = (),
) -> None:
    """Rows under headers; ``empty`` is said on standard error where there is none.

    On a terminal that is too narrow, the columns named by ``below``, one after the other, leave
    the table and stand under each row: nothing is cut, and each word is whole on one line.
    """
    if not rows:
        sys.stderr.write(empty + "\n")
        return
    cells = [[plain(cell) for cell in row] for row in rows]
    kept, moved = fitting(headers, cells, below, width())
    names = [headers[n].upper() for n in kept]
    widths = [max(len(row[n]) for row in (*cells, headers)) for n in kept]
    say(_line(names, widths), "bold")
    for row in cells:
        write(_line([row[n] for n in kept], widths) + "\n")
        for n in moved:
            if row[n] != "-":
                write(wrapped(f"{headers[n]}: {row[n]}", "    ") + "\n")


def fitting(
    headers: Sequence[str], cells: Sequence[Sequence[str]], below: Sequence[str], columns: int
) -> tuple[list[int], list[int]]:
    """The columns that stay in a table of at most ``columns`` and those that leave it (pure)."""
    widths = [max(len(row[n]) for row in (*cells, headers)) for n in range(len(headers))]
    kept = list(range(len(headers)))
    for name in below:
        if sum(widths[n] + 2 for n in kept) - 2 <= columns:
            break
        kept.remove(headers.index(name))
    return kept, [n for n in range(len(headers)) if n not in kept]


def resources(rows: Sequence[Any]) -> None:
    """The resources of a VM or network as a table, below what was told of it."""
    if rows:
        say("")
        table(
            ("kind", "key", "state", "mark"),
            [(row.kind, row.key, row.state, owner_mark(row)) for row in rows],
            empty="",
            below=("mark", "key"),
        )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def moment(time: str) -> str:
    """A time of the record without its fraction of a second: for people; JSON has it whole."""
    import re

    return re.sub(r"\.[0-9]+Z", "Z", time)


def fields(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    width = max(len(name) for name, _ in pairs) + 1
    for name, value in pairs:
        write(f"{(name + ':').ljust(width)}  {printed(plain(value))}\n")


def paragraphs(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values that may be long: broken to the terminal's width, a name said once."""
    column = max(len(name) for name, _ in pairs) + 3
    before = ""
    for name, value in pairs:
        label = "" if name == before else f"{name}:"
        before = name
        text = wrapped(plain(value), " " * column, hang=column)
        write(f"{label:<{column}}{text[column:]}\n")


STYLES = {"delete": "bold red", "commit": "green", "forget": "yellow", "skip": "dim"}


def say(text: str, style: str = "") -> None:
    """A line of text, in colour on a terminal that wants it."""
    write(coloured(printed(text), style) + "\n")


def coloured(text: str, style: str) -> str:
    """Text in a colour, on a terminal that wants it."""
    codes = {
        "bold": "1",
        "red": "31",
        "bold red": "1;31",
        "green": "32",
        "yellow": "33",
        "dim": "2",
    }
    if style and fancy() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"\x1b[{codes[style]}m{text}\x1b[0m"
    return text


def folded(line: str) -> str:
    """A line for standard error, broken to the width of a terminal there; else as it is."""
    if not sys.stderr.isatty():
        return line
    try:
        columns = os.get_terminal_size(2).columns
    except OSError:
        return line
    return _filled(line, max(_NARROWEST, columns - 1), "", "  ")


def width() -> int:
    """Columns of the terminal; a pipe has as many as it takes."""
    if not fancy():
        return 1 << 16
    import shutil

    return max(_NARROWEST, shutil.get_terminal_size((80, 24)).columns - 1)


def wrapped(text: str, indent: str, *, hang: int | None = None) -> str:
    """Text broken to the terminal's width, indented; unbroken in a pipe.

    Further lines stand two columns further in, or at column ``hang``.
    """
    text = printed(text)
    if not fancy():
        return indent + text
    return _filled(text, width(), indent, indent + "  " if hang is None else " " * hang)


def _filled(text: str, columns: int, first: str, further: str) -> str:
    import textwrap

    return textwrap.fill(
        text,
        columns,
        initial_indent=first,
        subsequent_indent=further,
        break_on_hyphens=False,
        break_long_words=False,  # a path or a mark can be copied as it is
    )
