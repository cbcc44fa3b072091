"""Every package of the tree is in the wheel: pyproject.toml lists them by hand."""

from __future__ import annotations

import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]


def test_every_package_is_in_the_wheel() -> None:
    listed = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join(path.parent.relative_to(TOP).parts) for path in (TOP / "hvtx").rglob("__init__.py")
    }
    assert sorted(there - set(listed)) == []
