"""Users who could change the program that root runs at boot, or a module that it imports.

Whoever may write any of it becomes root with the next boot or the next hour, so `systemd install`
asks this before it writes a unit.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence

from hvtx.host import paths, program, trust

_IMPORTED = (".py", ".pyc", ".so", ".pth", ".zip")


def problem_of_program(words: Sequence[str]) -> str | None:
    """Why others could change what runs as ``words`` (a path first); None if nobody could.

    Looks at the program, its interpreter, this interpreter, and everything on the module path.
    """
    for path in _programs(words):
        if (problem := _of(path)) is not None:
            return problem
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for directory in _directories(words):
        if (problem := _of_tree(directory, deep=directory not in _beside(words))) is not None:
            return problem
    return _of_tree(package, deep=True, everything=True) or _of_modules()


def _of(path: str) -> str | None:
    try:
        problem = paths.problem(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"it cannot be inspected: {error.strerror}"
    return None if problem is None else f"{path}: {problem}"


def _programs(words: Sequence[str]) -> Iterator[str]:
    """Every file that is executed, and what tells an interpreter where its modules are."""
    yield words[0]
    yield from program.interpreters(words[0])
    yield sys.executable
    yield os.path.join(sys.prefix, "pyvenv.cfg")


def _beside(words: Sequence[str]) -> tuple[str, ...]:
    """The directory of a script, which comes first on the module path."""
    return (os.path.dirname(words[0]), os.path.dirname(os.path.realpath(words[0])))


def _directories(words: Sequence[str]) -> list[str]:
    """The module path; not where `python -m` was called, since a unit is called elsewhere."""
    here = os.getcwd() if len(words) > 1 else None
    found = [os.path.abspath(path) for path in sys.path if path]
    return [path for path in dict.fromkeys(found) if path != here and os.path.exists(path)]


def _of_tree(top: str, *, deep: bool, everything: bool = False) -> str | None:
    """The first thing in a directory of modules that others could change, or add to."""
    if (problem := _of(top)) is not None:
        return problem
    todo = [top]
    while todo:
        directory = todo.pop()
        if not os.path.isdir(directory):
            continue
        if (problem := trust.open_to_others(os.stat(directory), directory)) is not None:
            return f"{directory}: {problem}"  # sticky or not: a new module is enough
        with os.scandir(directory) as entries:
            for entry in entries:
                seen = entry.stat(follow_symlinks=False)
                is_directory = stat.S_ISDIR(seen.st_mode)
                if not (is_directory or everything or entry.name.endswith(_IMPORTED)):
                    continue
                problem = _of_entry(entry.path, seen)
                if problem is not None:
                    return problem
                if deep and is_directory and (everything or _holds_code(entry.name)):
                    todo.append(entry.path)
    return None


def _holds_code(name: str) -> bool:
    """Whether a directory of this name can be a package, or has the libraries of a wheel.

    A checkout on the module path has others: its caches are not looked through.
    """
    return name.isidentifier() or name.endswith(".libs")


def _of_entry(path: str, seen: os.stat_result) -> str | None:
    """Something in a directory that is known to be safe."""
    if stat.S_ISLNK(seen.st_mode):
        return _of(path)
    problem = trust.problem_of(seen, path)
    return None if problem is None else f"{path}: {problem}"


def _of_modules() -> str | None:
    """Modules that came from elsewhere than the module path: of an editable install, say."""
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    directories = {os.path.dirname(file) for file in files if isinstance(file, str)}
    for directory in sorted(directories):
        if (problem := _of_tree(directory, deep=False)) is not None:
            return problem
    return None
