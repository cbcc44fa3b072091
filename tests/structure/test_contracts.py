"""The contracts of import-linter in pyproject.toml name every module that they are for."""

from __future__ import annotations

import tomllib

import pytest

from tests.structure.source import TOP, program

_PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())
CONTRACTS = {one["name"]: one for one in _PROJECT["tool"]["importlinter"]["contracts"]}
# What the modules of a room share, or one of them is made of, and so is not one of those that may
# not know another.
SHARED = {
    "drivers do not know one another": {"hvtx.drivers.base"},
    "hypervisors do not know one another": {"hvtx.hypervisors.base", "hvtx.hypervisors.guest"},
}


@pytest.mark.parametrize("name", sorted(SHARED))
def test_a_new_module_of_a_room_joins_its_contract(name: str) -> None:
    listed = set(CONTRACTS[name]["modules"])
    room = next(iter(listed)).split(".")[1]
    there = {".".join(m.name.split(".")[:3]) for m in program() if m.room == room}
    there -= {f"hvtx.{room}"}
    assert there - SHARED[name] == listed


def test_a_new_group_of_commands_joins_their_contract() -> None:
    """Each module that the table of commands names (hvtx/cli/root.py)."""
    from hvtx.cli.root import COMMANDS

    listed = set(CONTRACTS["groups of commands do not know one another"]["modules"])
    assert {module for module, _ in COMMANDS.values()} == listed
