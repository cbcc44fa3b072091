"""Files that comments, docstrings and pages name (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_FOLDERS = "bench|docs|findings|hvtx|integration|migrations|requirements|scripts|tests"
_ROOMS = "cli|commands|documents|drivers|engine|host|hypervisors|model|planner|rulesets|store"
# A path of the repository, or of the program below hvtx/; a name that is put together is none.
_PATH = re.compile(
    rf"(?<![\w/.@~:}}>$*-])(?:(?:{_FOLDERS})(?:/[\w.*-]+)+|(?:{_ROOMS})(?:/\w+)+\.py)(?![\w/<{{*$-])"
)
_TEST = re.compile(r"(?<![\w/.*<-])test_\w+\.py\b")
_KNOWN = re.compile(r"\.(?:py|md|toml|txt|json|sql|yml|sh|css|S)$")


def named(text: str) -> Iterator[str]:
    """Paths that a text names, without the dot that ends its sentence."""
    for match in _PATH.finditer(text):
        path = match[0].rstrip(".")
        if _KNOWN.search(path) or path.startswith(("scripts/", "bench/")):
            yield path


def named_tests(text: str) -> Iterator[str]:
    """Modules of tests that a text names without their directory."""
    return (match[0] for match in _TEST.finditer(text))


def is_there(path: str, top: Path, beside: Path) -> bool:
    """Whether a name stands for a file of the repository; `*` stands for any name."""
    return any(next(root.glob(path), None) is not None for root in (top, top / "hvtx", beside))
