"""What the laws count: each function gives, for one module, places and how often (pure)."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from tests.structure.source import TOP, Module, imported, last_name, length

Counts = Mapping[str, int]

MODULE_LINES, FUNCTION_LINES, CLASS_LINES = 400, 50, 250

_SQL = re.compile(
    r"\b(?:SELECT\b.+\bFROM|INSERT (?:OR \w+ )?INTO|UPDATE \w+ SET|DELETE FROM)\b"
    r"|\bWHERE \w+|^(?:\w+\.)?\w+ (?:=|IN|IS|<|>) ?(?:\?|\(SELECT|NOT NULL|NULL)", re.DOTALL,
)  # fmt: skip
_KERNEL_FILES = re.compile(r"/(?:proc|sys)(?:/|$)")
_SPLITS = frozenset({"split", "rsplit", "partition", "rpartition"})
_DOCUMENT = re.compile(r"hvtx/[a-z-]+/\d+")
# What changes the host: a method of `Links` and `LinkTraits`, or a function of a module of hvtx/host.
_CHANGES = re.compile(
    r"(?:links\.(?:change|rename|learn_no_link_local|guard|forget_neighbours|introduce)"
    r"|links\.silence|new_ports\.(?:equip|guard)|traits\.(?:set_port|set_bridge|turn_arp_on)|conntrack\.delete"
    r"|tun\.(?:create|attach|set_owner|set_persistent)|xtables\.edit|nfnetlink\.\w+\.batch"
    r"|channel\.batch|sysctl\.write|ForeignRules\(.*\)\.mark)$"
)
_CHANGING = frozenset(re.findall(r"\w+", _CHANGES.pattern))  # what such a call may be called
_DRIVERS = re.compile(r"driver|firewall")


def module_lines(module: Module) -> Counts:
    """Lines of a module that is too long."""
    return {module.path: module.lines} if module.lines > MODULE_LINES else {}


def function_lines(module: Module) -> Counts:
    """Lines of each function that is too long."""
    return {
        f"{module.path}:{name}": length(node)
        for name, node in module.functions
        if length(node) > FUNCTION_LINES
    }


def class_lines(module: Module) -> Counts:
    """Lines of each class that is too long."""
    return {
        f"{module.path}:{name}": length(node)
        for name, node in module.definitions
        if isinstance(node, ast.ClassDef) and length(node) > CLASS_LINES
    }


def sql_calls(module: Module) -> Counts:
    """Statements that are run outside the store."""
    if module.room == "store":
        return {}
    calls = (call.func for call in module.nodes(ast.Call) if isinstance(call.func, ast.Attribute))
    return _of(module, sum(
        node.attr in ("execute", "executemany", "executescript") and last_name(node.value) != "qemu"
        for node in calls
    ))  # fmt: skip


def sql_words(module: Module) -> Counts:
    """Strings outside the store that are SQL, or a condition of it."""
    if module.room == "store":
        return {}
    return _of(module, sum(bool(_SQL.search(text)) for text in module.strings()))


def kernel_files(module: Module) -> Counts:
    """Paths below /proc and /sys outside the room that speaks to the kernel."""
    if module.room == "host":
        return {}
    return _of(module, sum(bool(_KERNEL_FILES.match(text)) for text in module.strings()))


def place_splits(module: Module) -> Counts:
    """Text of a `place` that is taken apart: it is a value that was made text too early."""
    calls = (call.func for call in module.nodes(ast.Call) if isinstance(call.func, ast.Attribute))
    return _of(module, sum(
        node.attr in _SPLITS and last_name(node.value).rstrip("s") == "place" for node in calls
    ))  # fmt: skip


def families_by_colon(module: Module) -> Counts:
    """`":" in text`: an address whose family :mod:`hvtx.model.address` tells, or its holder."""
    if module.path == "model/address.py":
        return {}
    return _of(module, sum(
        isinstance(node.left, ast.Constant)
        and node.left.value == ":"
        and isinstance(node.ops[0], ast.In | ast.NotIn)
        for node in module.nodes(ast.Compare)
    ))  # fmt: skip


def lazy_imports(module: Module) -> Counts:
    """Imports of hvtx's own modules inside functions."""
    return _of(module, len(imports_in_functions(module, "hvtx")))


def imports_in_functions(module: Module, package: str = "") -> list[ast.stmt]:
    """Import statements inside functions, of one package or of any."""
    inside = {id(node) for _, outer in module.functions for node in ast.walk(outer)}
    return [
        node
        for node in module.imports()
        if id(node) in inside
        and (not package or any(n.partition(".")[0] == package for n in imported(node)))
    ]


def command_arrows(module: Module) -> Counts:
    """Commands that know another command, wherever they import it."""
    own = module.path.removesuffix(".py").rpartition("/")[2]
    if module.room != "commands":
        return {}
    others = {
        name.split(".")[2]
        for node in module.imports()
        for name in imported(node)
        if name.startswith("hvtx.commands.")
    }
    return {f"{own} > {other}": 1 for other in sorted(others - {own})}


def host_changes(module: Module) -> Counts:
    """Calls outside drivers and host that change the host."""
    if module.room in ("drivers", "host"):
        return {}
    calls = (call.func for call in module.nodes(ast.Call) if last_name(call.func) in _CHANGING)
    return _of(module, sum(bool(_CHANGES.search(ast.unparse(func))) for func in calls))


def driver_calls(module: Module) -> Counts:
    """Calls of a driver's `create` and `release`, of which one place is enough."""
    if module.room == "drivers":
        return {}
    calls = (call.func for call in module.nodes(ast.Call) if isinstance(call.func, ast.Attribute))
    return _of(module, sum(
        node.attr in ("create", "release") and bool(_DRIVERS.search(ast.unparse(node.value)))
        for node in calls
    ))  # fmt: skip


def documents(module: Module) -> Counts:
    """Names of schemas outside the room that makes JSON; in its modules, those beside the first."""
    found = [text for text in module.strings() if _DOCUMENT.fullmatch(text)]
    return _of(module, len(set(found)) - bool(found) if module.room == "documents" else len(found))


def runtime_parameters(module: Module) -> Counts:
    """Functions that are handed `runtime`, and may ask the store anew; added up by room."""
    found = sum(
        "runtime"
        in {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
        for _, node in module.functions
    )
    return {module.room: found} if found else {}


def impure_calls(module: Module) -> Counts:
    """Builtins in the pure rooms that reach outside."""
    if module.room not in ("planner", "model", "hypervisors", "rulesets"):
        return {}
    return _of(module, sum(
        isinstance(call.func, ast.Name) and call.func.id in ("open", "print", "input", "exec", "eval")
        for call in module.nodes(ast.Call)
    ))  # fmt: skip


def untested(module: Module) -> Counts:
    """Modules that no test has the name of; what is in `__init__.py` is its room's."""
    if module.path.endswith("__init__.py") or (TOP / test_of(module.path)).exists():
        return {}
    return {module.path: 1}


def test_of(path: str) -> str:
    """Where the test of a module belongs: below tests/, in the room of its name."""
    room, _, name = path.rpartition("/")
    return "/".join(part for part in ("tests", room, f"test_{name}") if part)


def spec_keys(module: Module) -> Counts:
    """Keys taken out of a row's `spec` or `observed`, dictionaries of anything.

    What a function of hvtx/model gives of a row has types, and so has a parameter that says so.
    """
    if module.room == "model":
        return {}
    untyped = {id(node) for _, outer in module.functions for node in _of_anything(outer)}
    taken = (node.value for node in module.nodes(ast.Subscript))
    asked = (
        call.func.value
        for call in module.nodes(ast.Call)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "get"
    )
    return _of(module, sum(
        last_name(value) in _DICTIONARIES and (isinstance(value, ast.Attribute) or id(value) in untyped)
        for value in (*taken, *asked)
    ))  # fmt: skip


_DICTIONARIES = frozenset({"spec", "observed"})
_ANYTHING = re.compile(r"\[str, Any\]$")  # by the row's number it is a mapping of many


def _of_anything(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """What is inside a function whose parameter `spec` or `observed` is a dictionary of anything."""
    every = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    if any(
        argument.arg in _DICTIONARIES
        and (argument.annotation is None or _ANYTHING.search(ast.unparse(argument.annotation)))
        for argument in every
    ):
        yield from ast.walk(function)


def _of(module: Module, count: int) -> Counts:
    return {module.path: count} if count else {}


def added(counts: list[Counts]) -> dict[str, int]:
    """Counts of all modules as one."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))
