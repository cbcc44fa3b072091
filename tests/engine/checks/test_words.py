"""The words about doctor's checks are of the checks that there are, and of their levels."""

from __future__ import annotations

import ast
from collections import defaultdict

from hvtx.commands.doctor import CHECKS
from hvtx.engine.checks.words import CHECKS as EXPLAINED
from tests.structure.source import program

LEVELS = {"ok", "warning", "error"}
NOT_WRITTEN = {"kvm"}  # its findings are made of verdicts


def levels() -> dict[str, set[str]]:
    """The levels that stand in each check's findings, as constants or in an expression of such."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in program():
        named = defaultdict(set)
        for one in module.nodes(ast.Assign):
            if isinstance(one.targets[0], ast.Name) and one.targets[0].id == "level":
                named["level"] |= constants(one.value)
        for call in module.nodes(ast.Call):
            if ast.unparse(call.func) != "Finding" or len(call.args) < 3:
                continue
            name, level = call.args[:2]
            if isinstance(name, ast.Constant) and name.value in CHECKS:
                found[str(name.value)] |= constants(level) or named[ast.unparse(level)]
    return found


def constants(node: ast.AST) -> set[str]:
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)} & LEVELS


def test_every_check_is_explained_in_the_order_of_doctor() -> None:
    assert list(EXPLAINED) == list(CHECKS)


def test_levels_that_are_explained_are_those_that_are_written() -> None:
    """Each check can have a warning beside: that it could not be made."""
    written = levels()
    assert written.keys() | NOT_WRITTEN == EXPLAINED.keys()
    wrong = []
    for name, words in EXPLAINED.items():
        told = {
            level for level, text in (("error", words.error), ("warning", words.warning)) if text
        }
        if name not in NOT_WRITTEN and told != written[name] - {"ok"}:
            wrong.append(f"{name}: {sorted(told)} are explained, {sorted(written[name])} written")
    assert wrong == []
