"""The program in figures, for comparing what it was with what it is (pure but for the reading)."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from tests.structure import counts
from tests.structure.counts import Counts
from tests.structure.source import Function, Module, imported, length, modules

_LONGER = 3  # of what is too large, so many are named


def figures(top: Path) -> Iterator[tuple[str, str]]:
    """What is counted and how much of it there is, in a checkout; one line of the table each."""
    program = modules(top)
    functions = [(m, name, node) for m in program for name, node in m.functions]
    yield "modules, lines, functions", f"{len(program)}, {_lines(program)}, {len(functions)}"
    yield "modules > 400 / 500 / 700 lines", _over(_module_sizes(program), 400, 500, 700)
    yield "functions > 50 / 60 lines", _over(_sizes(program, Function), 50, 60)
    yield "classes > 250 lines", _over(_sizes(program, ast.ClassDef), 250)
    yield from _engine([module for module in program if module.room == "engine"])
    arrows = counts.added([counts.command_arrows(module) for module in program])
    yield "commands that import commands", str(len(arrows))
    yield "functions that take `runtime`", _sum(program, counts.runtime_parameters, "rooms")
    yield "SQL run outside store", _sum(program, counts.sql_calls)
    yield "SQL written outside store", _sum(program, counts.sql_words)
    yield "/proc and /sys outside host", _sum(program, counts.kernel_files)
    yield "host changed outside drivers", _sum(program, counts.host_changes)
    yield "calls of drivers' create, release", _sum(program, counts.driver_calls)
    yield "names of JSON schemas outside documents", _sum(program, counts.documents)
    yield '`":" in` text tells the family', _sum(program, counts.families_by_colon)
    yield "text of a `place` taken apart", _sum(program, counts.place_splits)
    yield "`row.spec[…]`, `.observed[…]`, `.get`", _sum(program, counts.spec_keys)
    inside = sum(len(counts.imports_in_functions(module)) for module in program)
    own = _sum(program, counts.lazy_imports)
    yield "imports inside functions; of hvtx's own", f"{inside}; {own}"
    yield from _tests(top, [m.path for m in program if not m.path.endswith("__init__.py")])


def _lines(program: Collection[Module]) -> int:
    return sum(module.lines for module in program)


def _module_sizes(program: Collection[Module]) -> dict[str, int]:
    return {module.path: module.lines for module in program}


def _sizes(program: Collection[Module], kind: object) -> dict[str, int]:
    """Lines of each function or class."""
    return {
        f"{module.path}:{name}": length(node)
        for module in program
        for name, node in module.definitions
        if isinstance(node, kind)  # type: ignore[arg-type]
    }


def _over(sizes: Mapping[str, int], *limits: int) -> str:
    """How many are over each limit, and the largest of them."""
    numbers = " / ".join(str(sum(size > limit for size in sizes.values())) for limit in limits)
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_LONGER]
    named = [f"{_short(name)} {sizes[name]}" for name in largest if sizes[name] > limits[0]]
    return f"{numbers}{': ' if named else ''}{', '.join(named)}"


def _short(name: str) -> str:
    return name.rpartition(":")[2].removesuffix(".py")


def _sum(program: Collection[Module], count: Callable[[Module], Counts], of: str = "files") -> str:
    found = counts.added([count(module) for module in program])
    return f"{sum(found.values())} in {len(found)} {of}"


def _engine(program: Collection[Module]) -> Iterator[tuple[str, str]]:
    names = {module.name: module for module in program if module.name != "hvtx.engine"}
    arrows = {
        name: {n for node in module.imports() for n in imported(node)} & names.keys() - {name}
        for name, module in names.items()
    }
    total = sum(map(len, arrows.values()))
    yield "engine: files, lines", f"{len(names)}, {_lines(program)}"
    yield "engine: arrows between its files", str(total)
    at_start = {
        name: {n for node in _at_start(module) for n in imported(node)} & names.keys() - {name}
        for name, module in names.items()
    }
    yield "engine: floors (imports at the top)", str(max(_floors(at_start).values(), default=0))
    host = [
        name
        for name, module in names.items()
        if any(n.startswith("hvtx.host") for node in module.imports() for n in imported(node))
    ]
    yield "engine: files that import host", f"{len(host)} of {len(names)}"


def _at_start(module: Module) -> list[ast.stmt]:
    inside = {id(node) for node in counts.imports_in_functions(module)}
    return [node for node in module.imports() if id(node) not in inside]


def _floors(arrows: Mapping[str, Collection[str]]) -> dict[str, int]:
    """The longest way down from each file, itself counted; a circle is one floor."""
    found: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...]) -> int:
        if name not in found:
            below = [floor(n, (*above, name)) for n in arrows[name] if n not in above]
            found[name] = 1 + max(below, default=0)
        return found[name]

    for name in arrows:
        floor(name, ())
    return found


def _tests(top: Path, paths: Collection[str]) -> Iterator[tuple[str, str]]:
    named = [path for path in paths if (top / counts.test_of(path)).exists()]
    yield "modules with a test of their name", f"{len(named)} of {len(paths)}"
    for folder in ("tests", "integration"):
        files = sorted((top / folder).rglob("test_*.py"))
        found = [
            node
            for path in files
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, Function) and node.name.startswith("test_")
        ]
        yield f"{folder}/: files of tests, functions", f"{len(files)}, {len(found)}"
