"""Values of JSON that somebody else wrote: each of the type that it is to be, or an error.

As in Go, in which runtimes are written, ``null`` is the same as a key that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.cni.errors import CONFIGURATION, CniError
from hvtx.model import json_text
from hvtx.model.typed import Any

_SHOWN = 60  # letters of a value in a message
TEXT_MOST = 4096  # letters: a path's


def shown(value: Any) -> str:
    """A value in a message: its JSON, cut short."""
    text = json_text.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def wrong(where: str, value: Any, hint: str, code: int = CONFIGURATION) -> CniError:
    """The error of a value that cannot be taken; it names key and value."""
    return CniError(code, f"{where} cannot be {shown(value)}", hint)


def text(value: Any, where: str) -> str:
    """A text, "" where there is none. Raises CniError."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > TEXT_MOST:
        raise wrong(where, value, "it is a text")
    if value and not value.isprintable():
        raise wrong(where, value, "write it without control characters")
    return value


def flag(value: Any, where: str, default: bool) -> bool:
    """A truth value. Raises CniError."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong(where, value, "it is true or false, without quotes")
    return value


def whole(value: Any, where: str, least: int, most: int) -> int:
    """A whole number, 0 where there is none. Raises CniError."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise wrong(where, value, f"it is a whole number from {least} to {most}, without quotes")
    return value


def items(value: Any, where: str, most: int = 4096) -> Sequence[Any]:
    """An array of at most so many. Raises CniError."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > most:
        raise wrong(where, value, f"it is an array of at most {most}: [ … ]")
    return value


def table(value: Any, where: str) -> dict[str, Any]:
    """An object. Raises CniError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(where, value, "it is an object: { … }")
    return value


def without_case(value: Any, where: str) -> dict[str, Any]:
    """An object by its keys in small letters, as Go's decoder takes them. Raises CniError."""
    return {key.lower(): entry for key, entry in table(value, where).items()}


def texts(value: Any, where: str, most: int = 4096) -> tuple[str, ...]:
    """An array of texts, each once, without those that are empty. Raises CniError."""
    found = [text(one, f"{where}[{n}]") for n, one in enumerate(items(value, where, most))]
    return tuple(dict.fromkeys(filter(None, found)))
