"""The examples of the documentation are run, line by line, and say what the pages say.

A fenced block ``console`` is a piece of a page's session: lines that begin with ``# `` are run by
bash as root, what follows is their output, ``…`` stands for any text. Where an `error:` is shown
the command must fail, elsewhere it must not.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
PAGES = ("tutorial.md", "howto.md")
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Example(NamedTuple):
    line: int
    command: str
    output: str


def examples(page: Path) -> Iterator[Example]:
    """What is run, in order, with what is shown."""
    inside = False
    command, start, shown = "", 0, list[str]()
    for number, line in enumerate([*page.read_text().splitlines(), "```"], start=1):
        fence = line.startswith("```")
        if inside and (fence or re.match(r"# (?!/)", line)):
            if command:
                yield Example(start, command, "\n".join(shown))
            command, start, shown = ("" if fence else line[2:]), number, []
        elif inside:
            shown.append(line)
        if fence:
            inside = line == "```console"


def agrees(wanted: str, got: str) -> bool:
    """Whether the output is as shown."""
    pattern = wanted.replace("…", "...")
    checker = doctest.OutputChecker()
    return checker.check_output(pattern + "\n", got.replace("…", "...") + "\n", _FLAGS)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("guest_files")  # the tutorial gets them, which it can in no namespace
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_as_it_says(page: str, tmp_path: Path) -> None:
    """The whole session, in a namespace of its own."""
    work = tmp_path / "work"
    work.mkdir()
    for name in ("scripts", ".cache"):  # as in a checkout, whose other files no example touches
        (work / name).symlink_to(TOP / name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    wrong = []
    ran = 0
    for example in examples(DOCS / page):
        with (tmp_path / "output").open("w+") as out:  # what runs on in the background may hold it
            done = subprocess.run(
                ["bash", "-c", example.command],
                cwd=work, env={**os.environ, "PATH": path}, timeout=60, check=False,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
            out.seek(0)
            told = out.read()
        ran += 1
        fails = example.output.startswith("error:")
        if (done.returncode != 0) is not fails or not agrees(example.output, told):
            wrong.append(
                f"{page}:{example.line}: # {example.command}\nexit {done.returncode}\n{told}"
            )
    assert ran > 20
    assert not wrong, "\n\n".join(wrong)


@pytest.fixture(autouse=True)
def no_guests_left(netns: None) -> Iterator[None]:
    """End what the pages started, by pid."""
    yield
    from integration.lab.program import Program
    from integration.lab.vms import end_vms

    end_vms(Program())
