"""JSON objects as text: in ASCII that every reader takes, in one form.

The encoder of Python's own library is fast where it does not indent. What is long is therefore put
together by its module of a few forms (:mod:`hvtx.documents.plan_pieces`), to the same letter.
"""

from __future__ import annotations

from hvtx.model import json_text
from hvtx.model.typed import Any

_LONE = "\\ud"  # how half of a surrogate pair would be written


def to_json(document: Any, indent: int | None = None) -> str:
    """JSON in ASCII that every reader takes: bytes of others that are no text become U+FFFD.

    (Python keeps such bytes as lone surrogates, and would write them as escapes that stricter
    readers refuse.)
    """
    text = _written(document, indent)
    return text if _LONE not in text else _written(_well_formed(document), indent)


def _written(document: Any, indent: int | None) -> str:
    if indent is None:
        return json_text.dumps(document)
    import json

    return json.dumps(document, indent=indent)


def quoted(text: str) -> str:
    """What :func:`to_json` says of a text."""
    found = json_text.quoted(text)
    return found if _LONE not in found else json_text.quoted(_well_formed(text))


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_well_formed(key): _well_formed(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_well_formed(entry) for entry in value]
    return value
