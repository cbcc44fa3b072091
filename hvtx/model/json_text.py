"""JSON, read and written by the C parts of ``json`` alone.

To load ``json`` takes a command two milliseconds: it brings ``re``, and has three patterns compiled
that only its Python parts have a use for. What stands here says what ``json.loads`` and
``json.dumps`` say. Whatever is refused is given to ``json`` itself, which says why.
"""

from __future__ import annotations

from functools import cache

from hvtx.model.typed import Any

_CONSTANTS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_SPACE = " \t\n\r"


class _Means:
    """What a scanner is made from: the same as json.JSONDecoder has."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int

    def __init__(self, constant: Any) -> None:
        """``constant``: what NaN and the like become."""
        self.parse_constant = constant


def _refuse(value: Any) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _scanner(constant: Any) -> Any:
    means: Any = _Means(constant)
    return make_scanner(means)


@cache
def _encoder(between: str, after_key: str) -> Any:
    """It may be kept and shared by threads, since it does not note what it is amid of."""
    return make_encoder(
        None, _refuse, encode_basestring_ascii, None, after_key, between, False, False, True
    )


_scan: Any = None  # without the parts, or with other ones: `json` does all of it
try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    if _encoder(",", ":")({"a": [None]}, 0):
        _scan = _scanner(_CONSTANTS.__getitem__)
except (ImportError, AttributeError, TypeError):
    from json.encoder import encode_basestring_ascii


def quoted(text: str) -> str:
    """A text as JSON has it, in ASCII."""
    return encode_basestring_ascii(text)


def loads(text: str | bytes, constant: Any = None) -> Any:
    """What a text says; ``constant`` is asked what NaN, Infinity and -Infinity are.

    Raises ValueError (json.JSONDecodeError), RecursionError.
    """
    if _scan is not None and isinstance(text, str):
        scan = _scan if constant is None else _scanner(constant)
        try:
            value, end = scan(text, len(text) - len(text.lstrip(_SPACE)))
        except (StopIteration, SystemError):
            # Its ways to say that no value begins there, and that one goes on wrongly: without
            # `json.decoder`, which has the exception for that, it fails and raises none (3.11).
            pass
        else:
            if not text[end:].strip(_SPACE):
                return value
    import json

    return json.loads(text, parse_constant=constant)


def dumps(value: Any, separators: tuple[str, str] = (", ", ": ")) -> str:
    """The text of a value, in one line. Raises TypeError, ValueError, RecursionError."""
    if _scan is None:
        import json

        return json.dumps(value, separators=separators)
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    try:
        return "".join(_encoder(*separators)(value, 0))
    except RecursionError:  # too deep, or in itself, which `json` tells
        import json

        return json.dumps(value, separators=separators)
