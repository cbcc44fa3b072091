"""Every file that a comment, a docstring or a page names is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.structure.paths import is_there, named, named_tests
from tests.structure.source import TOP

_COMMENT = re.compile(r'"""(?:.*?)"""|(?:^|\s)#[^\n]*', re.DOTALL | re.MULTILINE)
_READ = (
    *("hvtx/**/*.py", "bench/**/*.py", "scripts/**/*", "docs/**/*.md", "*.md", "*.toml", "tox.ini"),
    ".ci/run",
)


def files(*patterns: str) -> list[Path]:
    """Files of the checkout, without what Python leaves beside them."""
    found = (path for pattern in patterns for path in sorted(TOP.glob(pattern)))
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


@cache
def names_of_tests() -> frozenset[str]:
    """Names of all modules of tests."""
    return frozenset(path.name for path in files("tests/**/*.py", "integration/**/*.py"))


def missing(path: Path, text: str) -> list[str]:
    wrong = [name for name in named(text) if not is_there(name, TOP, path.parent)]
    wrong += [name for name in named_tests(text) if name not in names_of_tests()]
    return [f"{path.relative_to(TOP)}: {name}" for name in wrong]


def test_files_that_the_program_and_its_pages_name_are_there() -> None:
    wrong = [told for path in files(*_READ) for told in missing(path, path.read_text())]
    assert wrong == []


def test_files_that_tests_name_in_comments_and_docstrings_are_there() -> None:
    """What stands in their strings may be made up."""
    wrong = []
    for path in files("tests/**/*.py", "integration/**/*.py", "tests/**/*.toml"):
        text = "\n".join(match[0] for match in _COMMENT.finditer(path.read_text()))
        wrong += missing(path, text)
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see docs/adr/0007-boot.md.", ["docs/adr/0007-boot.md"]),
        (
            "`commands/vm_start.py`, 12: hvtx/host/links.py:",
            ["commands/vm_start.py", "hvtx/host/links.py"],
        ),
        ("run scripts/check, bench/floor.py", ["scripts/check", "bench/floor.py"]),
        ("integration/test_*.py", ["integration/test_*.py"]),
        ("tests/<room>/test_<module>.py docs/adr/00NN hvtx/view/2 /usr/docs/x.md", []),
        ("~/hvtx/x.py $top/scripts/y https://a.b/docs/x.md", []),
    ],
)
def test_names_are_found_in_sentences(text: str, expected: list[str]) -> None:
    assert list(named(text)) == expected


def test_a_name_that_is_no_file_is_seen() -> None:
    text = "integration/test_nothing.py, docs/README.md, `test_nothing.py`, test_paths.py"
    assert missing(TOP / "docs/x.md", text) == [
        "docs/x.md: integration/test_nothing.py", "docs/x.md: test_nothing.py",
    ]  # fmt: skip
