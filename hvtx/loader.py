"""Modules of hvtx are found without a search: a command loads two hundred of them.

Python's own finder asks each of its kinds of loader, looks at the directory once more, and reads
the compiled file through two layers of files: a third of what it costs to load a module of ours.
Where one of hvtx's stands is known from its name. What is read is the same: the compiled file that
Python wrote beside the source, if it is of this Python and of the source as it is now (size and
modification time, as importlib compares them). Anything else is left to Python's own loader, which
compiles and refuses as ever. See docs/adr/0061.

What Python does around that (two locks of the module's own, the search through all finders, the
attributes one by one, the names that are imported from a package) costs five times as much again.
So ``import`` of a module of hvtx is carried out here, too, under one lock.
"""

from __future__ import annotations

import builtins
import sys
from _frozen_importlib import ModuleSpec  # importlib.machinery has them, and loads more
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader
from _thread import RLock
from collections.abc import Callable, Sequence
from marshal import loads
from os import O_CLOEXEC, O_RDONLY, close, read, stat
from os import open as open_file

from hvtx.model.typed import Any, be_short

_PACKAGE = "hvtx"
_BELOW = "hvtx."
_HEAD = 16  # magic, flags, modification time and size of the source: PEP 552, four bytes each
_MOST = 1 << 16  # bytes of a compiled file; a longer one is left to Python's own loader
_MASK = 0xFFFFFFFF
_Module = type(sys)


class _Loader(SourceFileLoader):
    """Python's own loader, which is asked only for what cannot be taken as it is."""

    def __init__(self, name: str, path: str, compiled: str, moment: float, size: int) -> None:
        """Of a source that was just looked at."""
        super().__init__(name, path)
        self._compiled = compiled
        self._moment, self._size = moment, size

    def compiled(self) -> Any:
        """The code of the module as it was compiled; None where that is another Python's work."""
        try:
            descriptor = open_file(self._compiled, O_RDONLY | O_CLOEXEC)
        except OSError:
            return None
        try:
            data = read(descriptor, _MOST)
        finally:
            close(descriptor)
        head = MAGIC_NUMBER + bytes(4)
        head += (int(self._moment) & _MASK).to_bytes(4, "little")
        head += (self._size & _MASK).to_bytes(4, "little")
        if len(data) < _MOST and data[:_HEAD] == head:
            code = loads(memoryview(data)[_HEAD:])  # noqa: S302 - what importlib itself would read
            # else it was compiled elsewhere, and is put right; or it is no code, and is refused
            if getattr(code, "co_filename", None) == self.path:
                return code
        return None

    def get_code(self, fullname: str) -> Any:
        """The code of the module; ImportError and SyntaxError as ever."""
        code = self.compiled()
        return super().get_code(fullname) if code is None else code


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


class Importer:
    """Carries ``import`` out for modules of hvtx, as importlib would; of others nothing changes.

    One lock for all of them: who asks for one that another thread loads waits until it is whole.
    """

    def __init__(self, finder: Finder, usual: Callable[..., Any]) -> None:
        """``usual`` is the function that has carried it out so far."""
        self._finder, self._usual = finder, usual
        self._lock = RLock()
        self._loading: set[str] = set()
        self._modules = sys.modules

    def imported(
        self,
        name: str,
        space: Any = None,
        local: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """What an ``import`` statement calls. ImportError, and what the module itself raises."""
        if (name[:5] != _BELOW and name != _PACKAGE) or level:
            return self._usual(name, space, local, fromlist, level)
        module = self._modules.get(name)
        if module is None or name in self._loading:
            with self._lock:
                module = self._loaded(name)
        if module is not None:
            if not fromlist:
                return self._modules[_PACKAGE]
            known = module.__dict__
            for one in fromlist:  # a generator for `all` would cost each of a thousand imports more
                if one not in known and not self._is_submodule(module, one):
                    break
            else:
                return module
        return self._usual(name, space, local, fromlist, level)

    def _is_submodule(self, module: Any, name: str) -> bool:
        """Whether it is a module below this one, which is loaded now."""
        if "__path__" not in module.__dict__:
            return False
        with self._lock:
            return self._loaded(f"{module.__name__}.{name}") is not None

    def _loaded(self, name: str) -> Any:
        """A module, whole but for a circle of imports; None where it is to be left to Python."""
        if name in self._modules:
            return self._modules[name]
        package, _, last = name.rpartition(".")
        above = self._loaded(package) if package else None
        within = getattr(above, "__path__", None)
        spec = self._finder.find_spec(name, within)
        if spec is None or name in self._modules:
            return self._modules.get(name)
        loader: Any = spec.loader
        # Compiled here, too, where it has to be: importlib would hold a lock of its own while the
        # module waits for this one, and another thread has this one while it waits for that.
        code = loader.get_code(name)
        module = _new(spec)
        self._run(module, code)
        module = self._modules[name]
        setattr(above, last, module)
        return module

    def _run(self, module: Any, code: Any) -> None:
        name, spec = module.__name__, module.__spec__
        spec._initializing = True  # noqa: SLF001 - what Python calls it by for a circle's error
        self._loading.add(name)  # first: who sees the module without the lock looks here next
        try:
            self._modules[name] = module
            exec(code, module.__dict__)  # noqa: S102 - as importlib does
        except BaseException:
            self._modules.pop(name, None)
            raise
        finally:
            self._loading.discard(name)
            spec._initializing = False  # noqa: SLF001


def _new(spec: Any) -> Any:
    """An empty module with the attributes that importlib gives it."""
    module: Any = _Module(spec.name)
    space = module.__dict__
    space["__loader__"] = spec.loader
    space["__package__"] = spec.parent
    space["__spec__"] = spec
    space["__file__"] = spec.origin
    space["__cached__"] = spec.cached
    if spec.submodule_search_locations is not None:
        space["__path__"] = spec.submodule_search_locations
    return module


def module_named(name: str) -> Any:
    """A module by its whole name, as `importlib.import_module` has it; that loads more itself."""
    __import__(name)
    return sys.modules[name]


def install() -> None:
    """Load modules of hvtx so from now on, where compiled files are where they usually are.

    For programs that end with their command, before they load more: their enumerations are light.
    """
    be_short()
    tag = sys.implementation.cache_tag
    if tag is None or sys.flags.optimize or sys.pycache_prefix:
        return
    finder = Finder(tag)
    sys.meta_path.insert(0, finder)  # for who asks importlib itself
    if "importtime" in sys._xoptions:  # noqa: SLF001 - documented: who measures is to see each
        return
    vars(builtins)["__import__"] = Importer(finder, builtins.__import__).imported
