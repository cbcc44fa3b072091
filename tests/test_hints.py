"""Hints: where one says what to type, that is a whole command, which the command line takes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from hvtx.cli.root import root

PACKAGE = Path(__file__).parent.parent / "hvtx"
# `run hvtx as root`: what goes on with these is a sentence
_PROSE = "as|does|has|in|is|needs|or|recorded|runs|stands|start it|was|where|with|would"
_COMMAND = re.compile(rf"(?<![-/\w])hvtx (?!(?:{_PROSE})\b)(?=[a-z-])[^;,`()]*")
_GIVEN = "{}"  # stands for what is only known when the error is made


def _text(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be: of a choice both, of a name none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else _GIVEN for part in node.values
        )
    elif isinstance(node, ast.IfExp):
        yield from _text(node.body)
        yield from _text(node.orelse)
    elif isinstance(node, ast.BinOp):
        yield "".join([*_text(node.left), *_text(node.right)])


def _hints_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = getattr(node.func, "id", getattr(node.func, "attr", ""))
            given = [word.value for word in node.keywords if word.arg == "hint"]
            given += node.args[:1] if named == "advised" else []
        elif isinstance(node, ast.Assign):
            names = [getattr(target, "id", "") for target in node.targets]
            given = [node.value] if any("hint" in name.lower() for name in names) else []
        else:
            continue
        yield from ((node.lineno, text) for each in given for text in _text(each))


@cache
def hints() -> list[tuple[str, str]]:
    """Every hint that stands in the program, with its place."""
    return [
        (f"{path.relative_to(PACKAGE.parent)}:{line}", text)
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in _hints_of(ast.parse(path.read_text()))
    ]


def _wrong(words: list[str]) -> str:
    """What the command line would not take of ``hvtx WORDS``; empty if it takes them."""
    command: click.Command = root
    context = click.Context(root)
    known = {option for param in root.params for option in param.opts}
    values = {option for param in root.params if not param.is_flag for option in param.opts}
    before = ""
    for word in words:
        before, last = word, before
        if last in values:
            continue
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.get_command(context, word)
            if found is None:
                return f"no command {word!r}"
            command = found
            known |= {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        elif word.startswith("--") and word not in (*known, "--", "--help"):
            return f"no option {word!r}"
    whole = not isinstance(command, click.Group) or "--help" in words
    return "" if whole else "no whole command"


def commands_in(hint: str) -> Iterator[list[str]]:
    """The words behind ``hvtx`` of every command in a hint."""
    for found in _COMMAND.finditer(hint):
        yield found[0].split()[1:]


def test_commands_in_hints_are_what_the_command_line_takes() -> None:
    wrong = [
        f"{place}: {problem}: {hint}"
        for place, hint in hints()
        for words in commands_in(hint)
        if (problem := _wrong(words))
    ]
    assert wrong == []
    assert sum(1 for _, hint in hints() for _ in commands_in(hint)) > 100


def test_a_hint_is_no_piece_of_a_command() -> None:
    """An option by itself cannot be typed, and what is left out of a command neither.

    Those of every command, and of `vm apply`, join a command line that is not known where it fails.
    """
    of_all = "config|debug|lock-timeout|replace|restart"
    bare = re.compile(rf"^--(?!{of_all})\w|^for instance --|, or --\w|\bhvtx [^;`]*…")
    pieces = [f"{place}: {hint}" for place, hint in hints() if bare.search(hint)]
    assert pieces == []


@pytest.mark.parametrize(
    ("hint", "problem"),
    [
        ("hvtx vm strat web", "no command 'strat'"),
        ("hvtx gc --plam", "no option '--plam'"),
        ("read `hvtx network` first", "no whole command"),
        ("hvtx gc --plan --out FILE", ""),
        ("hvtx --lock-timeout 60 vm set web --publish 8080:80", ""),
        ("stop it first: hvtx vm stop web; then again", ""),
    ],
)
def test_what_is_told_of_a_command(hint: str, problem: str) -> None:
    (words,) = commands_in(hint)
    assert _wrong(words) == problem
