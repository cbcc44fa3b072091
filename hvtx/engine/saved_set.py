"""A plan of `vm apply` in a file: saved with what it was made of, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping

from hvtx.engine.files import is_no_file, read_believed_plan
from hvtx.errors import NotFound, NotPermitted, UsageError
from hvtx.model.typed import Any, NamedTuple

_MADE = "a file that describes a set: hvtx vm apply -f FILE; with --plan --out PLAN it makes a plan"
_PARTS = 6  # of a step's identity
OPTIONS = ("restart", "replace", "start")


class Saved(NamedTuple):
    """What a plan was made of, and its steps."""

    described: list[Mapping[str, Any]]  # file, directory and tables of each
    options: Mapping[str, bool]
    reviewed: list[Any]


def load(path: str, schema: str) -> Saved:
    """A saved plan that nobody else could have written; raises NotFound, UsageError, NotPermitted.

    It says what root starts. ``schema`` is that of such a file.
    """
    try:
        document = json.loads(read_believed_plan(path))
    except FileNotFoundError as problem:
        raise NotFound(f"there is no plan file {path}", hint=_MADE) from problem
    except NotPermitted:
        raise
    except (OSError, ValueError, RecursionError) as problem:
        if isinstance(problem, OSError) and not is_no_file(problem):
            raise
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageError(f"{path} is not a plan: {why}", hint=_MADE) from problem
    if not isinstance(document, dict) or document.get("schema") != schema:
        raise UsageError(f"{path} is not a plan of hvtx vm apply", hint=_MADE)
    parts: list[Any] = [document.get(part) for part in ("described", "options", "reviewed")]
    saved = Saved(*parts)
    if not _is_whole(saved):
        raise UsageError(f"{path} is not a whole plan of hvtx vm apply", hint=_MADE)
    return saved


def _is_whole(saved: Saved) -> bool:
    """Whether the parts of a file are what they are called."""
    described, options, reviewed = saved
    return (
        isinstance(described, list)
        and all(map(_is_source, described))
        and isinstance(options, dict)
        and all(isinstance(options.get(name), bool) for name in OPTIONS)
        and isinstance(reviewed, list)
        and all(isinstance(each, list) and len(each) == _PARTS for each in reviewed)
    )


def _is_source(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("file"), str)
        and isinstance(value.get("directory"), str)
        and isinstance(value.get("tables"), dict)
    )
