"""What `hvtx` exports, to the letter: `surface.txt` beside this file is the promise (docs/library.md).

Where a name, an argument or a field is to come, the file says so first (HVTX_GOLDEN=write makes
it). Where one is to go or to change, that is a new major version.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import hvtx
from tests.structure.source import TOP

SURFACE = Path(__file__).with_name("surface.txt")
# What values have that is promised nobody: the program's own need of them.
INTERNAL = {
    "GcReport": {"snapshot"},
    "Item": {"entry", "more", "link", "alone", "rule"},
    "Plan": {"with_results", "with_judged"},
    "SetStep": {"wanted", "known", "identity"},
    "Vm": {"number", "interfaces", "limits", "policy", "ports"},
    "Resource": {
        *("id", "spec", "observed", "operation", "life", "ifindex", "backend", "role", "bridge"),
        *("is_service", "is_reservation", "imported", "guest", "addresses"),
    },
}
# Values whose methods are promised too.
CALLED = {"VmLog", "Import", "Plan"}


def _signature(name: str, thing: Any) -> str:
    return f"{name}{inspect.signature(thing)}".replace("'", "")


def _members(name: str, kind: type) -> Iterator[str]:
    """What of a class is promised: fields, properties and methods without an underscore."""
    notes = {word: _text(note) for word, note in vars(kind).get("__annotations__", {}).items()}
    fields = getattr(kind, "_fields", ())
    if issubclass(kind, Enum):
        yield from (f"  {member.name} = {member.value!r}" for member in kind)
    elif issubclass(kind, hvtx.HvtxError):
        yield f"  exit_code = {kind.exit_code}, code = {kind.code!r}"
    elif fields or issubclass(kind, dict):
        hidden = INTERNAL.get(name, set())
        yield from (f"  {word}: {note}" for word, note in notes.items() if word not in hidden)
        methods = _methods(kind, only=name not in CALLED)
        yield from (one for one in methods if re.split(r"\W+", one)[1] not in hidden)
    else:
        if kind is hvtx.Host:
            yield "  " + _signature("__init__", kind.__init__)
        yield from _methods(kind, only=False)


def _methods(kind: type, *, only: bool) -> Iterator[str]:
    """Its own properties, and its methods unless they are ``only`` wanted."""
    for word, member in vars(kind).items():
        if word.startswith("_") or word in getattr(kind, "_fields", ()):
            continue
        if isinstance(member, property):
            yield f"  {word} -> {_text(inspect.signature(member.fget).return_annotation)}"  # type: ignore[arg-type]
        elif isinstance(member, staticmethod) and not only:
            yield "  " + _signature(word, member.__func__)
        elif inspect.isfunction(member) and not only:
            yield "  " + _signature(word, member)


def _text(note: Any) -> str:
    """An annotation as it was written, without the modules of names."""
    words = getattr(note, "__forward_arg__", None) or (
        note.__name__ if isinstance(note, type) and not hasattr(note, "__args__") else str(note)
    )
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", words)


def surface() -> str:
    """Each public name with what it has."""
    lines = []
    for name in sorted(hvtx.__all__):
        if name == "__version__":
            lines.append("__version__: str")
            continue
        kind = getattr(hvtx, name)
        bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
        lines += [f"class {name}({bases})" if bases else f"class {name}", *_members(name, kind)]
    return "\n".join(lines) + "\n"


def test_the_surface_is_what_was_promised() -> None:
    if os.environ.get("HVTX_GOLDEN") == "write":
        SURFACE.write_text(surface())
    assert surface() == SURFACE.read_text()


def test_no_promise_is_hidden_that_is_not_there() -> None:
    for name, hidden in INTERNAL.items():
        assert hidden <= set(dir(getattr(hvtx, name)))


def _stub(path: str) -> set[str]:
    tree = ast.parse((TOP / path).read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_type_checkers_are_told_of_the_same_names() -> None:
    assert _stub("hvtx/__init__.pyi") == set(hvtx._AT)
    assert set(hvtx.__all__) == {"__version__", *hvtx._AT}
    assert dir(hvtx) == sorted(hvtx.__all__)
    listed = ast.parse((TOP / "hvtx/__init__.pyi").read_text()).body
    words = next(node.value for node in listed if isinstance(node, ast.Assign))
    assert ast.literal_eval(words) == hvtx.__all__


def test_type_checkers_are_told_of_every_verb() -> None:
    there = {path.stem for path in (TOP / "hvtx/commands").glob("*.py")} - {"__init__"}
    assert _stub("hvtx/commands/__init__.pyi") == there
    from hvtx import commands

    assert commands.vm_attach.__name__ == "hvtx.commands.vm_attach"
    with pytest.raises(AttributeError, match="no_such_verb"):
        _ = commands.no_such_verb  # type: ignore[attr-defined]


def test_the_package_says_that_it_is_typed() -> None:
    assert (TOP / "hvtx/py.typed").read_text() == ""


_QUIET = """
import sys
import hvtx
assert [name for name in sys.modules if name.startswith("hvtx.")] == [], sys.modules
from hvtx import Host, HvtxError
host = Host()
loaded = {name for name in sys.modules if name.split(".")[0] in ("click", "rich", "sqlite3")}
assert not loaded, loaded
assert "logging" not in sys.modules or not __import__("logging").root.handlers
import signal
handlers = [signal.getsignal(number) for number in signal.valid_signals()]
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert all(h in (signal.SIG_DFL, signal.SIG_IGN, None, signal.default_int_handler) for h in handlers)
for name in hvtx.__all__:
    getattr(hvtx, name)
assert "hvtx.cli" not in sys.modules and "click" not in sys.modules
assert all(h in (signal.SIG_DFL, signal.SIG_IGN, None, signal.default_int_handler) for h in handlers)
"""


def test_importing_it_does_nothing_to_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _QUIET], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
