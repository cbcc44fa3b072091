"""The program's source as values: modules, their functions and classes, their strings."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

TOP = Path(__file__).resolve().parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef
Node = TypeVar("Node", bound=ast.AST)


@dataclass(frozen=True, eq=False)
class Module:
    """One file of the program; `path` is below hvtx/, as in `commands/vm_start.py`."""

    path: str
    text: str
    tree: ast.Module = field(init=False, repr=False)
    _nodes: dict[type, list[Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Parse and walk it once: every count asks the same nodes."""
        object.__setattr__(self, "tree", ast.parse(self.text))
        nodes: dict[type, list[ast.AST]] = defaultdict(list)
        for node in ast.walk(self.tree):
            nodes[type(node)].append(node)
        object.__setattr__(self, "_nodes", nodes)

    def nodes(self, kind: type[Node]) -> list[Node]:
        """All of exactly one kind: `ast.Call`."""
        return self._nodes.get(kind, [])

    @property
    def room(self) -> str:
        """The first folder below hvtx/; empty for the files beside the rooms."""
        return self.path.partition("/")[0] if "/" in self.path else ""

    @property
    def name(self) -> str:
        """As Python imports it: `hvtx.commands.vm_start`."""
        parts = ("hvtx", *self.path.removesuffix(".py").split("/"))
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def lines(self) -> int:
        """As `wc -l` counts them."""
        return self.text.count("\n")

    def imports(self) -> list[ast.stmt]:
        """Its import statements, wherever they stand."""
        return [*self.nodes(ast.Import), *self.nodes(ast.ImportFrom)]

    def strings(self) -> Iterator[str]:
        """Every string that the program uses: parts of f-strings too, docstrings not."""
        told = {id(node.value) for node in self.nodes(ast.Expr)}
        for node in self.nodes(ast.Constant):
            if isinstance(node.value, str) and id(node) not in told:
                yield node.value

    @cached_property
    def definitions(self) -> tuple[tuple[str, Definition], ...]:
        """Functions and classes with their dotted names: `Operation.commit`."""
        return tuple(_within(self.tree, ""))

    @property
    def functions(self) -> Iterator[tuple[str, Function]]:
        """The functions among them, methods too."""
        return ((name, node) for name, node in self.definitions if isinstance(node, Function))


def _within(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield prefix + child.name, child
            yield from _within(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _within(child, prefix)


def length(node: Definition) -> int:
    """Lines from `def` or `class` to the last one; decorators do not count."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def last_name(node: ast.expr) -> str:
    """What an expression is called: `rule.place` is `place`, `self._links` is `_links`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def imported(node: ast.AST) -> tuple[str, ...]:
    """The modules that an import statement may name: `from a import b` names a and a.b."""
    if isinstance(node, ast.Import):
        return tuple(alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    return ()


def modules(top: Path) -> tuple[Module, ...]:
    """Every module of hvtx in a checkout, but the one that the build writes."""
    return tuple(
        Module(source.relative_to(top / "hvtx").as_posix(), source.read_text())
        for source in sorted((top / "hvtx").rglob("*.py"))
        if source.name != "_version.py"
    )


@cache
def program() -> tuple[Module, ...]:
    """The modules of this checkout; read once, for all that is asked of them."""
    return modules(TOP)
