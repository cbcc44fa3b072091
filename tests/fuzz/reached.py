"""Which lines of a parser its inputs reach, and whether its code is still what was fuzzed."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hvtx"
FUNCTION = 1  # CO_OPTIMIZED: bodies of modules and classes are not


class Reach(NamedTuple):
    """Lines that ran, of the lines of a parser's functions; and the modules that it went through."""

    hit: int
    lines: int
    missed: dict[str, list[int]]
    modules: list[str]


class Trace:
    """Lines of the program that run inside ``with``, by file."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = defaultdict(set)
        self._ours = str(PACKAGE) + "/"

    def _line(self, frame: FrameType, _event: str, _argument: object) -> Callable[..., Any]:
        self.lines[frame.f_code.co_filename].add(frame.f_lineno)
        return self._line

    def _call(self, frame: FrameType, _event: str, _argument: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(self._ours):
            return None
        return self._line(frame, "", None)

    def __enter__(self) -> None:
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


def _functions(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & FUNCTION:
                yield inner
            yield from _functions(inner)


@cache
def functions(module: str) -> list[CodeType]:
    """All functions of a module (``room.module``), those inside others too."""
    path = PACKAGE / (module.replace(".", "/") + ".py")
    return list(_functions(compile(path.read_text(), str(path), "exec")))


def _split(name: str) -> tuple[str, str]:
    """Module and function of ``room.module.function``; no function for a whole module."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        if (PACKAGE / ("/".join(words[:count]) + ".py")).exists():
            return ".".join(words[:count]), ".".join(words[count:])
    raise LookupError(name)


def _lines(code: CodeType) -> set[int]:
    return {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno}


def reach(covers: Iterable[str], ran: dict[str, set[int]]) -> Reach:
    """What ran of the functions in ``covers``, and of whatever else was entered in their modules."""
    named = [_split(name) for name in covers]
    wanted: dict[str, set[int]] = defaultdict(set)
    for module in {module for module, _ in named}:
        for code in functions(module):
            within = [name for place, name in named if place == module and name]
            asked = any(
                code.co_qualname == name or code.co_qualname.startswith(f"{name}.")
                for name in within
            )
            if asked or _lines(code) & ran.get(code.co_filename, set()):
                wanted[code.co_filename] |= _lines(code)
    hit = sum(len(lines & ran.get(path, set())) for path, lines in wanted.items())
    missed = {
        str(Path(path).relative_to(ROOT)): sorted(lines - ran.get(path, set()))
        for path, lines in wanted.items()
        if lines - ran.get(path, set())
    }
    modules = sorted(str(Path(path).relative_to(ROOT)) for path in ran)
    return Reach(hit, sum(map(len, wanted.values())), missed, modules)


def digest(modules: Iterable[str]) -> str:
    """Of the code of some modules, however it is laid out and commented; "" if one is gone."""
    found = hashlib.sha256()
    for module in modules:
        path = ROOT / module
        if not path.exists():
            return ""
        found.update(ast.dump(ast.parse(path.read_text())).encode())
    return found.hexdigest()[:16]
