"""Modules of hvtx are found without a search: a command loads two hundred of them.

Python's own finder asks each of its kinds of loader, looks at the directory once more, and reads
the compiled file through two layers of files: a third of what it costs to load a module of ours.
Where one of hvtx's stands is known from its name. What is read is the same: the compiled file that
Python wrote beside the source, if it is of this Python and of the source as it is now (size and
modification time, as importlib compares them). Anything else is left to Python's own loader, which
compiles and refuses as ever. See docs/adr/0061.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from marshal import loads
from os import O_CLOEXEC, O_RDONLY, close, read, stat
from os import open as open_file

from hvtx.model.typed import Any

_PACKAGE = "hvtx"
_HEAD = 16  # magic, flags, modification time and size of the source: PEP 552, four bytes each
_MOST = 1 << 16  # bytes of a compiled file; a longer one is left to Python's own loader
_MASK = 0xFFFFFFFF


def _magic() -> bytes:
    """What a compiled file of this Python begins with; empty where that cannot be told."""
    try:  # importlib.util has the same number, and is dear to load
        from importlib._bootstrap_external import MAGIC_NUMBER
    except ImportError:
        return b""
    return MAGIC_NUMBER


_MAGIC = _magic()


class _Loader(SourceFileLoader):
    """Python's own loader, which is asked only for what cannot be taken as it is."""

    def __init__(self, name: str, path: str, compiled: str, moment: float, size: int) -> None:
        """Of a source that was just looked at."""
        super().__init__(name, path)
        self._compiled = compiled
        self._head = _MAGIC + bytes(4)
        self._head += (int(moment) & _MASK).to_bytes(4, "little")
        self._head += (size & _MASK).to_bytes(4, "little")

    def get_code(self, fullname: str) -> Any:
        """The code of the module; ImportError and SyntaxError as ever."""
        try:
            descriptor = open_file(self._compiled, O_RDONLY | O_CLOEXEC)
        except OSError:
            return super().get_code(fullname)
        try:
            data = read(descriptor, _MOST)
        finally:
            close(descriptor)
        if len(data) < _MOST and data[:_HEAD] == self._head:
            code = loads(memoryview(data)[_HEAD:])  # noqa: S302 - what importlib itself would read
            if code.co_filename == self.path:  # else it was compiled elsewhere, and is put right
                return code
        return super().get_code(fullname)


class Finder:
    """Finds the modules of hvtx by their names alone."""

    def __init__(self, tag: str) -> None:
        """``tag`` is what this Python calls its compiled files by."""
        self._end = f".{tag}.pyc"

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: Any = None,  # noqa: ARG002 - importlib tells it where a module is loaded again
    ) -> ModuleSpec | None:
        """A module below hvtx; None for all others, which are sought as ever."""
        package, _, name = fullname.rpartition(".")
        if not path or package.partition(".")[0] != _PACKAGE:
            return None
        directory = path[0]
        try:
            source = f"{directory}/{name}.py"
            seen = stat(source)
            within = None
        except OSError:
            try:
                within = f"{directory}/{name}"
                directory, name = within, "__init__"
                source = f"{directory}/{name}.py"
                seen = stat(source)
            except OSError:
                return None
        compiled = f"{directory}/__pycache__/{name}{self._end}"
        loader = _Loader(fullname, source, compiled, seen.st_mtime, seen.st_size)
        spec = ModuleSpec(fullname, loader, origin=source, is_package=within is not None)
        spec.has_location = True
        spec.cached = compiled
        if within is not None and spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(within)
        return spec


def install() -> None:
    """Find modules of hvtx so from now on, where compiled files are where they usually are."""
    tag = sys.implementation.cache_tag
    if not _MAGIC or tag is None or sys.flags.optimize or sys.pycache_prefix:
        return
    sys.meta_path.insert(0, Finder(tag))
