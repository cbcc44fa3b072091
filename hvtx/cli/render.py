"""Results on standard output: one JSON object, a table on a terminal, plain columns in a pipe."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any


def write(text: str) -> None:
    """Text as it is; OutputLost (see ``hvtx.cli.main``) if it cannot be written."""
    sys.stdout.write(text)


def tell(text: str) -> None:
    """A line of what goes on, on standard error at once."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def emit_json(document: dict[str, Any]) -> None:
    """One JSON object."""
    write(to_json(document, indent=2) + "\n")


def to_json(document: Any, indent: int | None = None) -> str:
    """JSON in ASCII that every reader takes: bytes of strangers that are no text become U+FFFD.

    (Python keeps such bytes as lone surrogates, and would write them as escapes that stricter
    readers refuse.)
    """
    text = json.dumps(document, indent=indent)
    if "\\ud" not in text:
        return text
    return json.dumps(_well_formed(document), indent=indent)


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_well_formed(key): _well_formed(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_well_formed(entry) for entry in value]
    return value


def plain(text: object) -> str:
    """A value as text without anything that a terminal would obey."""
    words = "-" if text is None or text == "" else str(text)
    return "".join(c if c.isprintable() else "?" for c in words)


_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?=]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")


def plain_line(text: str) -> str:
    """A line of a guest's console for a terminal: no sequences, no control characters but tabs."""
    words = _SEQUENCE.sub("", text.rstrip("\r\n"))
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in words.replace("\r", ""))


def fancy() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Rows under headers; ``empty`` is said on standard error where there is none."""
    if not rows:
        sys.stderr.write(empty + "\n")
        return
    if fancy():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for header in headers:
            shown.add_column(header, overflow="fold")
        for row in rows:
            shown.add_row(*[Text(plain(cell)) for cell in row])
        Console(no_color=bool(os.environ.get("NO_COLOR"))).print(shown)
        return
    cells = [
        [header.upper() for header in headers],
        *[[plain(cell) for cell in row] for row in rows],
    ]
    widths = [max(len(row[n]) for row in cells) for n in range(len(headers))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        write(line.rstrip() + "\n")


def fields(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    width = max(len(name) for name, _ in pairs) + 1
    for name, value in pairs:
        write(f"{(name + ':').ljust(width)}  {plain(value)}\n")


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
    write(coloured(text, style) + "\n")


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


def width() -> int:
    """Columns of the terminal; a pipe has as many as it takes."""
    if not fancy():
        return 1 << 16
    import shutil

    return max(40, shutil.get_terminal_size((80, 24)).columns - 1)


def wrapped(text: str, indent: str, *, hang: int | None = None) -> str:
    """Text broken to the terminal's width, indented; unbroken in a pipe.

    Further lines stand two columns further in, or at column ``hang``.
    """
    if not fancy():
        return indent + text
    import textwrap

    return textwrap.fill(
        text,
        width(),
        initial_indent=indent,
        subsequent_indent=indent + "  " if hang is None else " " * hang,
        break_on_hyphens=False,
        break_long_words=False,  # a path or a mark can be copied as it is
    )
