"""What docs/json.md is made of: tables of fields, read, and the verbs that answer with them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
import pytest

from hvtx.cli.root import COMMANDS, root
from hvtx.documents import fields, plan_schema
from hvtx.documents.field_tables import TABLES
from tests.documents.test_golden import GOLDEN


def verbs(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every verb below a command, with its words."""
    context = click.Context(command)
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from verbs(child, f"{path} {name}".strip())


def test_every_verb_with_json_has_its_schemas_and_no_other_has() -> None:
    """Each of them has a table or, as gc, a JSON Schema; and no table is nobody's answer."""
    context = click.Context(root)
    found = {
        path
        for name in COMMANDS
        for path, command in verbs(root.get_command(context, name), name)  # type: ignore[arg-type]
        if any("--json" in option.opts for option in command.params)
    }
    assert found == fields.ANSWERS.keys()
    named = {schema for schemas in fields.ANSWERS.values() for schema in schemas}
    assert named == {name for name in TABLES if "/" in name} | {"gc/1"}


def test_tables_and_objects_are_of_the_same_schemas() -> None:
    """The view is a file of hvtx's own, and no verb's answer."""
    files = {json.loads(path.read_text())["schema"] for path in GOLDEN.iterdir()}
    named = {schema for schemas in fields.ANSWERS.values() for schema in schemas}
    assert {f"hvtx/{name}" for name in named} == files - {"hvtx/view/1"}


def test_a_line_names_path_types_and_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, "part", "key | ?string null | a | b")
    monkeypatch.setitem(TABLES, "whole/1", "many[] | object | some:\n@many[] part\n@ part")
    assert fields.fields("whole/1") == [
        ("many[]", ("object",), False, "some:"),
        ("many[].key", ("string", "null"), True, "a | b"),
        ("key", ("string", "null"), True, "a | b"),
    ]


def test_a_json_schema_becomes_the_same_fields() -> None:
    found = {field.path: field for field in fields.fields("gc/1")}
    assert found["applied"].types == ("boolean",)
    assert found["items[].record"].types == ("object", "null")
    assert found["items[].record.id"].types == ("integer",)
    assert found["items[].restore"].optional
    assert found["blocks[].cidr"].types == ("string", "null")
    assert "schema" not in found
    assert len(found) > len(plan_schema.document()["properties"])


@pytest.mark.parametrize("schema", sorted({s for found in fields.ANSWERS.values() for s in found}))
def test_each_field_has_a_place_of_its_own_and_words(schema: str) -> None:
    found = fields.fields(schema)
    assert len({field.path for field in found}) == len(found)
    assert [field for field in found if not field.meaning.strip() or not field.types] == []
