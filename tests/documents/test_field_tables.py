"""Tables of fields against the objects that the program makes: none says more or less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hvtx import documents
from hvtx.commands import show
from hvtx.documents import fields
from hvtx.engine import gc_plan
from hvtx.model.block import BlockStep
from hvtx.model.plan import Plan
from hvtx.model.policy import Limits
from hvtx.model.vm import Attachment, Liveness
from hvtx.planner.states import VmState
from tests.documents import samples
from tests.documents.test_golden import GOLDEN

NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
SCHEMAS = sorted({schema for found in fields.ANSWERS.values() for schema in found})


def more() -> Iterator[dict[str, Any]]:
    """Objects with what no file beside this one has."""
    vm = samples.WEB._replace(
        attachment=Attachment("lan", "c", "eth0", "/run/netns/c"),
        limits=Limits(1000, 1000, 10, 10),
        user_data="/srv/user-data", ssh_keys=("ssh-ed25519 AAAA",), command=("sleep",),
    )  # fmt: skip
    yield documents.vm.document(
        show.describe_vm(vm, VmState.RUNNING, Liveness.ALIVE, samples.WEB_ROWS, None,
                         samples.NETWORKS, samples.COUNTS)
    )  # fmt: skip
    lan = json.loads((GOLDEN / "network.json").read_text())
    yield {
        **lan,
        "source": ["192.0.2.1"],
        "egress": {**lan["egress"], "rules": ["deny 192.0.2.0/24"]},
    }
    step = BlockStep("give-back", "block-spare", "lab", "10.64.0.0/26", "1.aa", "m")
    yield documents.plan.document(
        gc_plan.Report(Plan(()), False, None, "boot", 3, samples.NOW, blocks=(step,))
    )


def made(schema: str) -> list[Any]:
    """Every object of a schema, those inside of others too."""
    files = [json.loads(path.read_text()) for path in sorted(GOLDEN.iterdir())]
    found = [*(one for one in files if one["schema"] != "hvtx/view/1"), *more()]
    return [one for whole in found for one in objects(json.loads(json.dumps(whole)))
            if one.get("schema") == f"hvtx/{schema}"]  # fmt: skip


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from objects(inner)


class Reader:
    """Walks objects beside their table, and notes what does not fit and what was met."""

    def __init__(self, schema: str) -> None:
        self.known = {field.path: field for field in fields.fields(schema)}
        self.met: set[str] = set()
        self.wrong: list[str] = []

    def below(self, prefix: str) -> list[fields.Field]:
        """The fields of the object at a path, and of its arrays."""
        return [f for f in self.known.values() if f.path.startswith(prefix)
                and f.path.removeprefix(prefix).count(".") == 0]  # fmt: skip

    def object(self, value: dict[str, Any], prefix: str) -> None:
        names = {f.path.removeprefix(prefix).removesuffix("[]"): f for f in self.below(prefix)}
        beyond = {
            path.removeprefix(prefix).partition(".")[0]
            for path in self.known
            if path.startswith(prefix)
        }
        self.wrong += [f"{prefix}{name} is left out" for name, f in names.items()
                       if not f.optional and name not in value and name != "*"]  # fmt: skip
        for name, inner in value.items():
            if name == "schema" and not prefix:
                continue
            key = name if name in names else "*"
            if key not in names and "*" not in beyond:
                self.wrong.append(f"{prefix}{name} is in no table")
                continue
            self.value(inner, f"{prefix}{key}")

    def value(self, value: Any, path: str) -> None:
        field = self.known.get(path)
        self.met.add(path)
        if field is None and isinstance(value, list):
            self.met.add(f"{path}[]") if not value else None
            for inner in value:
                self.value(inner, f"{path}[]")
            return
        if field is not None and "any" in field.types:
            return
        if field is not None and "array" in field.types and isinstance(value, list):
            for inner in value:
                self.object(inner, f"{path}[].")
            return
        kind = "object" if isinstance(value, dict) else NAMES.get(type(value), "array")
        allowed = ("object",) if field is None else field.types
        allowed += ("integer",) if "number" in allowed else ()
        if kind not in allowed:
            self.wrong.append(f"{path} is {kind}, and not {' or '.join(allowed)}")
        elif isinstance(value, dict) and "schema" not in value:
            self.object(value, f"{path}.")


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_table_of_fields_is_that_of_the_objects(schema: str) -> None:
    """Each field of each object has a line with its type; each line is of a field that there is."""
    reader = Reader(schema)
    found = made(schema)
    assert found
    for document in found:
        reader.object(document, "")
    assert reader.wrong == []
    assert [path for path in reader.known if path not in reader.met] == []
