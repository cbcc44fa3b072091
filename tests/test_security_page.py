"""docs/security.md: each claim names tests, and they are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.structure.source import program

TOP = Path(__file__).resolve().parent.parent
PAGE = (TOP / "docs/security.md").read_text()


def claims() -> list[tuple[str, list[str]]]:
    """Each line of the page's tables: what is claimed, and which tests."""
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return [
        (row[0].strip(), re.findall(r"`([^`]+)`", row[-1]))
        for row in rows
        if row[0].strip() not in ("claim", "---")
    ]


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((TOP / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_claim_names_tests_that_are_there() -> None:
    assert len(claims()) > 30
    for claim, tests in claims():
        assert tests, f"no test: {claim}"
        for test in tests:
            path, found, name = test.partition("::")
            assert found, (claim, test)
            assert (TOP / path).is_file(), (claim, test)
            assert name.startswith("test_"), (claim, test)
            assert name in names_in(path), (claim, test)


def test_each_security_test_stands_for_a_claim() -> None:
    named = {test for _, tests in claims() for test in tests}
    for path in ("integration/security/test_security.py",):
        missing = {f"{path}::{n}" for n in names_in(path) if n.startswith("test_")} - named
        assert not missing


def test_no_module_uses_a_directory_for_temporary_files() -> None:
    """hvtx writes below its own directories and where people say; /tmp is named only in the units' texts."""
    for module in program():
        if module.path != "store/connection.py":
            assert "tempfile" not in {a.name for n in module.nodes(ast.Import) for a in n.names}
        assert "tempfile" not in {node.module for node in module.nodes(ast.ImportFrom)}, module.path
        for node in module.nodes(ast.Attribute):
            if getattr(node.value, "id", "") == "tempfile":
                assert node.attr == "TemporaryDirectory", module.path  # private, of a random name
        for constant in module.nodes(ast.Constant):
            text = constant.value if isinstance(constant.value, str) else ""
            if text.startswith(("/tmp", "/var/tmp")):
                assert module.path == "engine/units.py", (module.path, text)
