"""Every file that a comment, a docstring or a page names is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.structure.paths import is_there, named
from tests.structure.source import TOP

_COMMENT = re.compile(r'"""(?:.*?)"""|(?:^|\s)#[^\n]*', re.DOTALL | re.MULTILINE)
_READ = ("hvtx/*.py", "bench/*.py", "scripts", "docs/*.md", "*.md", "*.toml", "tox.ini", ".ci/run")


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, as git knows them; new ones too."""
    told = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", *patterns],
        cwd=TOP, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [path for name in told.stdout.splitlines() if (path := TOP / name).is_file()]


def missing(path: Path, text: str) -> list[str]:
    return [
        f"{path.relative_to(TOP)}: {name}"
        for name in named(text)
        if not is_there(name, TOP, path.parent)
    ]


def test_files_that_the_program_and_its_pages_name_are_there() -> None:
    wrong = [told for path in tracked(*_READ) for told in missing(path, path.read_text())]
    assert wrong == []


def test_files_that_tests_name_in_comments_and_docstrings_are_there() -> None:
    """What stands in their strings may be made up."""
    wrong = []
    for path in tracked("tests/*.py", "integration/*.py", "tests/*.toml"):
        text = "\n".join(match[0] for match in _COMMENT.finditer(path.read_text()))
        wrong += missing(path, text)
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see docs/adr/0007-boot.md.", ["docs/adr/0007-boot.md"]),
        ("`engine/launch.py`, 12: hvtx/host/links.py:", ["engine/launch.py", "hvtx/host/links.py"]),
        ("run scripts/check, bench/floor.py", ["scripts/check", "bench/floor.py"]),
        ("integration/test_*.py", ["integration/test_*.py"]),
        ("tests/<room>/test_<module>.py docs/adr/00NN hvtx/view/2 /usr/docs/x.md", []),
        ("~/hvtx/x.py $top/scripts/y https://a.b/docs/x.md", []),
    ],
)
def test_names_are_found_in_sentences(text: str, expected: list[str]) -> None:
    assert list(named(text)) == expected


def test_a_name_that_is_no_file_is_seen() -> None:
    assert missing(TOP / "docs/x.md", "integration/test_nothing.py, docs/README.md") == [
        "docs/x.md: integration/test_nothing.py"
    ]
