"""What the JSON objects of the interface hold, field by field: docs/json.md is made of it.

No command imports this, nor :mod:`hvtx.documents.field_tables`, which has the words. A path is as
`jq` has it: ``a.b`` is a field of an object, ``a[]`` each element of an array, ``*`` a key of the
reader's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from hvtx.documents import plan_schema
from hvtx.documents.field_tables import TABLES
from hvtx.model.typed import Any, NamedTuple

_VM, _NETWORK = ("vm/1",), ("network/1",)
_ONE_OR_MORE = ("vm/1", "several/1")
ANSWERS = {  # of each verb with --json: the schemas, without `hvtx/` before them
    "network create": _NETWORK,
    "network ls": ("networks/1",),
    "network rm": ("removed/1",),
    "network routes": ("routes/1",),
    "network set": _NETWORK,
    "network show": _NETWORK,
    "vm apply": ("apply/1",),
    "vm attach": _VM,
    "vm console": ("console/1",),
    "vm create": _VM,
    "vm logs": ("logs/1",),
    "vm ls": ("vms/1",),
    "vm restart": _VM,
    "vm rm": ("removed/1", "several/1"),
    "vm run": _VM,
    "vm set": _VM,
    "vm show": _VM,
    "vm start": _ONE_OR_MORE,
    "vm stop": _ONE_OR_MORE,
    "gc": ("gc/1",),
    "recover": ("recover/1",),
    "repair": ("repair/1",),
    "explain": ("explain/1",),
    "intents": ("intents/1",),
    "log": ("log/1",),
    "store backup": ("store-backup/1",),
    "store restore": ("store-restore/1",),
    "cluster status": ("cluster/1",),
    "cluster forget": ("cluster-forget/1",),
    "cluster register": ("cluster-register/1",),
    "metrics": ("metrics/1",),
    "doctor": ("doctor/1", "gc/1"),  # the latter with --gc
    "import my-hypervisor": ("import/1",),
    "adopt": ("adopt/1",),
    "completion": ("completion/1",),
    "cni install": ("cni/1",),
    "cni print": ("cni/1",),
    "cni uninstall": ("cni/1",),
    "systemd install": ("systemd/1",),
    "systemd print": ("systemd/1",),
    "systemd uninstall": ("systemd/1",),
}


class Field(NamedTuple):
    """A field of a JSON object; ``types`` are JSON's, and ``any``."""

    path: str
    types: tuple[str, ...]
    optional: bool  # it may be left out
    meaning: str


def fields(schema: str) -> list[Field]:
    """The fields of ``vm/1`` and the like, in their order (pure). Raises KeyError."""
    if schema == "gc/1":
        document = plan_schema.document()
        return list(_of_schema(document, document["$defs"], ""))
    return list(_read(TABLES[schema], ""))


def _read(table: str, prefix: str) -> Iterator[Field]:
    for line in table.strip().splitlines():
        if line.startswith("@"):  # "@PREFIX TABLE": the fields of another table, below a prefix
            below, _, name = line[1:].rpartition(" ")
            yield from _read(TABLES[name], f"{prefix}{below}." if below else prefix)
            continue
        path, types, meaning = line.split(" | ", 2)
        optional = types.startswith("?")
        yield Field(prefix + path, tuple(types.lstrip("?").split()), optional, meaning)


def _of_schema(found: dict[str, Any], known: dict[str, Any], prefix: str) -> Iterator[Field]:
    """The same of a JSON Schema."""
    for name, given in found["properties"].items():
        if name == "schema":
            continue
        one = {**given, **_resolved(given, known)}
        inner = _resolved(one["items"], known) if "items" in one else one
        path = f"{prefix}{name}[]" if "items" in one else f"{prefix}{name}"
        types = _types(inner)
        yield Field(path, types, name not in found["required"], given.get("description", ""))
        for option in (inner, *inner.get("oneOf", ())):
            if "properties" in option:
                yield from _of_schema(option, known, f"{path}.")


def _resolved(found: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return known[found["$ref"].rpartition("/")[2]] if "$ref" in found else found


_NAMES = {str: "string", bool: "boolean", int: "integer", type(None): "null"}


def _types(found: dict[str, Any]) -> tuple[str, ...]:
    """The types that a schema allows, null last."""
    if "type" in found:
        named = found["type"] if isinstance(found["type"], list) else [found["type"]]
    elif "oneOf" in found:
        named = [name for option in found["oneOf"] for name in _types(option)]
    else:
        values = found["enum"] if "enum" in found else [found["const"]]
        named = [_NAMES[type(value)] for value in values]
    return tuple(sorted(dict.fromkeys(named), key=lambda name: name == "null"))
